//! Bounds on what a client may send. Pure.
//!
//! A request is at most 16 MiB already. What is kept of it, in memory and on disk
//! for as long as a pod lives, is bounded far below that; what becomes a C string
//! in a guest has no NUL in it.

use std::collections::BTreeMap;

use bulkhead_cri_api::v1;
use bulkhead_streaming::Standard;

use crate::{
    error::{Error, Result},
    pods::{cgroup, model::Container, oci, ports},
    store::ContainerPhase,
};

/// Longest name of a pod, namespace, container, bytes (DNS subdomain: 253).
const NAME_MAX: usize = 253;
/// Most labels, most annotations.
const PAIRS_MAX: usize = 4096;
/// Longest key: a prefix of 253, a slash and a name of 63, with room.
const KEY_MAX: usize = 512;
/// Most bytes of all labels, of all annotations (Kubernetes allows 256 KiB).
const PAIRS_BYTES_MAX: usize = 1024 * 1024;
/// Most words of a command, most environment variables.
const WORDS_MAX: usize = 16 * 1024;
/// Most bytes of them: the kernel's own limit for a program's start is 2 MiB with
/// the usual stack (execve(2)).
const WORDS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest path (PATH_MAX, limits.h).
const PATH_MAX: usize = 4096;
/// Most entries of each list in a DNS configuration.
const DNS_MAX: usize = 64;
/// Most of anything else that comes in lists.
const LIST_MAX: usize = 1024;

/// The streams of an exec or attach: at least one, and with a terminal no standard
/// error, since a terminal has one output.
pub(super) fn streams(streams: Standard) -> Result<()> {
    let Standard {
        stdin,
        stdout,
        stderr,
        tty,
    } = streams;
    if !stdin && !stdout && !stderr {
        return Err(Error::invalid(
            "none of stdin, stdout and stderr is asked for: ask for at least one",
        ));
    }
    if tty && stderr {
        return Err(Error::invalid(
            "tty and stderr exclude each other: a terminal has one output, which is stdout",
        ));
    }
    Ok(())
}

/// Whether a container is in a phase that the call needs.
pub(super) fn running(container: &Container, phases: &[ContainerPhase]) -> Result<()> {
    let phase = container.record().phase;
    if phases.contains(&phase) {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "container {} is not running: it is in phase {phase:?}",
        container.id
    )))
}

pub(super) fn pod(config: &v1::PodSandboxConfig) -> Result<()> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Error::invalid("the configuration has no metadata"))?;
    name("metadata.name", &metadata.name)?;
    name("metadata.namespace", &metadata.namespace)?;
    name("metadata.uid", &metadata.uid)?;
    pairs("labels", &config.labels)?;
    pairs("annotations", &config.annotations)?;
    text("log_directory", &config.log_directory, PATH_MAX)?;
    hostname(&config.hostname)?;
    if let Some(dns) = &config.dns_config {
        for (what, list) in [
            ("servers", &dns.servers),
            ("searches", &dns.searches),
            ("options", &dns.options),
        ] {
            list_of(&format!("dns_config.{what}"), list, DNS_MAX, NAME_MAX)?;
            // Each is a word of a line in resolv.conf.
            if list
                .iter()
                .any(|it| it.chars().any(|c| c.is_whitespace() || c.is_control()))
            {
                return Err(Error::invalid(format!(
                    "dns_config.{what} has a blank in it"
                )));
            }
        }
    }
    ports::host_ports(&config.port_mappings)?;
    let linux = config.linux.clone().unwrap_or_default();
    cgroup::parent_path(&linux.cgroup_parent)?;
    if linux.sysctls.len() > LIST_MAX {
        return Err(Error::invalid(format!("more than {LIST_MAX} sysctls")));
    }
    for (key, value) in &linux.sysctls {
        sysctl(key, value)?;
    }
    if let Some(security) = &linux.security_context {
        if security.run_as_group.is_some() && security.run_as_user.is_none() {
            return Err(Error::invalid("run_as_group is given without run_as_user"));
        }
        if let Some(options) = &security.namespace_options {
            oci::check_namespaces(options)?;
        }
    }
    Ok(())
}

