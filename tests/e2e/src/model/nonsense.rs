//! Requests that make no sense: missing, huge, contradictory and hostile fields.
//!
//! Each must be refused with a code that says whose fault it is, and change
//! nothing; the model then compares as after any other operation.

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_cri_api::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use tonic::{Code, Status, transport::Channel};

/// A code that tells the client that it asked for something wrong.
pub(super) fn is_a_refusal(status: &Status) -> Result<()> {
    ensure!(
        matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::AlreadyExists
                | Code::OutOfRange
                | Code::ResourceExhausted
        ),
        "refused as {:?}: {}",
        status.code(),
        status.message()
    );
    ensure!(!status.message().is_empty(), "refused without a word");
    Ok(())
}

/// How a pod's configuration is spoilt.
const PODS: &[fn(&mut cri::PodSandboxConfig)] = &[
    |config| config.metadata = None,
    |config| metadata(config).name = String::new(),
    |config| metadata(config).name = "../../etc/passwd".to_owned(),
    |config| metadata(config).namespace = "a\0b".to_owned(),
    |config| metadata(config).uid = "u".repeat(100_000),
    |config| config.hostname = "not a name".to_owned(),
    |config| config.hostname = "x".repeat(65),
    |config| {
        config.labels.insert("k".to_owned(), "v".repeat(10 << 20));
    },
    |config| {
        let many = (0..100_000).map(|n| (format!("key-{n}"), String::new()));
        config.annotations.extend(many);
    },
    |config| dns(config).servers = vec!["not\nan address".to_owned()],
    |config| dns(config).searches = (0..1000).map(|n| format!("d{n}.local")).collect(),
    |config| linux(config).cgroup_parent = "/../../escape".to_owned(),
    |config| {
        let sysctl = ("../../proc/sys/kernel/core_pattern", "|/bin/sh");
        let sysctls = &mut linux(config).sysctls;
        sysctls.insert(sysctl.0.to_owned(), sysctl.1.to_owned());
    },
    |config| {
        let security = linux(config).security_context.get_or_insert_default();
        security.run_as_group = Some(cri::Int64Value { value: 5 });
    },
];

/// How a container's configuration is spoilt.
const CONTAINERS: &[fn(&mut cri::ContainerConfig)] = &[
    |config| config.metadata = None,
    |config| config.image = None,
    |config| {
        config.image = Some(cri::ImageSpec {
            image: "localhost/no/such:image".to_owned(),
            ..Default::default()
        });
    },
    |config| {
        config.image = Some(cri::ImageSpec {
            image: "../../../etc/passwd".to_owned(),
            ..Default::default()
        });
    },
    |config| config.log_path = "../../../../etc/cron.d/x".to_owned(),
    |config| config.log_path = "/etc/cron.d/x".to_owned(),
    |config| config.args = vec!["a\0b".to_owned()],
    |config| config.args = vec!["x".repeat(3 << 20)],
    |config| config.working_dir = "relative/../..".to_owned(),
    |config| {
        config.envs = vec![cri::KeyValue {
            key: "A=B".to_owned(),
            value: "c".into(),
        }];
    },
    |config| {
        config.labels.insert("k".to_owned(), "v".repeat(10 << 20));
    },
    |config| {
        let context = security(config);
        context.run_as_user = Some(cri::Int64Value { value: -1 });
    },
    |config| {
        let context = security(config);
        context.run_as_user = Some(cri::Int64Value { value: 1 << 40 });
    },
    |config| security(config).run_as_username = "nobody-has-this-name".to_owned(),
    |config| security(config).supplemental_groups = vec![-5],
    |config| {
        let capabilities = security(config).capabilities.get_or_insert_default();
        capabilities.add_capabilities = vec!["CAP_NONSENSE".to_owned()];
    },
    |config| {
        let context = security(config);
        context.namespace_options = Some(cri::NamespaceOption {
            pid: 77,
            ..Default::default()
        });
    },
];

fn metadata(config: &mut cri::PodSandboxConfig) -> &mut cri::PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn dns(config: &mut cri::PodSandboxConfig) -> &mut cri::DnsConfig {
    config.dns_config.get_or_insert_default()
}

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

/// Sends one of them. `pod` is a pod that may be there, `run` a request for one.
pub(super) async fn send(
    mut client: RuntimeServiceClient<Channel>,
    which: u64,
    pod: &str,
    mut run: cri::RunPodSandboxRequest,
) -> Result<()> {
    let pick = |count: usize| usize::try_from(which >> 8).unwrap_or(0) % count;
    let config = run.config.as_mut().context("no configuration")?;
    let (what, result) = match which % 6 {
        0 => {
            let spoil = PODS.get(pick(PODS.len())).context("none")?;
            // A key of its own: not the configuration of a pod that is there.
            metadata(config).uid = "nonsense".to_owned();
            spoil(config);
            ("a spoilt pod", client.run_pod_sandbox(run).await.map(drop))
        }
        1 => {
            run.runtime_handler = "no-such-handler".to_owned();
            metadata(config).uid = "nonsense".to_owned();
            let result = client.run_pod_sandbox(run).await;
            ("an unknown handler", result.map(drop))
        }
        2 | 3 => {
            let spoil = CONTAINERS.get(pick(CONTAINERS.len())).context("none")?;
            let mut container = bulkhead_e2e::pod::container_config("nonsense", "true");
            spoil(&mut container);
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: pod.to_owned(),
                config: Some(container),
                sandbox_config: run.config,
            };
            let result = client.create_container(request).await;
            ("a spoilt container", result.map(drop))
        }
        4 => {
            // None is the beginning of an id: that would do for the whole.
            let ids = ["", "..", "no such id", "\0", "%s", "0x"];
            let id = ids.get(pick(ids.len())).copied().unwrap_or_default();
            let request = cri::StartContainerRequest {
                container_id: id.to_owned(),
            };
            let result = client.start_container(request).await;
            ("an id that nobody has", result.map(drop))
        }
        _ => {
            let request = cri::ExecSyncRequest {
                container_id: pod.to_owned(),
                cmd: Vec::new(),
                timeout: -1,
            };
            let result = client.exec_sync(request).await;
            ("a pod's id for a container's", result.map(drop))
        }
    };
    match result {
        Ok(()) => bail!("{what} ({which}) was accepted"),
        Err(status) => is_a_refusal(&status).with_context(|| format!("{what} ({which})")),
    }
}
