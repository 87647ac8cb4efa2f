//! Values that can be read but not used.

use std::path::{Component, Path};

use bulkhead_net::NetError;

use super::{Config, HandlerKind};
use crate::pods::placement::DEFAULT_HANDLER;

/// Longest name of a handler (a RuntimeClass's is a DNS label, RFC 1123).
const HANDLER_NAME_MAX: usize = 63;

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) section: &'static str,
    pub(super) key: String,
    pub(super) message: String,
}

/// Longest path of a unix socket: `sun_path` has 108 bytes, with a NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// Smallest memory that the guest kernel and the agent boot in, in MiB.
const MEMORY_MIN: u32 = 64;
/// Largest memory that is below the VMM's layout of device memory, in MiB.
const MEMORY_MAX: u32 = 4 << 20;
/// Most vCPUs that the VMM describes.
const VCPUS_MAX: u32 = 255;
/// Largest ext4 disk that is made, in GiB.
const SCRATCH_MAX: u32 = 16 << 10;
/// The kernel's `COMMAND_LINE_SIZE` on x86 is 2048; the daemon needs some of it.
const CMDLINE_MAX: usize = 1024;

/// The first value that can't be used.
pub(super) fn first_fault(config: &Config) -> Option<Fault> {
    paths(config)
        .or_else(|| vm(config))
        .or_else(|| handlers(config))
        .or_else(|| host_pods(config))
        .or_else(|| registries(config))
        .or_else(|| network(config))
        .or_else(|| streaming(config))
        .or_else(|| logging(config))
        .or_else(|| monitoring(config))
        .or_else(|| stats(config))
        .or_else(|| limits(config))
}

fn fault(section: &'static str, key: &str, message: impl Into<String>) -> Option<Fault> {
    Some(Fault {
        section,
        key: key.to_owned(),
        message: message.into(),
    })
}

fn paths(config: &Config) -> Option<Fault> {
    let paths = &config.paths;
    for (key, path) in [
        ("state_dir", &paths.state_dir),
        ("run_dir", &paths.run_dir),
        ("socket", &paths.socket),
        ("kernel", &paths.kernel),
        ("vmm", &paths.vmm),
        ("agent", &paths.agent),
    ] {
        if !is_plain_absolute(path) {
            let message = format!(
                "{} is not an absolute path without \"..\"; write it from / on",
                path.display()
            );
            return fault("paths", key, message);
        }
    }
    let length = paths.socket.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let message = format!("a socket's path has at most 107 bytes, this one has {length}");
        return fault("paths", "socket", message);
    }
    if paths.state_dir == paths.run_dir {
        return fault(
            "paths",
            "run_dir",
            "must not be the same as paths.state_dir",
        );
    }
    None
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

