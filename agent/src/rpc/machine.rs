//! The machine itself: what it is, its CPUs, entropy, clock, and end.

use std::{fs, path::Path, time::Duration};

use bulkhead_agent_api::agent::{InfoResponse, SetClockRequest};
use rustix::{
    process::Signal,
    system::RebootCommand,
    time::{ClockId, Timespec, clock_settime},
};

use crate::{
    container::Containers,
    error::{Context as _, Error, Result},
    init::ready::kernel_release,
    stats::parse,
    sys,
};

/// Bytes of a seed; the kernel's pool is no larger.
const MAX_SEED: usize = 512;
/// More CPUs than the guest's kernel is built for.
const MAX_CPUS: usize = 1024;
const CPUS: &str = "/sys/devices/system/cpu";
/// Time for the answer to leave before the power goes.
const ANSWER_LEAVES: Duration = Duration::from_millis(20);

pub(super) fn info(configured: bool) -> InfoResponse {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let online = cpus("online").len();
    InfoResponse {
        agent_version: crate::VERSION.to_owned(),
        kernel_release: kernel_release(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        online_cpus: u32::try_from(online).unwrap_or(u32::MAX),
        mem_total_bytes: parse::keyed(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1024,
        configured,
        ..Default::default()
    }
}

fn cpus(which: &str) -> Vec<u32> {
    let list = fs::read_to_string(Path::new(CPUS).join(which)).unwrap_or_default();
    parse::cpu_list(&list, MAX_CPUS)
}

/// Brings CPUs online, lowest numbers first, until `count` are; returns how many
/// are. More than there are is no error: the daemon sees what it got.
pub(super) fn online_cpus(count: u32) -> Result<u32> {
    let mut online = cpus("online");
    for cpu in cpus("present") {
        if online.len() >= count as usize {
            break;
        }
        if online.contains(&cpu) {
            continue;
        }
        let file = Path::new(CPUS).join(format!("cpu{cpu}/online"));
        fs::write(&file, "1").context(|| format!("bring CPU {cpu} online"))?;
        online.push(cpu);
    }
    Ok(u32::try_from(online.len()).unwrap_or(u32::MAX))
}

pub(super) fn reseed(seed: &[u8]) -> Result<()> {
    if seed.is_empty() || seed.len() > MAX_SEED {
        return Err(Error::invalid(format!(
            "a seed has 1 to {MAX_SEED} bytes, not {}",
            seed.len()
        )));
    }
    sys::add_entropy(seed).context(|| "reseed the random number generator")
}

/// What a clock is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClockChange {
    Set(i64),
    Step(i64),
    Slew(i64),
}

/// Further than this a clock is not slewed: at 500 parts in a million it would take
/// a quarter of an hour.
const MAX_SLEW_NS: i64 = 500_000_000;

pub(super) fn set_clock(request: &SetClockRequest) -> Result<()> {
    match clock_change(request)? {
        ClockChange::Set(unix_ns) => set_to(unix_ns),
        ClockChange::Step(ns) => sys::adjust_clock(ns, false).context(|| "step the clock"),
        ClockChange::Slew(ns) => sys::adjust_clock(ns, true).context(|| "slew the clock"),
    }
}

fn clock_change(request: &SetClockRequest) -> Result<ClockChange> {
    match (request.unix_ns, request.step_ns, request.slew_ns) {
        (unix_ns, 0, 0) if unix_ns > 0 => Ok(ClockChange::Set(unix_ns)),
        (0, ns, 0) if ns != 0 => Ok(ClockChange::Step(ns)),
        (0, 0, ns) if ns != 0 && ns.unsigned_abs() <= MAX_SLEW_NS.unsigned_abs() => {
            Ok(ClockChange::Slew(ns))
        }
        _ => Err(Error::invalid(
            "a clock takes one of: a time after 1970, a step, a slew of at most 0.5 s",
        )),
    }
}

/// Sets the clock to a Unix time.
pub(super) fn set_to(unix_ns: i64) -> Result<()> {
    const NS: i64 = 1_000_000_000;
    if unix_ns < 0 {
        return Err(Error::invalid("the time is before 1970"));
    }
    let time = Timespec {
        tv_sec: unix_ns / NS,
        tv_nsec: unix_ns % NS,
    };
    clock_settime(ClockId::Realtime, time).context(|| "set the clock")
}

/// Ends the containers, and in a guest the machine, else this process.
pub(super) async fn shutdown(containers: &Containers, grace: Duration) {
    containers.end_all(grace).await;
    let is_guest = containers.place().is_guest();
    tokio::spawn(async move {
        tokio::time::sleep(ANSWER_LEAVES).await;
        if !is_guest {
            // As from anybody else: main ends.
            let this = rustix::process::getpid();
            if let Err(why) = rustix::process::kill_process(this, Signal::TERM) {
                tracing::error!("end this process: {why}");
            }
            return;
        }
        rustix::fs::sync();
        if let Err(why) = rustix::system::reboot(RebootCommand::PowerOff) {
            tracing::error!("power off: {why}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_bounded() {
        for len in [0, MAX_SEED + 1] {
            let error = reseed(&vec![0; len]).unwrap_err();
            assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT);
        }
    }

    #[test]
    fn a_clock_is_told_one_thing() {
        let told = |unix_ns, step_ns, slew_ns| {
            let request = SetClockRequest {
                unix_ns,
                step_ns,
                slew_ns,
                ..Default::default()
            };
            clock_change(&request).ok()
        };
        assert_eq!(told(5, 0, 0), Some(ClockChange::Set(5)));
        assert_eq!(told(0, -5, 0), Some(ClockChange::Step(-5)));
        assert_eq!(told(0, 0, -5), Some(ClockChange::Slew(-5)));
        for (unix_ns, step_ns, slew_ns) in [
            (0, 0, 0),
            (-1, 0, 0),
            (1, 1, 0),
            (0, 1, 1),
            (0, 0, MAX_SLEW_NS + 1),
            (0, 0, i64::MIN),
        ] {
            assert_eq!(told(unix_ns, step_ns, slew_ns), None);
        }
    }

    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        let info = info(false);
        assert!(info.online_cpus >= 1 && info.mem_total_bytes > 0);
        assert_eq!(info.boot_id.len(), 36);
    }
}
