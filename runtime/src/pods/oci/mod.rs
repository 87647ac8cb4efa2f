//! From a CRI container configuration and an image to what the guest is asked for.
//!
//! Pure, but for one bounded read of a seccomp profile that the client names, and
//! for looks at the paths of the host that a host pod's container is to have. What
//! this version can't do is refused here with what to do about it, never ignored.

mod capabilities;
mod environment;
mod host_devices;
mod host_mounts;
mod process;
mod resources;
mod seccomp;
mod security;
mod signals;
mod user;

use std::path::{Component, Path, PathBuf};

use bulkhead_cri_api::v1::{
    ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode,
    PodSandboxConfig,
};
use bulkhead_image::{Image, ImageConfig};
use bulkhead_sandbox::{ContainerSpec, LogTarget, PlaceKind};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Root, Spec,
};

pub(crate) use resources::changed_limits;
pub(crate) use security::check_namespaces;

use crate::{
    error::{Error, Result},
    pods::placement::Shared,
    store::ContainerRecord,
};

/// Everything that the guest is asked for to make a container.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for what makes no sense,
/// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition) for what this
/// version can't do.
pub fn container_spec(
    pod: &PodSandboxConfig,
    record: &ContainerRecord,
    image: &Image,
    place: PlaceKind,
) -> Result<ContainerSpec> {
    let config = &record.config;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    refuse_what_is_not_there(config, &security, place)?;
    check_shared(Shared::of(pod), &security)?;

    let environment = environment::environment(pod, config, &image.config)?;
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_readonly(Some(security.readonly_rootfs));
    let mut limits = resources::limits(linux.resources.as_ref(), security.privileged)?;
    let (mut mounts, mut devices) = (mounts(&security), None);
    if place == PlaceKind::Host {
        limit_to_cpus(&mut limits, linux.resources.as_ref());
        mounts = with_host_mounts(mounts, host_mounts::mounts(config)?);
        let (nodes, rules) = host_devices::devices(config)?;
        check_nodes(&nodes, &mounts)?;
        if !security.privileged {
            let all = limits.devices().clone().unwrap_or_default();
            limits.set_devices(Some(all.into_iter().chain(rules).collect()));
        }
        devices = Some(nodes);
    }
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(&security)))
        .set_devices(devices)
        .set_cgroups_path(None)
        .set_resources(Some(limits))
        .set_masked_paths(Some(security::masked_paths(&security)))
        .set_readonly_paths(Some(security::readonly_paths(&security)))
        .set_seccomp(security::seccomp(&security)?);
    spec.set_root(Some(root))
        .set_hostname(None)
        .set_mounts(Some(mounts))
        .set_process(Some(process::process(
            config,
            environment.text,
            &image.config,
            &security,
        )?))
        .set_annotations(None)
        .set_linux(Some(linux));

    let user = user::user(&security, &image.config)?;
    let mut pid = pid_namespace(&security);
    if pid == Pid::Pod && Shared::of(pod).pid {
        pid = Pid::Host;
    }
    Ok(ContainerSpec {
        container_id: record.id.clone(),
        layers: image
            .layers
            .iter()
            .map(|layer| layer.erofs_path.clone())
            .collect(),
        oci: spec,
        user: user.spec,
        gid: user.gid,
        supplemental_groups: user.groups,
        strict_groups: user.strict,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        share_pid_with_pod: pid == Pid::Pod,
        share_pid_with: match &pid {
            Pid::Target(id) => Some(id.clone()),
            Pid::Pod | Pid::Own | Pid::Host => None,
        },
        share_pid_with_host: pid == Pid::Host,
        readonly_rootfs: security.readonly_rootfs,
        raw_env: environment.raw,
        log: record.log.clone(),
        window: None,
    })
}