fn vm(config: &Config) -> Option<Fault> {
    let vm = &config.vm;
    if !(1..=VCPUS_MAX).contains(&vm.vcpus_boot) {
        return fault("vm", "vcpus_boot", format!("must be 1 to {VCPUS_MAX}"));
    }
    if vm.vcpus_max != 0 && !(vm.vcpus_boot..=VCPUS_MAX).contains(&vm.vcpus_max) {
        let least = vm.vcpus_boot;
        return fault(
            "vm",
            "vcpus_max",
            format!("must be 0, or {least} (vm.vcpus_boot) to {VCPUS_MAX}"),
        );
    }
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&vm.memory_mib) {
        return fault(
            "vm",
            "memory_mib",
            format!("must be {MEMORY_MIN} to {MEMORY_MAX} MiB"),
        );
    }
    if !(1..=SCRATCH_MAX).contains(&vm.scratch_gib) {
        return fault(
            "vm",
            "scratch_gib",
            format!("must be 1 to {SCRATCH_MAX} GiB"),
        );
    }
    let cmdline = &vm.kernel_cmdline_extra;
    if cmdline.len() > CMDLINE_MAX || !cmdline.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        let message = format!("must be at most {CMDLINE_MAX} printable ASCII characters");
        return fault("vm", "kernel_cmdline_extra", message);
    }
    if !(1..=3600).contains(&vm.boot_timeout_seconds) {
        return fault("vm", "boot_timeout_seconds", "must be 1 to 3600 seconds");
    }
    if !(1..=3600).contains(&vm.answer_timeout_seconds) {
        return fault("vm", "answer_timeout_seconds", "must be 1 to 3600 seconds");
    }
    // Below 1000 are the system's own accounts on every distribution.
    if vm.vmm_uid_first < 1000 {
        return fault(
            "vm",
            "vmm_uid_first",
            "must be 1000 or more: lower ids are the system's",
        );
    }
    // The last id, 2^32 - 1, means "no id" to the kernel.
    let fits = vm
        .vmm_uid_first
        .checked_add(vm.vmm_uid_count)
        .is_some_and(|end| end < u32::MAX);
    if vm.vmm_uid_count == 0 || !fits {
        let message = "must be 1 or more, and the range must end below 4294967295";
        return fault("vm", "vmm_uid_count", message);
    }
    let parent = Path::new(&vm.cgroup_parent);
    let plain = parent
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if vm.cgroup_parent.is_empty() || !plain || !vm.cgroup_parent.is_ascii() {
        let message = "must be the name of a cgroup, such as \"bulkhead\" or \"a.slice/b.slice\"";
        return fault("vm", "cgroup_parent", message);
    }
    None
}

fn handlers(config: &Config) -> Option<Fault> {
    for (name, handler) in &config.handlers.0 {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > HANDLER_NAME_MAX || !name.bytes().all(plain) {
            let message = "a handler's name has 1 to 63 of a-z, 0-9 and -, as RuntimeClass has it";
            return fault("handlers", name, message);
        }
        let is_host = handler.kind == HandlerKind::Host;
        if is_host && name == DEFAULT_HANDLER {
            let message = "pods that name no handler have this one, and run in microVMs: add \
                           another handler for the host";
            return fault("handlers", name, message);
        }
        if is_host && handler.has_machine_keys() {
            let message =
                "a handler of kind \"host\" has no virtual machine: it takes `kind` alone";
            return fault("handlers", name, message);
        }
        if let Some(kernel) = handler.kernel.as_ref().filter(|it| !is_plain_absolute(it)) {
            let message = format!("kernel {} is not an absolute path", kernel.display());
            return fault("handlers", name, message);
        }
        // The rest is what [vm] would be with it.
        let mut with = config.clone();
        with.vm = handler.machine(&config.vm);
        if let Some(wrong) = vm(&with) {
            return fault("handlers", name, format!("{} {}", wrong.key, wrong.message));
        }
    }
    None
}

fn host_pods(config: &Config) -> Option<Fault> {
    let host_pods = &config.host_pods;
    if host_pods.allow_namespaces.iter().any(String::is_empty) {
        let message = "names Kubernetes namespaces, or \"*\" for all";
        return fault("host_pods", "allow_namespaces", message);
    }
    let known = &config.handlers.0;
    if let Some(unknown) = host_pods
        .allow_handlers
        .iter()
        .find(|it| !known.contains_key(*it))
    {
        let known: Vec<&str> = known.keys().map(String::as_str).collect();
        let message = format!("{unknown:?} is no handler; there is {}", known.join(", "));
        return fault("host_pods", "allow_handlers", message);
    }
    None
}

fn network(config: &Config) -> Option<Fault> {
    match config.network_config().validate() {
        Ok(()) => None,
        Err(NetError::Config { key, value, wanted }) => fault(
            "network",
            key,
            format!("{value:?} is not usable: it must be {wanted}"),
        ),
        Err(other) => fault("network", "bridge", other.to_string()),
    }
}

