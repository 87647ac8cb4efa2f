//! Layers that are directories already: tests without a VM.

use std::{fs, path::Path};

use super::Disks;
use crate::error::{Context as _, Error, Result};

/// `layers/<serial>` is there or it is not; nothing is mounted.
#[derive(Debug)]
pub struct Directories;

impl Disks for Directories {
    fn attach(&self, serials: &[String], into: &Path) -> Result<()> {
        for serial in serials {
            let layer = into.join(serial);
            if !layer.is_dir() {
                return Err(Error::not_found(format!(
                    "layer {serial}: {} is not a directory",
                    layer.display()
                )));
            }
        }
        Ok(())
    }

    fn detach(&self, _serial: &str, _from: &Path) -> Result<()> {
        Ok(())
    }

    fn mount_scratch(&self, _serial: &str, on: &Path) -> Result<()> {
        fs::create_dir_all(on).context(|| format!("make {}", on.display()))
    }
}
