//! Which layers are attached to a pod, and for whom.
//!
//! A layer that several containers of a pod use is one disk. A disk goes when its
//! last user has gone; one that could not be taken away then (the agent would not
//! let go of it) stays listed without users, is used again if its layer is wanted
//! again, and is tried again at the next removal.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Most layers of one container: what overlayfs stacks.
pub const MAX_LAYERS: usize = 128;

/// One attached layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Disk {
    blob: PathBuf,
    users: BTreeSet<String>,
    /// The agent has mounted it.
    attached: bool,
}

/// The disks of one pod, by their serials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskTable {
    disks: BTreeMap<String, Disk>,
    made: u64,
}

/// What a new container needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Serials of its layers, lowest first.
    pub serials: Vec<String>,
    /// Those that are not attached yet, with their blobs.
    pub missing: Vec<(String, PathBuf)>,
}

impl DiskTable {
    /// Enters a container's use of layers, lowest first. A layer that occurs
    /// twice counts where it occurs last: there it hides all that its lower
    /// occurrence could show, and overlayfs refuses one directory twice.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for too many layers, or none.
    pub fn claim(&mut self, container_id: &str, layers: &[PathBuf]) -> Result<Attachment> {
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the image has {} layers; a container takes 1 to {MAX_LAYERS}",
                    layers.len()
                ),
            ));
        }
        let mut attachment = Attachment {
            serials: Vec::new(),
            missing: Vec::new(),
        };
        for (i, blob) in layers.iter().enumerate() {
            if layers.iter().skip(i + 1).any(|later| later == blob) {
                continue;
            }
            let known = self.disks.iter_mut().find(|(_, disk)| disk.blob == *blob);
            let serial = if let Some((serial, disk)) = known {
                disk.users.insert(container_id.to_owned());
                if !disk.attached {
                    attachment.missing.push((serial.clone(), blob.clone()));
                }
                serial.clone()
            } else {
                // Never used twice in a pod's life: a late removal cannot hit another.
                self.made += 1;
                let serial = format!("layer-{:04}", self.made);
                let disk = Disk {
                    blob: blob.clone(),
                    users: BTreeSet::from([container_id.to_owned()]),
                    attached: false,
                };
                self.disks.insert(serial.clone(), disk);
                attachment.missing.push((serial.clone(), blob.clone()));
                serial
            };
            attachment.serials.push(serial);
        }
        Ok(attachment)
    }

    /// The agent has mounted these.
    pub fn attached(&mut self, serials: &[String]) {
        for serial in serials {
            if let Some(disk) = self.disks.get_mut(serial) {
                disk.attached = true;
            }
        }
    }

    /// A container no longer uses anything.
    pub fn release(&mut self, container_id: &str) {
        for disk in self.disks.values_mut() {
            disk.users.remove(container_id);
        }
    }

    /// Disks that nobody uses, newest first: to be taken away.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let unused = self.disks.iter().filter(|(_, disk)| disk.users.is_empty());
        unused.rev().map(|(serial, _)| serial.clone()).collect()
    }

    /// A disk has been taken away.
    pub fn removed(&mut self, serial: &str) {
        self.disks.remove(serial);
    }

    /// Serials with their blobs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.disks
            .iter()
            .map(|(serial, disk)| (serial.as_str(), &disk.blob))
    }
}

/// Opens a layer's blob for reading.
pub(crate) fn open_blob(blob: &Path) -> Result<File> {
    let failed = |e: io::Error| {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("cannot open layer {}", blob.display())).caused_by(e)
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(blob)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_shared_layer_is_one_disk_until_its_last_user_goes() {
        let mut table = DiskTable::default();
        let a = table.claim("a", &blobs(&["base", "one"])).unwrap();
        assert_eq!(a.serials, ["layer-0001", "layer-0002"]);
        assert_eq!(a.missing.len(), 2);
        table.attached(&a.serials);
        let b = table.claim("b", &blobs(&["base", "two"])).unwrap();
        assert_eq!(b.serials, ["layer-0001", "layer-0003"]);
        assert_eq!(b.missing, [("layer-0003".to_owned(), PathBuf::from("two"))]);
        table.release("a");
        assert_eq!(table.unused(), ["layer-0002"]);
        table.removed("layer-0002");
        table.release("b");
        assert_eq!(table.unused(), ["layer-0003", "layer-0001"]);
    }

    #[test]
    fn a_disk_that_could_not_be_removed_is_used_again() {
        let mut table = DiskTable::default();
        let a = table.claim("a", &blobs(&["base"])).unwrap();
        table.attached(&a.serials);
        table.release("a");
        let b = table.claim("b", &blobs(&["base"])).unwrap();
        assert!(b.missing.is_empty());
        assert!(table.unused().is_empty());
    }

    #[test]
    fn serials_are_never_used_twice_and_fit_virtio_blk() {
        let mut table = DiskTable::default();
        for round in 1..=3 {
            let got = table.claim("a", &blobs(&["base"])).unwrap();
            assert_eq!(got.serials, [format!("layer-{round:04}")]);
            assert!(got.serials[0].len() <= 20);
            table.release("a");
            table.removed(&got.serials[0]);
        }
    }

    #[test]
    fn a_repeated_layer_counts_where_it_is_last() {
        let mut table = DiskTable::default();
        let got = table.claim("a", &blobs(&["x", "y", "x"])).unwrap();
        assert_eq!(got.missing[0].1, PathBuf::from("y"));
        assert_eq!(got.missing[1].1, PathBuf::from("x"));
        assert_eq!(got.serials.len(), 2);
    }

    #[test]
    fn the_number_of_layers_is_bounded() {
        let mut table = DiskTable::default();
        assert!(table.claim("a", &[]).is_err());
        let many: Vec<PathBuf> = (0..=MAX_LAYERS).map(|n| n.to_string().into()).collect();
        assert!(table.claim("a", &many).is_err());
        assert!(table.iter().next().is_none());
    }
}
