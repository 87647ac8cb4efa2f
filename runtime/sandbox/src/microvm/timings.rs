//! Where a start's time went.

use std::time::Duration;

use bulkhead_agent_api::agent::Ready;
use bulkhead_vmm_api::vmm;

use crate::spec::Timing;

/// Moments of a start that the daemon saw itself, CLOCK_MONOTONIC ns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    /// The launch began.
    pub(super) begun: u64,
    /// Just before the VMM was spawned.
    pub(super) spawned: u64,
    /// The guest's notice arrived.
    pub(super) ready: u64,
    /// The agent was configured.
    pub(super) configured: u64,
}

/// Phases in order. The VMM's and the guest's own times are hints from less
/// trusted sides: a time out of order counts as no time.
pub(super) fn phases(
    moments: Moments,
    vmm: Option<&vmm::Timings>,
    ready: Option<&Ready>,
) -> Vec<Timing> {
    let mut phases = Vec::new();
    let mut add = |phase: &str, from: u64, to: u64| {
        phases.push(Timing {
            phase: phase.to_owned(),
            took: Duration::from_nanos(to.saturating_sub(from)),
        });
    };
    add("prepare", moments.begun, moments.spawned);
    let mut first_run = 0;
    if let Some(vmm) = vmm.filter(|vmm| vmm.first_run_ns > 0 && vmm.first_run_ns <= moments.ready) {
        let steps = [
            ("vmm exec", vmm.main_ns),
            ("vmm configuration", vmm.configured_ns),
            ("kvm", vmm.vm_created_ns),
            ("load", vmm.loaded_ns),
            ("devices", vmm.devices_ns),
            ("confine", vmm.confined_ns),
            ("first run", vmm.first_run_ns),
        ];
        let mut from = moments.spawned;
        for (phase, at) in steps {
            if at >= from {
                add(phase, from, at);
                from = at;
            }
        }
        first_run = vmm.first_run_ns;
    }
    let boot_from = if first_run > 0 {
        first_run
    } else {
        moments.spawned
    };
    let boot = moments.ready.saturating_sub(boot_from);
    match ready.map(|ready| ready.ready_ns.saturating_sub(ready.main_ns)) {
        // The guest's clock has its own beginning; only its difference is used.
        Some(agent) if agent > 0 && agent < boot => {
            add("guest kernel", boot_from, moments.ready - agent);
            add("agent", moments.ready - agent, moments.ready);
        }
        _ => add("guest boot", boot_from, moments.ready),
    }
    add("configure", moments.ready, moments.configured);
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENTS: Moments = Moments {
        begun: 100,
        spawned: 200,
        ready: 1_000,
        configured: 1_100,
    };

    fn total(phases: &[Timing]) -> u128 {
        phases.iter().map(|t| t.took.as_nanos()).sum()
    }

    #[test]
    fn phases_add_up_to_the_whole() {
        let vmm = vmm::Timings {
            spawn_ns: 200,
            main_ns: 210,
            configured_ns: 215,
            vm_created_ns: 240,
            loaded_ns: 260,
            devices_ns: 270,
            confined_ns: 280,
            first_run_ns: 290,
            ..Default::default()
        };
        let ready = Ready {
            main_ns: 500,
            ready_ns: 550,
            ..Default::default()
        };
        let phases = phases(MOMENTS, Some(&vmm), Some(&ready));
        assert_eq!(total(&phases), 1_000);
        let agent = phases.iter().find(|t| t.phase == "agent").unwrap();
        assert_eq!(agent.took, Duration::from_nanos(50));
    }

    #[test]
    fn lies_do_not_break_the_sum() {
        let vmm = vmm::Timings {
            main_ns: 900,
            configured_ns: 3,
            first_run_ns: 950,
            ..Default::default()
        };
        let ready = Ready {
            main_ns: 0,
            ready_ns: u64::MAX,
            ..Default::default()
        };
        assert_eq!(total(&phases(MOMENTS, Some(&vmm), Some(&ready))), 1_000);
        assert_eq!(total(&phases(MOMENTS, None, None)), 1_000);
    }
}
