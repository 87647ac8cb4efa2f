//! From the daemon's OCI specification to the one that libcontainer is given.
//!
//! The daemon says what the user wants; the agent decides what depends on the
//! guest: paths, namespaces, cgroup, the pod's shared files. What cannot be
//! honoured in a guest is refused, never dropped. Pure.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilitiesBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, Process, RootBuilder, Spec,
};

use super::{
    binds::{self, HostBind, Propagation},
    devices::{self, DeviceFilter},
    seccomp,
    seccomp::Filter,
};
use crate::error::{Error, Result};

/// Bounds on what a process is started with; the kernel's own is ARG_MAX.
const MAX_STRINGS: usize = 65_536;
/// More mounts than any container has.
const MAX_MOUNTS: usize = 1_000;

/// What the agent adds to a specification.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Mount point of the container's root file system.
    pub rootfs: &'a Path,
    /// From the root of the cgroup hierarchy.
    pub cgroup: &'a Path,
    /// `None`: a PID namespace of its own; else the one to join.
    pub pid_namespace: Option<PathBuf>,
    /// Directory with hosts, hostname and resolv.conf.
    pub etc: &'a Path,
    /// The pod's /dev/shm.
    pub shm: &'a Path,
    /// Mount the root read-only whatever the specification says.
    pub readonly_rootfs: bool,
    /// Where bind mounts of the host are prepared, for host pods.
    pub staging: Option<&'a Path>,
}

/// A specification, checked and completed.
#[derive(Debug)]
pub struct Prepared {
    /// For libcontainer.
    pub spec: Spec,
    /// Installed by the agent, which is why the specification has it no more.
    pub seccomp: Option<Filter>,
    /// Attached by the agent.
    pub devices: DeviceFilter,
    /// The container may use every device, and is to find them all in its /dev.
    pub every_device: bool,
    /// What is to be prepared for its bind mounts.
    pub binds: Vec<HostBind>,
}

/// Parses and completes a specification.
///
/// # Errors
/// `INVALID_ARGUMENT` for what does not parse or makes no sense;
/// `FAILED_PRECONDITION` for what a guest cannot honour.
pub fn prepare(json: &[u8], around: &Surroundings<'_>) -> Result<Prepared> {
    let mut spec: Spec = serde_json::from_slice(json)
        .map_err(|why| Error::invalid(format!("the OCI specification does not parse: {why}")))?;
    if !spec.version().starts_with("1.") {
        return Err(Error::invalid(format!(
            "OCI specification version {:?}: only 1.x is known",
            spec.version()
        )));
    }
    refuse_hooks(&spec)?;
    spec.set_hooks(None);

    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::invalid("the OCI specification has no process"))?;
    let process = check_process(process.clone())?;
    spec.set_process(Some(process));

    let mut linux = spec.linux().clone().unwrap_or_default();
    if linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(Error::precondition(
            "SELinux labels cannot be applied: the guest has no SELinux",
        ));
    }
    linux.set_mount_label(None);
    if linux.intel_rdt().is_some() || linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(Error::precondition(
            "linux.intelRdt and linux.netDevices mean nothing in a guest",
        ));
    }
    let seccomp = linux.seccomp().as_ref().map(seccomp::compile).transpose()?;
    linux.set_seccomp(None);
    let rules = linux
        .resources()
        .as_ref()
        .and_then(|resources| resources.devices().clone())
        .unwrap_or_default();
    let devices = DeviceFilter::build(&rules)?;
    let every_device = rules.last().is_some_and(devices::allows_every_device);
    if let Some(resources) = linux.resources_mut() {
        resources.set_devices(None);
    }
    let private_uts = namespaces(&mut linux, around)?;
    let private_ipc = has(&linux, LinuxNamespaceType::Ipc);
    linux.set_cgroups_path(Some(around.cgroup.to_owned()));
    spec.set_linux(Some(linux));
    if !private_uts {
        // The pod's hostname is everybody's.
        spec.set_hostname(None);
        spec.set_domainname(None);
    }

    let readonly = around.readonly_rootfs
        || spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false);
    let root = RootBuilder::default()
        .path(around.rootfs)
        .readonly(readonly)
        .build()
        .map_err(build)?;
    spec.set_root(Some(root));
    let mut wanted = spec.mounts().clone().unwrap_or_default();
    let binds = match around.staging {
        Some(staging) => binds::stage(&mut wanted, staging)?,
        None => Vec::new(),
    };
    if binds.iter().any(|b| b.propagation == Propagation::Shared)
        && let Some(linux) = spec.linux_mut()
    {
        // Else libcontainer cuts every mount off from its peers.
        linux.set_rootfs_propagation(Some("shared".to_owned()));
    }
    let mounts = mounts(wanted, around, private_ipc, readonly)?;
    spec.set_mounts(Some(mounts));
    Ok(Prepared {
        spec,
        seccomp,
        devices,
        every_device,
        binds,
    })
}

