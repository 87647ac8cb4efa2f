//! Paths hidden from containers, seccomp profiles, and what is refused.

use std::{io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use bulkhead_cri_api::v1::{
    LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SecurityProfile,
    security_profile::ProfileType,
};
use bulkhead_sandbox::PlaceKind;
use oci_spec::runtime::LinuxSeccomp;

use super::{capabilities, seccomp as default_profile};
use crate::error::{Error, Result};

/// Unreadable inside, unless the client names others: what tells of, or reaches,
/// the machine beneath. A guest's kernel, but containers of one pod share it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only inside, unless the client names others.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Largest seccomp profile read, bytes: the longest in use have some 100 KiB.
const PROFILE_MAX: u64 = 1024 * 1024;

pub(super) fn masked_paths(security: &LinuxContainerSecurityContext) -> Vec<String> {
    paths(security.privileged, &security.masked_paths, &MASKED)
}

pub(super) fn readonly_paths(security: &LinuxContainerSecurityContext) -> Vec<String> {
    paths(security.privileged, &security.readonly_paths, &READ_ONLY)
}

fn paths(privileged: bool, wanted: &[String], usual: &[&str]) -> Vec<String> {
    if privileged {
        Vec::new()
    } else if wanted.is_empty() {
        usual.iter().map(|path| (*path).to_owned()).collect()
    } else {
        wanted.to_vec()
    }
}

/// The filter for the container's system calls. As the CRI has it: absent means
/// unconfined, and a privileged container is.
pub(super) fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Option<LinuxSeccomp>> {
    let Some(profile) = security.seccomp.as_ref().filter(|_| !security.privileged) else {
        return Ok(None);
    };
    match profile_type("seccomp", profile)? {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => {
            let capabilities = capabilities::sets(security.capabilities.as_ref(), false)?;
            let bounding = capabilities.bounding().clone().unwrap_or_default();
            default_profile::profile(&bounding).map(Some)
        }
        ProfileType::Localhost => local_profile(&profile.localhost_ref).map(Some),
    }
}

fn local_profile(path: &str) -> Result<LinuxSeccomp> {
    let named = |reason: String| Error::invalid(format!("seccomp profile {path:?}: {reason}"));
    if !Path::new(path).is_absolute() {
        return Err(named(
            "localhost_ref must be an absolute path on the node".to_owned(),
        ));
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        // A fifo must not hold us up.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| named(error.to_string()))?;
    let kind = file.metadata().map_err(|error| named(error.to_string()))?;
    if !kind.is_file() {
        return Err(named("it is not a regular file".to_owned()));
    }
    let mut text = Vec::new();
    file.take(PROFILE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| named(error.to_string()))?;
    if text.len() as u64 > PROFILE_MAX {
        return Err(named(format!("it is larger than {PROFILE_MAX} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| {
        named(format!(
            "it is not the `seccomp` object of the OCI runtime specification: {error}"
        ))
    })
}

fn profile_type(what: &str, profile: &SecurityProfile) -> Result<ProfileType> {
    ProfileType::try_from(profile.profile_type).map_err(|_| {
        Error::invalid(format!(
            "unknown type {} of {what} profile",
            profile.profile_type
        ))
    })
}

/// Profiles that are loaded into the host's kernel mean nothing in a guest. A
/// client that asks for the runtime's default gets what a pod has anyway: a
/// kernel of its own.
pub(super) fn refuse_host_profiles(
    security: &LinuxContainerSecurityContext,
    place: PlaceKind,
) -> Result<()> {
    if let Some(profile) = &security.apparmor
        && profile_type("AppArmor", profile)? == ProfileType::Localhost
    {
        let why = match place {
            PlaceKind::MicroVm => "guests have no AppArmor",
            PlaceKind::Host => "AppArmor is not there yet in this version, for host pods either",
        };
        return Err(Error::precondition(format!(
            "AppArmor profile {:?}: {why}; use seccomp, or no profile",
            profile.localhost_ref
        )));
    }
    Ok(())
}

/// Refuses namespaces that make no sense, or are not there in this version. Those of
/// the host are `placement`'s to allow.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) or
/// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition), naming them.
pub(crate) fn check_namespaces(options: &NamespaceOption) -> Result<()> {
    for (name, mode) in [
        ("network", options.network),
        ("pid", options.pid),
        ("ipc", options.ipc),
    ] {
        let mode = NamespaceMode::try_from(mode)
            .map_err(|_| Error::invalid(format!("unknown mode {mode} of the {name} namespace")))?;
        match (name, mode) {
            ("network", NamespaceMode::Container) => {
                return Err(Error::invalid(
                    "containers of a pod share its network namespace",
                ));
            }
            ("network" | "ipc", NamespaceMode::Target) => {
                return Err(Error::invalid(format!(
                    "only the PID namespace can be another container's, not {name}"
                )));
            }
            ("pid", NamespaceMode::Target) if options.target_id.is_empty() => {
                return Err(Error::invalid("target_id is empty: whose PID namespace?"));
            }
            _ => {}
        }
    }
    if let Some(users) = &options.userns_options
        && users.mode() != NamespaceMode::Node
    {
        return Err(Error::precondition(
            "user namespaces are not there yet in this version; set hostUsers to true (the users of \
             a pod in a microVM are its own virtual machine's in any case)",
        ));
    }
    Ok(())
}
