//! What the agent is asked, from what the CRI layer says.

use std::net::IpAddr;

use bulkhead_agent_api::agent;
use serde_json::Value;

use super::state::{ContainerState, User};
use crate::{
    error::{Error, ErrorKind, Result},
    spec::{ContainerSpec, ExecSpec, Interface, SandboxSpec, WindowSize},
    vmm::config::mac_text,
};

/// Serial of the scratch disk.
pub(crate) const SCRATCH: &str = "scratch";

/// ConfigureSandbox for a pod, but for the time: that is read when it is sent.
pub(crate) fn configure(spec: &SandboxSpec) -> agent::ConfigureSandboxRequest {
    agent::ConfigureSandboxRequest {
        hostname: spec.hostname.clone(),
        dns: Some(agent::Dns {
            servers: spec.dns.servers.clone(),
            searches: spec.dns.searches.clone(),
            options: spec.dns.options.clone(),
            ..Default::default()
        })
        .into(),
        interfaces: spec.interfaces.iter().map(interface).collect(),
        // A host pod's writable layers are in a directory.
        scratch_serial: match spec.host {
            Some(_) => String::new(),
            None => SCRATCH.to_owned(),
        },
        sysctls: spec.sysctls.clone().into_iter().collect(),
        ..Default::default()
    }
}

fn interface(interface: &Interface) -> agent::Interface {
    let cidr = |(address, prefix): &(IpAddr, u8)| format!("{address}/{prefix}");
    agent::Interface {
        mac: mac_text(interface.mac),
        name: interface.name.clone(),
        mtu: interface.mtu,
        addresses: interface.addresses.iter().map(cidr).collect(),
        routes: interface
            .routes
            .iter()
            .map(|(destination, prefix, gateway)| agent::Route {
                destination: format!("{destination}/{prefix}"),
                gateway: gateway.map(|g| g.to_string()).unwrap_or_default(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// What is kept of a container for its execs.
pub(crate) fn container_state(spec: &ContainerSpec) -> Result<ContainerState> {
    let process = spec.oci.process().as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidArgument,
            "the container's OCI specification has no process",
        )
    })?;
    Ok(ContainerState {
        terminal: process.terminal().unwrap_or(false),
        stdin_once: spec.stdin_once,
        process: serde_json::to_value(process).map_err(|e| not_json(&e))?,
        raw_env: spec.raw_env.clone(),
        user: User {
            spec: spec.user.clone(),
            gid: spec.gid,
            supplemental_groups: spec.supplemental_groups.clone(),
            strict_groups: spec.strict_groups,
        },
    })
}

/// CreateContainer.
pub(crate) fn create(
    spec: &ContainerSpec,
    state: &ContainerState,
    serials: Vec<String>,
) -> Result<agent::CreateContainerRequest> {
    Ok(agent::CreateContainerRequest {
        container_id: spec.container_id.clone(),
        layer_serials: serials,
        oci_spec: serde_json::to_vec(&spec.oci).map_err(|e| not_json(&e))?,
        user: Some(user(&state.user)).into(),
        share_pid_with_pod: spec.share_pid_with_pod,
        share_pid_with: spec.share_pid_with.clone().unwrap_or_default(),
        share_pid_with_host: spec.share_pid_with_host,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        readonly_rootfs: spec.readonly_rootfs,
        raw_env: state.raw_env.clone(),
        window: spec.window.map(window).into(),
        ..Default::default()
    })
}

/// Exec: the container's own process with what the caller changes.
pub(crate) fn exec(spec: &ExecSpec, container: &ContainerState) -> Result<agent::ExecRequest> {
    if spec.args.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "an exec without a command",
        ));
    }
    let mut process = container.process.clone();
    if let Value::Object(fields) = &mut process {
        fields.insert("args".to_owned(), Value::from(spec.args.clone()));
        fields.insert("terminal".to_owned(), Value::from(spec.terminal));
        fields.remove("consoleSize");
        if let Some(env) = &spec.env {
            fields.insert("env".to_owned(), Value::from(env.clone()));
        }
        if let Some(cwd) = &spec.cwd {
            fields.insert("cwd".to_owned(), Value::from(cwd.clone()));
        }
    }
    let raw_env = match spec.env {
        Some(_) => Vec::new(),
        None => container.raw_env.clone(),
    };
    Ok(agent::ExecRequest {
        container_id: spec.process.container_id.clone(),
        exec_id: spec.process.exec_id.clone(),
        oci_process: serde_json::to_vec(&process).map_err(|e| not_json(&e))?,
        user: Some(user(&container.user)).into(),
        stdin: spec.stdin,
        // An exec has one client; when that goes, its stdin ends.
        stdin_once: spec.stdin,
        raw_env,
        window: spec.window.map(window).into(),
        ..Default::default()
    })
}

fn user(user: &User) -> agent::User {
    agent::User {
        spec: user.spec.clone(),
        has_gid: user.gid.is_some(),
        gid: user.gid.unwrap_or(0),
        supplemental_groups: user.supplemental_groups.clone(),
        strict_groups: user.strict_groups,
        ..Default::default()
    }
}

fn window(window: WindowSize) -> agent::WindowSize {
    agent::WindowSize {
        rows: window.rows,
        columns: window.columns,
        ..Default::default()
    }
}

fn not_json(e: &serde_json::Error) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("the OCI specification cannot be encoded: {e}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ProcessId;

    #[test]
    fn an_exec_is_the_containers_process_with_another_command() {
        let container = ContainerState {
            terminal: true,
            stdin_once: false,
            process: serde_json::json!({
                "args": ["server"], "cwd": "/srv", "env": ["A=1"], "terminal": true,
                "noNewPrivileges": true, "consoleSize": {"height": 1, "width": 1},
            }),
            raw_env: vec![b"B=\xff".to_vec()],
            user: User {
                spec: "web".into(),
                gid: Some(0),
                ..Default::default()
            },
        };
        let spec = ExecSpec {
            process: ProcessId {
                container_id: "c".into(),
                exec_id: "e".into(),
            },
            args: vec!["true".into()],
            env: None,
            cwd: Some("/".into()),
            terminal: false,
            stdin: true,
            window: None,
        };
        let request = exec(&spec, &container).unwrap();
        let process: Value = serde_json::from_slice(&request.oci_process).unwrap();
        assert_eq!(
            process,
            serde_json::json!({
                "args": ["true"], "cwd": "/", "env": ["A=1"], "terminal": false,
                "noNewPrivileges": true,
            })
        );
        assert_eq!(request.raw_env, [b"B=\xff"]);
        assert!(request.stdin_once && request.user.has_gid);
        assert_eq!(request.user.spec, "web");
        let none = ExecSpec {
            args: Vec::new(),
            ..spec
        };
        assert_eq!(
            exec(&none, &container).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }
}
