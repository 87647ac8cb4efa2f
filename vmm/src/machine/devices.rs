//! The devices of a VM.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulkhead_virtio::{
    blk::{Blk, BlkConfig, EngineKind, Pool},
    console::Console,
    device::Device,
    net::{Net, NetConfig},
    rng::Rng,
    vsock::{Vsock, VsockConfig},
};
use bulkhead_vmm_api::ExitReason;

use super::Consoles;
use crate::{
    config::{Config, Disk},
    descriptors::Descriptors,
    exit::Fatal,
    pci::{PciBus, SlotError, VirtioFunction, virtio::Surroundings},
};

/// Queue entries of a read-only disk: an image layer, of which there may be many.
const LAYER_QUEUE: u16 = 32;
/// Queue entries of a writable disk.
const SCRATCH_QUEUE: u16 = 128;
/// Threads that serve all disks together, at most.
const DISK_THREADS: u32 = 4;
/// What serves all disks of a VM with so many vCPUs.
pub(super) fn pool(vcpus: u32) -> Pool {
    let threads = usize::try_from(vcpus.min(DISK_THREADS)).unwrap_or(1);
    Pool::new("blk", threads, EngineKind::Auto)
}

/// The devices of the configuration, in the order of their places on the bus.
pub(super) fn all(
    config: &Config,
    fds: &mut Descriptors,
    consoles: &Consoles,
    pool: &Pool,
) -> Result<Vec<Box<dyn Device>>, Fatal> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    if let Some(vsock) = &config.vsock {
        let device = Vsock::new(VsockConfig {
            guest_cid: vsock.guest_cid,
            listener: fds
                .listener(vsock.listener)
                .map_err(|e| Fatal::config(&e))?,
            uds_prefix: uds_prefix(config, &vsock.uds_prefix),
        });
        devices.push(Box::new(device.map_err(|e| unusable("vsock", &e))?));
    }
    if config.console {
        devices.push(Box::new(Console::new(consoles.virtio(), None)));
    }
    if config.rng {
        devices.push(Box::new(Rng::new()));
    }
    for (index, net) in (0u32..).zip(&config.nets) {
        let device = Net::new(NetConfig {
            tap: fds.take(net.tap).map_err(|e| Fatal::config(&e))?,
            mac: net.mac,
            mtu: net.mtu,
            check_source: true,
            index,
        });
        devices.push(Box::new(
            device.map_err(|e| unusable(&format!("net {index}"), &e))?,
        ));
    }
    for disk in &config.disks {
        let file = fds.file(disk.file).map_err(|e| Fatal::config(&e))?;
        let device = new_disk(disk, file, pool)
            .map_err(|e| unusable(&format!("disk {}", disk.serial), &e))?;
        devices.push(device);
    }
    Ok(devices)
}

/// Where the guest's outgoing connections go, as this process will see it: the run
/// directory is its root once it is confined.
fn uds_prefix(config: &Config, prefix: &str) -> PathBuf {
    let root = match config.confinement {
        Some(_) => Path::new("/"),
        None => &config.run_dir,
    };
    root.join(prefix)
}

fn unusable(device: &str, error: &io::Error) -> Fatal {
    Fatal {
        reason: ExitReason::BadConfig,
        message: format!("{device} cannot be used: {error}"),
    }
}

/// A disk on `file`, which takes the place of the descriptor number in `disk`.
///
/// # Errors
/// When the file is no disk.
pub fn new_disk(disk: &Disk, file: std::fs::File, pool: &Pool) -> io::Result<Box<dyn Device>> {
    let device = Blk::new(BlkConfig {
        file,
        serial: disk.serial.clone(),
        read_only: disk.read_only,
        ephemeral: disk.ephemeral,
        queues: disk.queues,
        queue_size: if disk.read_only {
            LAYER_QUEUE
        } else {
            SCRATCH_QUEUE
        },
        pool: pool.clone(),
    })?;
    Ok(Box::new(device))
}

/// Why a device could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// No place on the bus.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// No descriptors, most likely.
    #[error("cannot put the device on the bus: {0}")]
    Function(#[from] io::Error),
}

/// Puts a device on the bus. Not to be called from two threads at once.
///
/// # Errors
/// [`AddError`]
pub fn add(
    bus: &PciBus,
    device: Box<dyn Device>,
    surroundings: &Surroundings,
) -> Result<Arc<VirtioFunction>, AddError> {
    let devfn = bus.next_free()?;
    let function = VirtioFunction::new(devfn, device, surroundings.clone())?;
    bus.add(function.clone());
    Ok(function)
}
