//! What may happen to a node.

use super::random::Random;

/// Containers of a pod, at most.
const CONTAINERS: u64 = 2;

/// One step. Numbers are slots: a pod or container is known by its slot, whether or
/// not it is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// RunPodSandbox; joins the pod that is there.
    Run(u8),
    /// The same key with another configuration.
    RunOther(u8),
    /// RunPodSandbox by a client that gives up after so many ms, and one that does not.
    RunGivenUp(u8, u64),
    StopPod(u8),
    RemovePod(u8),
    /// CreateContainer; `true`: of one that exits with 5 by itself.
    Create(u8, u8, bool),
    /// The same CreateContainer twice at once.
    CreateTwice(u8, u8),
    Start(u8, u8),
    /// StartContainer twice at once.
    StartTwice(u8, u8),
    Stop(u8, u8),
    Remove(u8, u8),
    /// RemoveContainer and StartContainer at once.
    RemoveWhileStarting(u8, u8),
    /// StopPodSandbox while a container is created.
    StopWhileCreating(u8, u8),
    Exec(u8, u8),
    /// Lists by every filter.
    Filters(u8),
    /// A request that makes no sense.
    Nonsense(u64),
    /// SIGKILL for the pod's VMM.
    KillVmm(u8),
    /// SIGKILL for the daemon, and a new one.
    Restart,
    /// The same so many ms into RunPodSandbox.
    RestartWhileRunning(u8, u64),
    /// The same so many ms into CreateContainer.
    RestartWhileCreating(u8, u8, u64),
}

impl Operation {
    /// One at random, over so many pods, that interrupts a start (of `start_ms`) at any
    /// time.
    pub(super) fn random(random: &mut Random, pods: u8, start_ms: u64) -> Self {
        let p = u8::try_from(random.below(u64::from(pods))).unwrap_or(0);
        let c = u8::try_from(random.below(CONTAINERS)).unwrap_or(0);
        let wait = random.below(start_ms);
        let short = random.below(3) == 0;
        let choices = [
            (12, Self::Run(p)),
            (2, Self::RunOther(p)),
            (2, Self::RunGivenUp(p, wait)),
            (2, Self::StopPod(p)),
            (4, Self::RemovePod(p)),
            (14, Self::Create(p, c, short)),
            (3, Self::CreateTwice(p, c)),
            (14, Self::Start(p, c)),
            (3, Self::StartTwice(p, c)),
            (6, Self::Stop(p, c)),
            (6, Self::Remove(p, c)),
            (3, Self::RemoveWhileStarting(p, c)),
            (2, Self::StopWhileCreating(p, c)),
            (8, Self::Exec(p, c)),
            (4, Self::Filters(p)),
            (6, Self::Nonsense(random.next())),
            (2, Self::KillVmm(p)),
            (3, Self::Restart),
            (2, Self::RestartWhileRunning(p, wait)),
            (2, Self::RestartWhileCreating(p, c, wait / 4)),
        ];
        random.weighted(&choices).unwrap_or(Self::Restart)
    }

    /// Its kind.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Run(..) => "run",
            Self::RunOther(..) => "run-other",
            Self::RunGivenUp(..) => "run-given-up",
            Self::StopPod(..) => "stop-pod",
            Self::RemovePod(..) => "remove-pod",
            Self::Create(..) => "create",
            Self::CreateTwice(..) => "create-twice",
            Self::Start(..) => "start",
            Self::StartTwice(..) => "start-twice",
            Self::Stop(..) => "stop",
            Self::Remove(..) => "remove",
            Self::RemoveWhileStarting(..) => "remove-while-starting",
            Self::StopWhileCreating(..) => "stop-while-creating",
            Self::Exec(..) => "exec",
            Self::Filters(..) => "filters",
            Self::Nonsense(..) => "nonsense",
            Self::KillVmm(..) => "kill-vmm",
            Self::Restart => "restart",
            Self::RestartWhileRunning(..) => "restart-while-running",
            Self::RestartWhileCreating(..) => "restart-while-creating",
        }
    }
}