/// The signal that asks a container to end: the client's choice, the image's, or
/// SIGTERM.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for an unknown signal.
pub fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> Result<u32> {
    if let Some(signal) = signals::of_cri(config.stop_signal)? {
        return Ok(signal);
    }
    match &image.stop_signal {
        Some(text) => signals::parse(text).ok_or_else(|| {
            Error::invalid(format!(
                "the image's stop signal {text:?} is no Linux signal"
            ))
        }),
        None => Ok(signals::SIGTERM),
    }
}

/// The stop signal of a container in the CRI's numbering.
#[must_use]
pub fn cri_signal(linux: u32) -> i32 {
    signals::to_cri(linux)
}

/// Where a container's output goes. Without a log directory or a log path it goes
/// nowhere.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for paths that aren't
/// what they must be: the directory absolute, the path beneath it.
pub fn log_target(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<LogTarget> {
    if pod.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(LogTarget {
            directory: PathBuf::new(),
            path: PathBuf::new(),
        });
    }
    let (directory, path) = (Path::new(&pod.log_directory), Path::new(&config.log_path));
    let plain = |path: &Path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_)))
    };
    if !directory.is_absolute()
        || !directory
            .components()
            .skip(1)
            .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(Error::invalid(format!(
            "log_directory {:?} must be an absolute path without \"..\"",
            pod.log_directory
        )));
    }
    if !plain(path) || config.log_path.ends_with('/') || config.log_path.contains('\0') {
        return Err(Error::invalid(format!(
            "log_path {:?} must be a file's path beneath log_directory, without \"..\"",
            config.log_path
        )));
    }
    Ok(LogTarget {
        directory: directory.to_owned(),
        path: path.to_owned(),
    })
}

/// What comes in a later version says so, instead of being left out in silence.
fn refuse_what_is_not_there(
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    place: PlaceKind,
) -> Result<()> {
    let on_host = place == PlaceKind::Host;
    let missing = |mount: &&bulkhead_cri_api::v1::Mount| !on_host || mount.image.is_some();
    if let Some(mount) = config.mounts.iter().find(missing) {
        let (kind, what) = if mount.image.is_some() {
            ("image volume", mount.container_path.as_str())
        } else {
            ("mount of the host's", mount.host_path.as_str())
        };
        return Err(Error::precondition(format!(
            "{kind} {what:?}: volumes are not there yet in this version; remove `mounts` from the \
             container's configuration"
        )));
    }
    if let Some(device) = config.devices.first().filter(|_| !on_host) {
        return Err(Error::precondition(format!(
            "device {:?}: devices of the host are not there yet in this version; remove `devices` \
             from the container's configuration",
            device.host_path
        )));
    }
    if let Some(device) = config.cdi_devices.first() {
        return Err(Error::precondition(format!(
            "CDI device {:?}: devices of the host are not there yet in this version",
            device.name
        )));
    }
    if let Some(options) = &security.namespace_options {
        security::check_namespaces(options)?;
    }
    security::refuse_host_profiles(security, place)
}

/// What of the host a container shares, its pod must share: where pods run is decided
/// by what they ask for.
fn check_shared(pod: Shared, security: &LinuxContainerSecurityContext) -> Result<()> {
    let Some(options) = &security.namespace_options else {
        return Ok(());
    };
    let asked = Shared::asked(options);
    for (name, asked, given) in [
        ("network", asked.network, pod.network),
        ("pid", asked.pid, pod.pid),
        ("ipc", asked.ipc, pod.ipc),
    ] {
        if asked && !given {
            return Err(Error::precondition(format!(
                "the host's {name} namespace: the container's pod does not have it; ask for it in \
                 the pod's configuration"
            )));
        }
    }
    Ok(())
}

/// Device nodes are made in the container's own /dev, not in what is mounted below it.
fn check_nodes(nodes: &[LinuxDevice], mounts: &[Mount]) -> Result<()> {
    for node in nodes {
        let on = mounts
            .iter()
            .map(Mount::destination)
            .find(|place| *place != Path::new("/dev") && node.path().starts_with(place));
        if let Some(place) = on {
            return Err(Error::invalid(format!(
                "device {}: its node would be made in what is mounted on {}; give the device \
                 another container_path, or leave out the mount",
                node.path().display(),
                place.display()
            )));
        }
    }
    Ok(())
}