fn build(why: oci_spec::OciSpecError) -> Error {
    Error::internal(format!("build the OCI specification: {why}"))
}

fn refuse_hooks(spec: &Spec) -> Result<()> {
    #[allow(deprecated)] // `prestart` is, and libcontainer still runs it
    let any = spec.hooks().as_ref().is_some_and(|hooks| {
        [
            hooks.prestart(),
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ]
        .iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    });
    if any {
        return Err(Error::precondition(
            "OCI hooks are programs of the host and cannot be run in a guest",
        ));
    }
    Ok(())
}

/// Checks a process object, of a container or an exec.
///
/// # Errors
/// As [`prepare`].
pub fn check_process(mut process: Process) -> Result<Process> {
    let args = process.args().as_deref().unwrap_or(&[]);
    let env = process.env().as_deref().unwrap_or(&[]);
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("the process has no program to run"));
    }
    if args.len() + env.len() > MAX_STRINGS {
        return Err(Error::invalid(
            "too many arguments and environment variables",
        ));
    }
    if let Some(text) = args.iter().chain(env).find(|text| text.contains('\0')) {
        return Err(Error::invalid(format!("{text:?} contains a zero byte")));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(format!(
            "working directory {:?} is not absolute",
            process.cwd()
        )));
    }
    match process.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => {}
        Some(profile) => {
            return Err(Error::precondition(format!(
                "AppArmor profile {profile:?} cannot be applied: the guest has no AppArmor"
            )));
        }
    }
    if process
        .selinux_label()
        .as_ref()
        .is_some_and(|l| !l.is_empty())
    {
        return Err(Error::precondition(
            "SELinux labels cannot be applied: the guest has no SELinux",
        ));
    }
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
    if process.capabilities().is_none() {
        // libcontainer would keep all of the agent's.
        let none = Capabilities::new();
        let none = LinuxCapabilitiesBuilder::default()
            .bounding(none.clone())
            .effective(none.clone())
            .permitted(none.clone())
            .inheritable(none.clone())
            .ambient(none)
            .build()
            .map_err(build)?;
        process.set_capabilities(Some(none));
    }
    Ok(process)
}

/// Checks variables whose values are any bytes: "NAME=value", without a zero byte.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check_raw_env(env: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    if env.len() > MAX_STRINGS {
        return Err(Error::invalid("too many environment variables"));
    }
    let named = |one: &[u8]| one.iter().position(|byte| *byte == b'=') > Some(0);
    if env.iter().any(|one| !named(one) || one.contains(&0)) {
        return Err(Error::invalid(
            "an environment variable without a name, or with a zero byte in it",
        ));
    }
    Ok(env)
}

/// Installing a filter takes CAP_SYS_ADMIN or no_new_privs, and libcontainer
/// drops capabilities before it hands over. So a process that will have neither
/// is given CAP_SYS_ADMIN until its filter is in place; the executor drops it.
/// Returns whether it must.
pub fn lend_sys_admin(process: &mut Process) -> bool {
    if process.no_new_privileges() == Some(true) {
        return false;
    }
    let Some(mut capabilities) = process.capabilities().clone() else {
        return false;
    };
    let has = |set: &Option<Capabilities>| {
        set.as_ref()
            .is_some_and(|set| set.contains(&Capability::SysAdmin))
    };
    if has(capabilities.permitted()) && has(capabilities.effective()) {
        return false;
    }
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.insert(Capability::SysAdmin);
        Some(set)
    };
    let (permitted, effective) = (
        with(capabilities.permitted()),
        with(capabilities.effective()),
    );
    capabilities.set_permitted(permitted);
    capabilities.set_effective(effective);
    process.set_capabilities(Some(capabilities));
    true
}