pub(super) fn container(config: &v1::ContainerConfig) -> Result<()> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Error::invalid("the configuration has no metadata"))?;
    name("metadata.name", &metadata.name)?;
    let image = config
        .image
        .as_ref()
        .ok_or_else(|| Error::invalid("the configuration has no image"))?;
    text("image", &image.image, PATH_MAX)?;
    pairs("image.annotations", &image.annotations)?;
    pairs("labels", &config.labels)?;
    pairs("annotations", &config.annotations)?;
    text("log_path", &config.log_path, PATH_MAX)?;
    text("working_dir", &config.working_dir, PATH_MAX)?;
    let words = config.command.iter().chain(&config.args);
    bounded_words("command and args", words.map(String::as_bytes))?;
    let names = config.envs.iter().map(|it| it.key.as_bytes());
    bounded_words(
        "envs",
        names.chain(config.envs.iter().map(|it| it.value.as_ref())),
    )?;
    for (what, count) in [
        ("mounts", config.mounts.len()),
        ("devices", config.devices.len()),
        ("CDI_devices", config.cdi_devices.len()),
    ] {
        if count > LIST_MAX {
            return Err(Error::invalid(format!("more than {LIST_MAX} {what}")));
        }
    }
    let linux = config.linux.clone().unwrap_or_default();
    if let Some(security) = &linux.security_context {
        for (what, list) in [
            ("masked_paths", &security.masked_paths),
            ("readonly_paths", &security.readonly_paths),
        ] {
            list_of(what, list, LIST_MAX, PATH_MAX)?;
        }
        if let Some(it) = &security.capabilities {
            for list in [
                &it.add_capabilities,
                &it.drop_capabilities,
                &it.add_ambient_capabilities,
            ] {
                list_of("capabilities", list, LIST_MAX, NAME_MAX)?;
            }
        }
    }
    Ok(())
}

/// Limits that are to hold. What the guest makes of their values is the guest's.
pub(super) fn resources(limits: &v1::LinuxContainerResources) -> Result<()> {
    for (what, value) in [
        ("cpu_period", limits.cpu_period),
        ("cpu_shares", limits.cpu_shares),
    ] {
        if value < 0 {
            return Err(Error::invalid(format!("{what} {value} is negative")));
        }
    }
    if limits.memory_limit_in_bytes < -1 {
        return Err(Error::invalid(format!(
            "memory_limit_in_bytes {} is negative; -1 means no limit",
            limits.memory_limit_in_bytes
        )));
    }
    text("cpuset_cpus", &limits.cpuset_cpus, NAME_MAX)?;
    text("cpuset_mems", &limits.cpuset_mems, NAME_MAX)?;
    pairs("unified", &limits.unified)?;
    if limits.hugepage_limits.len() > LIST_MAX {
        return Err(Error::invalid(format!(
            "more than {LIST_MAX} hugepage_limits"
        )));
    }
    Ok(())
}

/// A command to run.
pub(super) fn command(what: &str, words: &[String]) -> Result<()> {
    if words.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(format!(
            "{what} is empty: it names no program"
        )));
    }
    bounded_words(what, words.iter().map(String::as_bytes))
}

fn bounded_words<'a>(what: &str, words: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let (mut count, mut bytes) = (0, 0);
    for word in words {
        count += 1;
        bytes += word.len() + 1;
        if word.contains(&0) {
            return Err(Error::invalid(format!("{what}: a NUL byte")));
        }
    }
    if count > WORDS_MAX || bytes > WORDS_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{what}: {count} words of {bytes} bytes are more than the {WORDS_MAX} words or \
             {WORDS_BYTES_MAX} bytes that a program can be started with"
        )));
    }
    Ok(())
}

/// A name that can be one segment of a path, as the API server has it for every object
/// (Kubernetes, "Object Names and IDs": path segment names): clients make files and
/// URLs of names.
fn name(what: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid(format!("{what} is empty")));
    }
    text(what, value, NAME_MAX)?;
    if matches!(value, "." | "..") || value.contains(['/', '%']) {
        return Err(Error::invalid(format!(
            "{what} {value:?} must be no \".\" or \"..\", and be without \"/\" and \"%\""
        )));
    }
    Ok(())
}

fn text(what: &str, value: &str, max: usize) -> Result<()> {
    if value.len() > max {
        return Err(Error::invalid(format!(
            "{what} has {} bytes, more than {max}",
            value.len()
        )));
    }
    if value.contains('\0') {
        return Err(Error::invalid(format!("{what} has a NUL byte in it")));
    }
    Ok(())
}

fn list_of(what: &str, list: &[String], count: usize, length: usize) -> Result<()> {
    if list.len() > count {
        return Err(Error::invalid(format!(
            "{what} has {} entries, more than {count}",
            list.len()
        )));
    }
    list.iter().try_for_each(|value| text(what, value, length))
}

fn pairs(what: &str, pairs: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if pairs.len() > PAIRS_MAX || bytes > PAIRS_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{what}: {} entries of {bytes} bytes are more than the {PAIRS_MAX} entries or \
             {PAIRS_BYTES_MAX} bytes that are kept",
            pairs.len()
        )));
    }
    pairs.keys().try_for_each(|key| text(what, key, KEY_MAX))
}

