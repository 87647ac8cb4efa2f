//! Capabilities: what the client adds to and drops from the usual set.

use std::{collections::HashSet, str::FromStr};

use bulkhead_cri_api::v1::Capability as Wanted;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::error::{Error, Result};

/// What a container has unless its client says otherwise: the set that container
/// runtimes agree on.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All of Linux 6.12 (linux/capability.h): CAP_CHOWN 0 to CAP_CHECKPOINT_RESTORE 40.
#[rustfmt::skip] // A table of names reads better than a column.
const ALL: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
];

/// The capability sets of a process. Nothing is inheritable: a set that is would
/// survive an execve of files that carry inheritable capabilities (CVE-2022-24769).
pub(super) fn sets(wanted: Option<&Wanted>, privileged: bool) -> Result<LinuxCapabilities> {
    let none = Wanted::default();
    let wanted = wanted.unwrap_or(&none);
    let bounding = if privileged { all()? } else { chosen(wanted)? };
    let ambient = named(&wanted.add_ambient_capabilities)?;
    let ambient: Capabilities = if ambient.all {
        bounding.clone()
    } else {
        ambient.some
    };
    if let Some(missing) = ambient.difference(&bounding).next() {
        return Err(Error::invalid(format!(
            "ambient capability {missing} is not among those that the container has; add it"
        )));
    }
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding.clone()))
        .set_permitted(Some(bounding.clone()))
        .set_effective(Some(bounding))
        // An ambient capability must be inheritable too (capabilities(7)).
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

/// "ALL" first, in either list; then single ones are added and dropped.
fn chosen(wanted: &Wanted) -> Result<Capabilities> {
    let add = named(&wanted.add_capabilities)?;
    let drop = named(&wanted.drop_capabilities)?;
    let mut set: Capabilities = DEFAULT.into_iter().collect();
    if add.all {
        set = all()?;
    }
    if drop.all {
        set.clear();
    }
    set.extend(add.some);
    for capability in &drop.some {
        set.remove(capability);
    }
    Ok(set)
}

struct Named {
    all: bool,
    some: HashSet<Capability>,
}

fn named(names: &[String]) -> Result<Named> {
    let mut found = Named {
        all: false,
        some: HashSet::new(),
    };
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short == "ALL" {
            found.all = true;
        } else {
            found.some.insert(parse(short).ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                Error::invalid(format!("unknown capability {shown:?}"))
            })?);
        }
    }
    Ok(found)
}

fn all() -> Result<Capabilities> {
    ALL.iter()
        .map(|name| parse(name).ok_or_else(|| Error::internal(format!("capability {name}"))))
        .collect()
}

fn parse(short: &str) -> Option<Capability> {
    ALL.contains(&short)
        .then(|| Capability::from_str(short).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding(add: &[&str], drop: &[&str]) -> Capabilities {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Wanted {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Default::default()
        };
        sets(Some(&wanted), false)
            .unwrap()
            .bounding()
            .clone()
            .unwrap()
    }

    #[test]
    fn every_name_of_the_kernel_is_known() {
        assert_eq!(all().unwrap().len(), 41);
    }

    #[test]
    fn single_ones_outrank_all() {
        assert_eq!(bounding(&[], &[]), DEFAULT.into_iter().collect());
        assert_eq!(
            bounding(&["NET_ADMIN"], &["ALL"]),
            [Capability::NetAdmin].into()
        );
        let most = bounding(&["ALL"], &["SYS_ADMIN"]);
        assert_eq!(most.len(), 40);
        assert!(!most.contains(&Capability::SysAdmin));
        assert!(bounding(&[], &["all"]).is_empty());
        assert!(bounding(&["cap_sys_time"], &[]).contains(&Capability::SysTime));
        assert!(!bounding(&["KILL"], &["KILL"]).contains(&Capability::Kill));
    }

    #[test]
    fn nothing_is_inheritable_unless_it_is_ambient() {
        let plain = sets(None, true).unwrap();
        assert_eq!(plain.bounding().as_ref().unwrap().len(), 41);
        assert!(plain.inheritable().as_ref().unwrap().is_empty());
        let ambient = Wanted {
            add_ambient_capabilities: vec!["CHOWN".into()],
            ..Default::default()
        };
        let sets = sets(Some(&ambient), false).unwrap();
        assert_eq!(sets.ambient().clone().unwrap(), [Capability::Chown].into());
        assert_eq!(sets.inheritable(), sets.ambient());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let unknown = Wanted {
            add_capabilities: vec!["FLY".into()],
            ..Default::default()
        };
        assert!(
            sets(Some(&unknown), false)
                .unwrap_err()
                .to_string()
                .contains("\"FLY\"")
        );
        let outside = Wanted {
            add_ambient_capabilities: vec!["SYS_ADMIN".into()],
            ..Default::default()
        };
        assert!(sets(Some(&outside), false).is_err());
    }
}
