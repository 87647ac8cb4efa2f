//! Limits of one container, for its cgroup in the guest.

use bulkhead_cri_api::v1::LinuxContainerResources;
use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
};

use crate::error::{Error, Result};

/// Most entries of `unified`.
const UNIFIED_MAX: usize = 64;
/// Longest value in it, bytes.
const UNIFIED_VALUE_MAX: usize = 4096;

/// CPU sets are left out: they name the host's CPUs and memory nodes, which a
/// guest doesn't have. Swap is, too: there is none in a guest.
pub(super) fn limits(
    wanted: Option<&LinuxContainerResources>,
    privileged: bool,
) -> Result<LinuxResources> {
    let none = LinuxContainerResources::default();
    let mut limits = changed_limits(wanted.unwrap_or(&none))?;
    limits.set_devices(Some(devices(privileged)));
    // A new cgroup has no limit to take away.
    if let Some(memory) = limits.memory_mut() {
        memory.set_limit(memory.limit().filter(|limit| *limit > 0));
    }
    Ok(limits)
}

/// The limits that are given, for a new container or one that lives. 0 and empty
/// values are not given.
///
/// # Errors
/// A value makes no sense, or isn't there yet.
pub(crate) fn changed_limits(wanted: &LinuxContainerResources) -> Result<LinuxResources> {
    let mut limits = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", wanted.cpu_shares)?);
    let quota = match wanted.cpu_quota {
        0 => None,
        quota => Some(quota.max(-1)),
    };
    let period = positive("cpu_period", wanted.cpu_period)?;
    // A period says nothing without a quota.
    cpu.set_quota(quota).set_period(quota.and(period));
    limits.set_cpu(Some(cpu));

    if wanted.memory_limit_in_bytes < -1 {
        return Err(Error::invalid("memory_limit_in_bytes is negative"));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(wanted.memory_limit_in_bytes).filter(|limit| *limit != 0));
    limits.set_memory(Some(memory));

    if let Some(pages) = wanted.hugepage_limits.iter().find(|it| it.limit > 0) {
        return Err(Error::precondition(format!(
            "huge pages ({}): they are not there yet in this version; remove the limit",
            pages.page_size
        )));
    }
    unified(wanted)?;
    if !wanted.unified.is_empty() {
        limits.set_unified(Some(wanted.unified.clone().into_iter().collect()));
    }
    Ok(limits)
}

fn unified(wanted: &LinuxContainerResources) -> Result<()> {
    if wanted.unified.len() > UNIFIED_MAX {
        return Err(Error::invalid(format!(
            "more than {UNIFIED_MAX} entries in `unified`"
        )));
    }
    for (file, value) in &wanted.unified {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let named = file.split('.').count() >= 2
            && file
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(plain));
        if !named || value.len() > UNIFIED_VALUE_MAX || value.contains('\0') {
            let shown: String = file.chars().take(64).collect();
            return Err(Error::invalid(format!(
                "`unified` names {shown:?}: it must be a cgroup v2 file such as \"memory.high\", \
                 with a value of at most {UNIFIED_VALUE_MAX} bytes"
            )));
        }
    }
    Ok(())
}

/// The out-of-memory killer's bias.
pub(super) fn oom_score(wanted: Option<&LinuxContainerResources>) -> Result<Option<i32>> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    match i32::try_from(wanted.oom_score_adj) {
        Ok(score @ -1000..=1000) => Ok(Some(score)),
        _ => Err(Error::invalid(format!(
            "oom_score_adj {} must be between -1000 and 1000",
            wanted.oom_score_adj
        ))),
    }
}

fn positive(name: &str, value: i64) -> Result<Option<u64>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::invalid(format!("{name} {value} is negative"))),
    }
}

/// Which devices of the guest a container may use: all, or those that are in every
/// container. Without the rules a container could make a node for another one's disk.
fn devices(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    let rule = |allow, kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(kind))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    let (all, character, block) = (LinuxDeviceType::A, LinuxDeviceType::C, LinuxDeviceType::B);
    if privileged {
        return vec![rule(true, all, None, None, "rwm")];
    }
    let mut rules = vec![
        rule(false, all, None, None, "rwm"),
        // Making a node is harmless; using it is not.
        rule(true, character, None, None, "m"),
        rule(true, block, None, None, "m"),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx; pts/*
    // (Documentation/admin-guide/devices.txt).
    let usual = [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ];
    rules
        .extend(usual.map(|(major, minor)| rule(true, character, Some(major), Some(minor), "rwm")));
    rules.push(rule(true, character, Some(136), None, "rwm"));
    rules
}
