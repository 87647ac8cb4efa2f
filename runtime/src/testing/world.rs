//! What exists beside the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{faults::Faults, gauges::Gauges, guest::Vm};

/// Everything that outlives a daemon.
#[derive(Default)]
pub struct World {
    /// Where effects go wrong.
    pub faults: Faults,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Number of the daemon that works in it.
    pub(super) daemon: u64,
    /// Virtual machines that run.
    pub(super) vms: BTreeMap<String, Arc<Vm>>,
    /// Pods that have left files.
    pub(super) files: BTreeSet<String>,
    /// Taps, by pod; each lives while the daemon or a VM has it open.
    pub(super) taps: BTreeSet<String>,
    /// The records on disk.
    pub(super) disk: BTreeMap<String, Vec<u8>>,
    /// Holds on images.
    pub(super) holds: usize,
    /// Order of what happened, for tests that ask.
    pub(super) events: Vec<String>,
}

/// A daemon's hand on the world: works until that daemon is gone. What is left of a
/// dead daemon's tasks then touches nothing any more.
#[derive(Clone)]
pub(super) struct Hand {
    world: Arc<World>,
    daemon: u64,
}

impl Hand {
    pub(super) fn new(world: Arc<World>) -> Self {
        let daemon = world.lock().daemon;
        Self { world, daemon }
    }

    /// Whether its daemon lives.
    pub(super) fn holds(&self) -> bool {
        self.world.lock().daemon == self.daemon
    }

    /// A point before or after an effect: see [`Faults::point`].
    pub(super) async fn point(&self, name: &str, may_fail: bool) -> Result<(), String> {
        if !self.holds() {
            std::future::pending::<()>().await;
        }
        self.world.faults.point(name, may_fail).await
    }
}

impl std::ops::Deref for Hand {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// What there is in the world, to compare before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Pods with a running virtual machine.
    pub vms: Vec<String>,
    /// Pods with files.
    pub files: Vec<String>,
    /// Pods with a tap.
    pub taps: Vec<String>,
    /// Keys of records.
    pub records: Vec<String>,
    /// Holds on images.
    pub holds: usize,
    /// Containers in guests.
    pub containers: Vec<String>,
}

impl World {
    /// A new, empty world.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What there is.
    #[must_use]
    pub fn residue(&self) -> Residue {
        let state = self.lock();
        Residue {
            vms: state.vms.keys().cloned().collect(),
            files: state.files.iter().cloned().collect(),
            taps: state.taps.iter().cloned().collect(),
            records: state
                .disk
                .keys()
                .filter(|key| !key.starts_with("setting/"))
                .cloned()
                .collect(),
            holds: state.holds,
            containers: state
                .vms
                .values()
                .flat_map(|vm| vm.container_ids())
                .collect(),
        }
    }

    /// The daemon is gone: what only it had open goes with it.
    pub fn daemon_died(&self) {
        let mut state = self.lock();
        let State {
            taps, vms, holds, ..
        } = &mut *state;
        taps.retain(|pod| vms.contains_key(pod));
        *holds = 0;
        state.daemon += 1;
    }

    /// A virtual machine dies by itself.
    pub fn kill_vm(&self, pod_id: &str, reason: &str, message: &str) {
        let vm = {
            let mut state = self.lock();
            state.taps.remove(pod_id);
            state.vms.remove(pod_id)
        };
        if let Some(vm) = vm {
            vm.end(reason, message);
        }
    }

    /// A container's program ends by itself, also while no daemon runs.
    pub fn end_container(&self, container_id: &str, code: i32) {
        let vms: Vec<_> = self.lock().vms.values().cloned().collect();
        for vm in vms {
            vm.end_process(container_id, code, false);
        }
    }

    /// The guest stops answering; only a kill from outside helps.
    pub fn hang_vm(&self, pod_id: &str) {
        if let Some(vm) = self.lock().vms.get(pod_id) {
            vm.hang();
        }
    }

    /// Reads and turns a guest's gauges; `None` when there is no such guest.
    pub fn gauges<T>(&self, pod_id: &str, turn: impl FnOnce(&mut Gauges) -> T) -> Option<T> {
        let vm = self.lock().vms.get(pod_id).cloned()?;
        let turned = turn(&mut vm.gauges());
        Some(turned)
    }

    /// Overwrites a record with garbage.
    pub fn corrupt_record(&self, key: &str) {
        self.lock()
            .disk
            .insert(key.to_owned(), b"{ not json".to_vec());
    }

    /// What happened so far.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.lock().events.clone()
    }

    pub(super) fn note(&self, event: String) {
        self.lock().events.push(event);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