fn has(linux: &oci_spec::runtime::Linux, kind: LinuxNamespaceType) -> bool {
    linux
        .namespaces()
        .as_ref()
        .is_some_and(|all| all.iter().any(|one| one.typ() == kind))
}

/// Decides the namespaces; says whether the container has a UTS one.
fn namespaces(linux: &mut oci_spec::runtime::Linux, around: &Surroundings<'_>) -> Result<bool> {
    let wanted = linux.namespaces().clone().unwrap_or_default();
    let mut all = vec![
        namespace(LinuxNamespaceType::Mount, None)?,
        namespace(LinuxNamespaceType::Cgroup, None)?,
        namespace(LinuxNamespaceType::Pid, around.pid_namespace.as_deref())?,
    ];
    for one in &wanted {
        if one
            .path()
            .as_ref()
            .is_some_and(|p| !p.as_os_str().is_empty())
        {
            return Err(Error::invalid(format!(
                "namespace {} names a path, which only the agent knows",
                one.typ()
            )));
        }
        match one.typ() {
            // Always the agent's to decide.
            LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup | LinuxNamespaceType::Pid => {}
            // The pod's is the guest's own.
            LinuxNamespaceType::Network => {}
            LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts => {
                all.push(namespace(one.typ(), None)?);
            }
            LinuxNamespaceType::User | LinuxNamespaceType::Time => {
                return Err(Error::precondition(format!(
                    "a {} namespace is not supported",
                    one.typ()
                )));
            }
        }
    }
    linux.set_namespaces(Some(all));
    Ok(has(linux, LinuxNamespaceType::Uts))
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> Result<LinuxNamespace> {
    let mut builder = LinuxNamespaceBuilder::default().typ(kind);
    if let Some(path) = path {
        builder = builder.path(path);
    }
    builder.build().map_err(build)
}

fn bind(source: PathBuf, destination: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .typ("bind")
        .source(source)
        .destination(destination)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(build)
}

/// Adds the pod's files. The daemon's own mounts at the same places win, except
/// that a private /dev/shm gives way to the pod's where IPC is shared.
fn mounts(
    mut mounts: Vec<Mount>,
    around: &Surroundings<'_>,
    private_ipc: bool,
    readonly: bool,
) -> Result<Vec<Mount>> {
    if mounts.len() > MAX_MOUNTS {
        return Err(Error::invalid(format!(
            "{} mounts, more than {MAX_MOUNTS}",
            mounts.len()
        )));
    }
    if let Some(bad) = mounts.iter().find(|m| !m.destination().is_absolute()) {
        return Err(Error::invalid(format!(
            "mount destination {:?} is not absolute",
            bad.destination()
        )));
    }
    let shm = Path::new("/dev/shm");
    if !private_ipc {
        mounts.retain(|m| m.destination() != shm || m.typ().as_deref() != Some("tmpfs"));
    }
    let at = |mounts: &[Mount], place: &Path| mounts.iter().any(|m| m.destination() == place);
    if !private_ipc && !at(&mounts, shm) {
        mounts.push(bind(
            around.shm.to_owned(),
            "/dev/shm",
            &["rbind", "nosuid", "nodev", "noexec"],
        )?);
    }
    let access = if readonly { "ro" } else { "rw" };
    for name in ["hosts", "hostname", "resolv.conf"] {
        let place = format!("/etc/{name}");
        if !at(&mounts, Path::new(&place)) {
            mounts.push(bind(
                around.etc.join(name),
                &place,
                &["bind", "nosuid", "nodev", access],
            )?);
        }
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests;