/// The kernel's limit, and nothing that a shell or a file in /etc could mind.
fn hostname(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.len() > 64 || !name.bytes().all(plain) {
        let shown: String = name.chars().take(80).collect();
        return Err(Error::invalid(format!(
            "hostname {shown:?} must be at most 64 letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(())
}

/// A name such as "net.ipv4.ip_forward" (or with slashes) and one line of value:
/// set inside the guest only (CVE-2022-0811 set one on the host).
fn sysctl(key: &str, value: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
    let parts = || key.split(['.', '/']);
    if key.len() > NAME_MAX
        || parts().count() < 2
        || !parts().all(|part| !part.is_empty() && part.bytes().all(plain))
    {
        let shown: String = key.chars().take(80).collect();
        return Err(Error::invalid(format!(
            "sysctl {shown:?} is not the name of one"
        )));
    }
    if value.len() > PATH_MAX || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Error::invalid(format!(
            "sysctl {key}: its value must be one line of text"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Kind,
        testing::records::{container_config, pod_config},
    };

    fn refused_pod(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Error {
        let mut config = pod_config("p", 0);
        change(&mut config);
        pod(&config).unwrap_err()
    }

    fn refused(change: impl FnOnce(&mut v1::ContainerConfig)) -> Error {
        let mut config = container_config("c", 0, &["true"]);
        change(&mut config);
        container(&config).unwrap_err()
    }

    #[test]
    fn ordinary_requests_pass() {
        pod(&pod_config("p", 3)).unwrap();
        container(&container_config("c", 0, &["sleep", "1"])).unwrap();
        command("cmd", &["ls".to_owned(), String::new()]).unwrap();
    }

    #[test]
    fn missing_and_empty_parts_are_named() {
        assert!(
            refused_pod(|it| it.metadata = None)
                .to_string()
                .contains("metadata")
        );
        let error = refused_pod(|it| it.metadata.as_mut().unwrap().uid.clear());
        assert!(error.to_string().contains("metadata.uid"));
        assert!(refused(|it| it.image = None).to_string().contains("image"));
        assert!(command("cmd", &[]).is_err());
        assert!(command("cmd", &[String::new()]).is_err());
    }

    #[test]
    fn huge_and_hostile_parts_are_refused() {
        let long = "x".repeat(2 * 1024 * 1024);
        refused_pod(|it| _ = it.labels.insert("a".into(), long.clone()));
        refused_pod(|it| _ = it.annotations.insert("k".repeat(600), String::new()));
        for hostile in ["..", ".", "../../etc/passwd", "a%2fb", "a\0b"] {
            refused_pod(|it| it.metadata.as_mut().unwrap().name = hostile.into());
            refused_pod(|it| it.metadata.as_mut().unwrap().namespace = hostile.into());
            refused(|it| it.metadata.as_mut().unwrap().name = hostile.into());
        }
        refused_pod(|it| it.hostname = "a b".into());
        refused_pod(|it| it.hostname = "x".repeat(65));
        refused_pod(|it| it.log_directory = "/a\0b".into());
        refused_pod(|it| {
            let servers = vec!["10.0.0.1\nnameserver 6.6.6.6".to_owned()];
            it.dns_config = Some(v1::DnsConfig {
                servers,
                ..Default::default()
            });
        });
        refused_pod(|it| {
            it.port_mappings = vec![v1::PortMapping {
                host_port: 80,
                container_port: 70_000,
                ..Default::default()
            }];
        });
        for (key, value) in [
            ("kernel.core_pattern", "|/bin/x\n"),
            ("kernel", "1"),
            ("a..b", "1"),
            ("../../x.y", "1"),
            ("net.ipv4.x+kernel.y", "1"),
        ] {
            refused_pod(|it| {
                let linux = it.linux.get_or_insert_with(Default::default);
                linux.sysctls.insert(key.into(), value.into());
            });
        }
        refused(|it| it.args = vec![String::new(); WORDS_MAX + 1]);
        refused(|it| it.command = vec![long.clone()]);
        refused(|it| it.args = vec!["a\0b".into()]);
        refused(|it| {
            it.envs = vec![v1::KeyValue {
                key: "A".into(),
                value: long.into(),
            }]
        });
        refused(|it| it.mounts = vec![v1::Mount::default(); LIST_MAX + 1]);
    }

    #[test]
    fn namespaces_that_make_no_sense_are_refused() {
        let error = refused_pod(|it| {
            let mut options = v1::NamespaceOption::default();
            options.set_network(v1::NamespaceMode::Container);
            let security = v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            };
            let linux = it.linux.get_or_insert_with(Default::default);
            linux.security_context = Some(security);
        });
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("network namespace"), "{error}");
    }
}
