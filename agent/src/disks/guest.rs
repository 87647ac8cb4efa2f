//! Disks of a guest: virtio-blk functions that the VMM adds and takes away.
//!
//! There is no ACPI hotplug. To find a new disk the agent writes to
//! `/sys/bus/pci/rescan`, which probes the function before the write returns;
//! `/sys/block/vd*/serial` then tells which disk it is. To give one back it
//! unmounts it and writes to the function's `remove`, after which the VMM may
//! drop it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, mount};

use super::{Disks, is_mount_point, unmount_layer};
use crate::error::{Context as _, Error, Result};

/// How long a disk may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);
/// A scan reads the configuration of every slot, an exit each: not too often.
const RESCAN: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(2);

/// The guest's PCI bus and block devices.
#[derive(Debug)]
pub struct GuestDisks;

/// The block devices that have a serial: serial to name ("vda").
fn by_serial() -> Result<HashMap<String, String>> {
    let dir = "/sys/block";
    let mut found = HashMap::new();
    for entry in fs::read_dir(dir).context(|| format!("list {dir}"))? {
        let entry = entry.context(|| format!("list {dir}"))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if !name.starts_with("vd") {
            continue;
        }
        // A disk that is just going away has no serial: not ours to report.
        if let Ok(serial) = fs::read_to_string(entry.path().join("serial")) {
            found.insert(serial.trim().to_owned(), name);
        }
    }
    Ok(found)
}

fn rescan() -> Result<()> {
    fs::write("/sys/bus/pci/rescan", "1").context(|| "rescan the PCI bus")
}

/// Device nodes of disks with these serials, in order.
fn wait_for(serials: &[&str]) -> Result<Vec<PathBuf>> {
    let deadline = Instant::now() + APPEARS_WITHIN;
    let mut last_scan = None;
    loop {
        let present = by_serial()?;
        let missing: Vec<&str> = serials
            .iter()
            .copied()
            .filter(|serial| !present.contains_key(*serial))
            .collect();
        if missing.is_empty() {
            return Ok(serials
                .iter()
                .filter_map(|serial| present.get(*serial))
                .map(|name| Path::new("/dev").join(name))
                .collect());
        }
        if Instant::now() >= deadline {
            return Err(Error::not_found(format!(
                "no disk with serial {} appeared within {} s of a bus rescan; present: {}",
                missing.join(", "),
                APPEARS_WITHIN.as_secs(),
                present.keys().cloned().collect::<Vec<_>>().join(", "),
            )));
        }
        // The first scan finds a function that is there; a probe may end a
        // little later, and a function may be added late, hence the rest.
        if last_scan.is_none_or(|at: Instant| at.elapsed() >= RESCAN) {
            rescan()?;
            last_scan = Some(Instant::now());
        } else {
            std::thread::sleep(POLL);
        }
    }
}

impl Disks for GuestDisks {
    fn attach(&self, serials: &[String], into: &Path) -> Result<()> {
        let wanted: Vec<&str> = serials
            .iter()
            .map(String::as_str)
            .filter(|serial| !is_mount_point(&into.join(serial)))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for (serial, device) in wanted.iter().zip(wait_for(&wanted)?) {
            let on = into.join(serial);
            fs::create_dir_all(&on).context(|| format!("make {}", on.display()))?;
            // Set-user-id programs of an image must work; device nodes of one
            // are the cgroup's business in /dev, and nobody's elsewhere.
            mount(
                &device,
                &on,
                "erofs",
                MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME,
                None,
            )
            .context(|| format!("mount layer {serial} ({}) as EROFS", device.display()))?;
        }
        Ok(())
    }

    fn detach(&self, serial: &str, from: &Path) -> Result<()> {
        unmount_layer(serial, &from.join(serial))?;
        if let Some(name) = by_serial()?.get(serial) {
            // device: the virtio device; its parent: the PCI function.
            let remove = format!("/sys/block/{name}/device/../remove");
            fs::write(&remove, "1").context(|| format!("remove disk {serial} from the bus"))?;
        }
        Ok(())
    }

    fn mount_scratch(&self, serial: &str, on: &Path) -> Result<()> {
        if is_mount_point(on) {
            return Ok(());
        }
        let device = wait_for(&[serial])?.pop().unwrap_or_default();
        fs::create_dir_all(on).context(|| format!("make {}", on.display()))?;
        // The disk lives as long as the pod: nothing on it needs to survive a
        // crash, and discards give space back to the host.
        mount(
            &device,
            on,
            "ext4",
            MountFlags::NOATIME | MountFlags::NODEV,
            c"discard,nobarrier,noinit_itable,errors=remount-ro",
        )
        .context(|| format!("mount scratch disk {serial} ({}) as ext4", device.display()))
    }
}
