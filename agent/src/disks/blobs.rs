//! Layers of a host pod: EROFS files that the agent mounts in its own mount
//! namespace.
//!
//! The daemon puts a link `blobs/<serial>` to each. Linux 6.12 and later mount such a
//! file directly (CONFIG_EROFS_FS_BACKED_BY_FILE); before, it needs a loop device,
//! which is set up so that the kernel frees it with the mount. Both are gone when the
//! last process of the namespace is, whatever ends it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};

use super::{Disks, is_mount_point, unmount_layer};
use crate::{
    error::{Context as _, Error, Result},
    sys,
};

/// Others look for free loop devices at the same time.
const ATTEMPTS: usize = 64;

/// EROFS files by serial.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// Those in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
}

impl Disks for Blobs {
    fn attach(&self, serials: &[String], into: &Path) -> Result<()> {
        for serial in serials {
            let on = into.join(serial);
            if is_mount_point(&on) {
                continue;
            }
            let link = self.dir.join(serial);
            let blob = fs::canonicalize(&link)
                .map_err(|why| Error::not_found(format!("layer {}: {why}", link.display())))?;
            fs::create_dir_all(&on).context(|| format!("make {}", on.display()))?;
            mount_file(&blob, &on)
                .context(|| format!("mount layer {serial} ({}) as EROFS", blob.display()))?;
        }
        Ok(())
    }

    fn detach(&self, serial: &str, from: &Path) -> Result<()> {
        unmount_layer(serial, &from.join(serial))
    }

    fn mount_scratch(&self, _serial: &str, on: &Path) -> Result<()> {
        fs::create_dir_all(on).context(|| format!("make {}", on.display()))
    }
}

fn mount_file(blob: &Path, on: &Path) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
    match mount(blob, on, "erofs", flags, None) {
        Err(Errno::NOTBLK) => {}
        other => return Ok(other?),
    }
    let (path, device) = loop_device(blob)?;
    mount(&path, on, "erofs", flags, None)?;
    // The mount holds it from here on.
    drop(device);
    Ok(())
}

/// A loop device over a file, read-only; freed by the kernel when nobody has it open.
fn loop_device(blob: &Path) -> io::Result<(PathBuf, File)> {
    let file = File::open(blob)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        let number = sys::loop_free(&control)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::open(&path)?;
        match sys::loop_configure(&device, &file) {
            Ok(()) => return Ok((path, device)),
            Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {}
            Err(why) => return Err(why),
        }
    }
    Err(io::Error::other(
        "every free loop device was taken by somebody else",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_not_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"));
        let into = dir.path().join("layers");
        let error = blobs.attach(&["layer-0001".into()], &into).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::NOT_FOUND);
        // What never was attached is detached already.
        blobs.detach("layer-0001", &into).unwrap();
    }
}