fn streaming(config: &Config) -> Option<Fault> {
    let streaming = &config.streaming;
    if streaming.address.ip().is_unspecified() {
        let message = "must be an address that kubelet can connect to, such as \"127.0.0.1:0\"";
        return fault("streaming", "address", message);
    }
    let files = [
        (
            "tls_certificate",
            &streaming.tls_certificate,
            &streaming.tls_key,
        ),
        ("tls_key", &streaming.tls_key, &streaming.tls_certificate),
    ];
    for (key, file, other) in files {
        if file.is_empty() && !other.is_empty() {
            let message = "TLS needs both a certificate and its key";
            return fault("streaming", key, message);
        }
        if !file.is_empty() && !is_plain_absolute(Path::new(file)) {
            let message = format!("{file:?} is not an absolute path without \"..\"");
            return fault("streaming", key, message);
        }
    }
    if streaming.idle_minutes == 0 {
        return fault("streaming", "idle_minutes", "must be 1 or more");
    }
    None
}

fn logging(config: &Config) -> Option<Fault> {
    let logging = &config.logging;
    for (key, level) in [("level", &logging.level), ("vmm_level", &logging.vmm_level)] {
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(level) {
            let message = format!(
                "{level:?} is no log filter ({error}); write error, warn, info, debug or trace"
            );
            return fault("logging", key, message);
        }
    }
    None
}

fn monitoring(config: &Config) -> Option<Fault> {
    let monitoring = &config.monitoring;
    let listen = &monitoring.listen;
    if !listen.is_empty() && listen.parse::<std::net::SocketAddr>().is_err() {
        let message = format!("{listen:?} is not ADDRESS:PORT, such as \"127.0.0.1:9464\"");
        return fault("monitoring", "listen", message);
    }
    let endpoint = &monitoring.otlp_endpoint;
    if !endpoint.is_empty() && endpoint.strip_prefix("http://").is_none_or(str::is_empty) {
        let message = format!("{endpoint:?} is not http://HOST:PORT");
        return fault("monitoring", "otlp_endpoint", message);
    }
    if monitoring.trace_per_million > 1_000_000 {
        return fault("monitoring", "trace_per_million", "must be 0 to 1000000");
    }
    None
}

fn registries(config: &Config) -> Option<Fault> {
    let registries = &config.registries;
    for (key, path) in [
        ("hosts_dir", &registries.hosts_dir),
        ("docker_config", &registries.docker_config),
        ("policy", &registries.policy),
    ] {
        if !path.as_os_str().is_empty() && !path.is_absolute() {
            return fault("registries", key, "must be an absolute path, or empty");
        }
    }
    for (key, value, max) in [
        ("pulls_at_once", registries.pulls_at_once, 256),
        ("layers_at_once", registries.layers_at_once, 64),
        (
            "downloads_at_once_per_registry",
            registries.downloads_at_once_per_registry,
            256,
        ),
        ("downloads_at_once", registries.downloads_at_once, 256),
        (
            "progress_timeout_seconds",
            registries.progress_timeout_seconds,
            3600,
        ),
    ] {
        if value == 0 || value > max {
            return fault("registries", key, format!("must be 1 to {max}"));
        }
    }
    None
}

fn stats(config: &Config) -> Option<Fault> {
    let stats = &config.stats;
    for (key, value, max) in [
        ("interval_seconds", stats.interval_seconds, 3600),
        ("timeout_seconds", stats.timeout_seconds, 60),
        ("clock_tolerance_ms", stats.clock_tolerance_ms, 60_000),
    ] {
        if !(1..=max).contains(&value) {
            return fault("stats", key, format!("must be 1 to {max}"));
        }
    }
    None
}

fn limits(config: &Config) -> Option<Fault> {
    let limits = &config.limits;
    for (key, value) in [
        ("pods", limits.pods),
        ("image_archive_gib", limits.image_archive_gib),
        ("image_layer_gib", limits.image_layer_gib),
    ] {
        if value == 0 {
            return fault("limits", key, "must be 1 or more");
        }
    }
    None
}
