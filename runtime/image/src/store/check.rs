//! Looking at all that the store has, byte by byte, and mending what can be.
//!
//! What is damaged can't be made whole here: its bytes are in a registry. Repair takes
//! it out of the store, so that the next pull or import fetches it anew; images that
//! need it stay known, and are mended by that (see [`Store::problems`]).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

use super::{Inner, State, Store};
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::image::{Checked, Problem};
use crate::records::{Changes, LayerRecord};

/// Read at once.
const BUFFER: usize = 1 << 20;

impl Store {
    /// Reads every layer and every document, and compares them with what was written.
    /// With `repair`, what is damaged is taken out of the store. `progress` is told
    /// of each file. Waits for no import, and none waits for it but while something is
    /// taken out.
    ///
    /// # Errors
    /// The database or the disk fails; a file that can't be read is a problem, not an
    /// error.
    pub fn check(&self, repair: bool, progress: &dyn Fn(&str)) -> Result<Checked> {
        self.inner.check(repair, progress)
    }
}

impl Inner {
    fn check(&self, repair: bool, progress: &dyn Fn(&str)) -> Result<Checked> {
        let (layers, blobs) = {
            let state = self.lock();
            let layers: Vec<LayerRecord> = state.layers.values().cloned().collect();
            (layers, documents(&state))
        };
        let mut checked = Checked {
            images: 0,
            layers: layers.len(),
            bytes_read: 0,
            problems: Vec::new(),
            repaired: repair,
        };
        let mut damaged = Vec::new();
        for layer in layers {
            progress(&format!("layer {}", layer.key()));
            let path = self.layer_path(&layer);
            let identity = identity(&path);
            let read = sum_of(&path);
            if let Ok((bytes, _)) = &read {
                checked.bytes_read += bytes;
            }
            let Some((reason, lasting)) = fault(&layer, &read) else {
                continue;
            };
            // It was collected, or made anew, meanwhile.
            if self.lock().layers.get(&layer.key()) != Some(&layer) {
                continue;
            }
            let what = format!("layer {}", layer.key());
            let reason = format!("{}: {reason}", path.display());
            checked.problems.push(Problem { what, reason });
            if lasting {
                damaged.push((layer, identity));
            }
        }
        let mut damaged_blobs = Vec::new();
        for digest in blobs {
            progress(&format!("document {digest}"));
            match self.check_blob(&digest) {
                Ok(bytes) => checked.bytes_read += bytes,
                Err(_) if !documents(&self.lock()).contains(&digest) => {}
                Err((reason, lasting)) => {
                    let what = format!("document {digest}");
                    checked.problems.push(Problem { what, reason });
                    if lasting {
                        damaged_blobs.push(digest);
                    }
                }
            }
        }
        if repair {
            self.take_out(damaged, &damaged_blobs)?;
        }
        checked.images = self.lock().visible().count();
        Ok(checked)
    }

    /// The length of a document; or what is wrong with it, and whether it lasts.
    fn check_blob(&self, digest: &Digest) -> Result<u64, (String, bool)> {
        let path = self.blob_path(digest);
        match files::read_bounded(&path, self.limits.manifest_bytes) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes.len() as u64),
            Ok(_) => Err((format!("{} is not what was written", path.display()), true)),
            Err(error) => Err((error.to_string(), is_lasting(&error))),
        }
    }

    /// Takes what is damaged out of the store, unless it was made anew meanwhile.
    fn take_out(
        &self,
        layers: Vec<(LayerRecord, Option<Identity>)>,
        blobs: &[Digest],
    ) -> Result<()> {
        let mut state = self.lock();
        let still = |(layer, before): &(LayerRecord, _)| {
            state.layers.get(&layer.key()) == Some(layer)
                && identity(&self.layer_path(layer)) == *before
        };
        let layers: Vec<_> = layers.into_iter().filter(still).collect();
        let blobs: Vec<_> = blobs
            .iter()
            .filter(|it| matches!(self.check_blob(it), Err((_, true))))
            .collect();
        // An image can do without its manifest, but not without its configuration.
        let lighter = state.images.values().map(|entry| &entry.record);
        let lighter = lighter.filter(|record| record.blobs.iter().any(|it| blobs.contains(&it)));
        let lighter: Vec<_> = lighter
            .map(|record| {
                let mut record = record.clone();
                let id = record.id;
                record.blobs.retain(|it| *it == id || !blobs.contains(&it));
                record
            })
            .collect();
        self.records.commit(&Changes {
            put_images: lighter.iter().collect(),
            drop_layers: layers.iter().map(|(layer, _)| layer.key()).collect(),
            ..Changes::default()
        })?;
        for (layer, _) in &layers {
            state.layers.remove(&layer.key());
        }
        for record in lighter {
            if let Some(entry) = state.images.get_mut(&record.id) {
                entry.record = record;
            }
        }
        // Nobody is shown an image whose files are about to go.
        self.reload_all(&mut state);
        self.publish(&state);
        for (layer, _) in &layers {
            files::remove_file(&self.layer_path(layer))?;
        }
        for digest in blobs {
            files::remove_file(&self.blob_path(digest))?;
        }
        Ok(())
    }
}

/// Which file it is, and when it was written.
type Identity = (u64, i64, i64);

fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Whether a file is wrong tomorrow, too: not that it can't be opened or read just now.
fn is_lasting(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        // Longer than any that is written.
        error => matches!(error, Error::Limit { .. }),
    }
}

/// What is wrong with a layer's file, and whether it lasts.
fn fault(layer: &LayerRecord, read: &Result<(u64, u64)>) -> Option<(String, bool)> {
    match read {
        Err(error) => Some((error.to_string(), is_lasting(error))),
        Ok((bytes, _)) if *bytes != layer.erofs_bytes => {
            let expected = layer.erofs_bytes;
            Some((format!("it has {bytes} bytes, not {expected}"), true))
        }
        Ok((_, sum)) if layer.checksum.is_some_and(|expected| expected != *sum) => {
            Some(("it is not what was written".to_owned(), true))
        }
        Ok(_) => None,
    }
}

/// Every document that an image has.
fn documents(state: &State) -> BTreeSet<Digest> {
    let records = state.images.values().map(|entry| &entry.record);
    records.flat_map(|record| &record.blobs).copied().collect()
}

/// Length of a file, and a checksum of it: against decay, not against an enemy, who could
/// write the checksum as well.
pub(crate) fn sum_of(path: &Path) -> Result<(u64, u64)> {
    let mut file = File::open(path).at("open", path)?;
    sum(&mut file).at("read", path)
}

fn sum(file: &mut File) -> io::Result<(u64, u64)> {
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; BUFFER];
    let mut length = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((length, hasher.digest()));
        }
        hasher.update(&buffer[..n]);
        length += n as u64;
    }
}