/// CPU sets name the host's CPUs and memory nodes, which a host pod has.
fn limit_to_cpus(limits: &mut LinuxResources, wanted: Option<&LinuxContainerResources>) {
    let given = |set: &str| Some(set.to_owned()).filter(|set| !set.is_empty());
    if let (Some(wanted), Some(cpu)) = (wanted, limits.cpu_mut()) {
        cpu.set_cpus(given(&wanted.cpuset_cpus))
            .set_mems(given(&wanted.cpuset_mems));
    }
}

/// What the client mounts takes the place of what is usually there. Outer places
/// come before inner ones, which they would hide.
fn with_host_mounts(usual: Vec<Mount>, wanted: Vec<Mount>) -> Vec<Mount> {
    let is_wanted = |mount: &Mount| {
        let place = mount.destination();
        wanted.iter().any(|it| it.destination() == place)
    };
    let mut all: Vec<Mount> = usual.into_iter().filter(|it| !is_wanted(it)).collect();
    all.extend(wanted);
    all.sort_by_key(|mount| mount.destination().components().count());
    all
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pid {
    Pod,
    Own,
    Host,
    Target(String),
}

/// A container whose client says nothing has processes of its own.
fn pid_namespace(security: &LinuxContainerSecurityContext) -> Pid {
    let Some(options) = &security.namespace_options else {
        return Pid::Own;
    };
    match options.pid() {
        NamespaceMode::Pod => Pid::Pod,
        NamespaceMode::Target => Pid::Target(options.target_id.clone()),
        NamespaceMode::Container => Pid::Own,
        NamespaceMode::Node => Pid::Host,
    }
}

fn own_ipc(security: &LinuxContainerSecurityContext) -> bool {
    let options = security.namespace_options.as_ref();
    options.is_some_and(|options| options.ipc() == NamespaceMode::Container)
}

/// Network, host name and (unless asked otherwise) IPC are the pod's: the guest's
/// own. The agent joins or makes the PID namespace.
fn namespaces(security: &LinuxContainerSecurityContext) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Type;
    let mut kinds = vec![Type::Mount, Type::Cgroup];
    if pid_namespace(security) == Pid::Own {
        kinds.push(Type::Pid);
    }
    if own_ipc(security) {
        kinds.push(Type::Ipc);
    }
    kinds
        .into_iter()
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind).set_path(None);
            namespace
        })
        .collect()
}

/// The kernel's file systems. The pod's own files (resolv.conf, hosts, hostname) and
/// its /dev/shm are the agent's to add.
fn mounts(security: &LinuxContainerSecurityContext) -> Vec<Mount> {
    let access = if security.privileged { "rw" } else { "ro" };
    let mut rows: Vec<(&str, &str, &str, Vec<&str>)> = vec![
        ("/proc", "proc", "proc", vec!["nosuid", "noexec", "nodev"]),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            vec!["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            vec![
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        (
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            vec!["nosuid", "noexec", "nodev"],
        ),
        (
            "/sys",
            "sysfs",
            "sysfs",
            vec!["nosuid", "noexec", "nodev", access],
        ),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            vec!["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    if own_ipc(security) {
        let options = vec!["nosuid", "noexec", "nodev", "mode=1777", "size=64m"];
        rows.push(("/dev/shm", "tmpfs", "shm", options));
    }
    rows.into_iter()
        .map(|(destination, kind, source, options)| {
            let mut mount = Mount::default();
            mount
                .set_destination(destination.into())
                .set_typ(Some(kind.to_owned()))
                .set_source(Some(source.into()))
                .set_options(Some(options.into_iter().map(str::to_owned).collect()));
            mount
        })
        .collect()
}

#[cfg(test)]
mod tests;
