//! The store's state: what is there, who needs it, and how it changes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Entry, Inner, State};
use crate::catalog::Catalog;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::image::{Image, Layer};
use crate::records::{Changes, ImageRecord, LayerRecord};
use crate::reference::Reference;
use crate::steps;

impl State {
    pub(super) fn visible(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images
            .values()
            .filter(|entry| !entry.record.removed)
            .filter_map(|entry| entry.image.as_ref().ok())
    }

    /// A damaged image can be named by its id or a tag, to be removed.
    pub(super) fn damaged_id(&self, text: &str) -> Option<Digest> {
        let damaged = || {
            self.images
                .values()
                .filter(|entry| entry.image.is_err() && !entry.record.removed)
                .map(|entry| &entry.record)
        };
        if let Ok(id) = Digest::from_hex(text.strip_prefix("sha256:").unwrap_or(text)) {
            return damaged().map(|record| record.id).find(|other| *other == id);
        }
        let tagged = Reference::parse(text).ok()?.tagged()?;
        damaged()
            .find(|record| record.repo_tags.contains(&tagged))
            .map(|record| record.id)
    }

    fn needs(&self, select: impl Fn(&ImageRecord) -> &[Digest], digest: &Digest) -> bool {
        self.pins.contains_key(digest)
            || self
                .images
                .values()
                .any(|entry| select(&entry.record).contains(digest))
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait_converted<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.converted
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Shows readers the state as it is now.
    pub(super) fn publish(&self, state: &State) {
        let catalog = Arc::new(Catalog::new(state.visible().cloned()));
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, record: &LayerRecord) -> PathBuf {
        self.dir.join("layers").join(record.file_name())
    }

    pub(crate) fn tmp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Builds the usable image from its record, or says what it lacks.
    pub(super) fn load_image(
        &self,
        record: &ImageRecord,
        layers: &BTreeMap<Digest, LayerRecord>,
    ) -> Result<Arc<Image>, String> {
        let json = files::read_bounded(&self.blob_path(&record.id), self.limits.config_bytes)
            .map_err(|error| error.to_string())?;
        if Digest::of(&json) != record.id {
            return Err("its configuration is damaged".into());
        }
        let config = ImageConfig::parse(&json).map_err(|error| error.to_string())?;
        let mut found = Vec::with_capacity(record.layers.len());
        for key in &record.layers {
            let Some(layer) = layers.get(key) else {
                return Err(format!("layer {key} has no record"));
            };
            let diff_id = layer.diff_id;
            let erofs_path = self.layer_path(layer);
            match fs::metadata(&erofs_path) {
                Ok(meta) if meta.len() == layer.erofs_bytes => {}
                Ok(meta) => {
                    return Err(format!(
                        "layer {diff_id} has {} bytes, not {}",
                        meta.len(),
                        layer.erofs_bytes
                    ));
                }
                Err(error) => return Err(format!("layer {diff_id} cannot be read: {error}")),
            }
            let erofs_bytes = layer.erofs_bytes;
            found.push(Layer {
                diff_id,
                erofs_path,
                erofs_bytes,
            });
        }
        Ok(Arc::new(Image {
            id: record.id,
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size_bytes: found.iter().map(|layer| layer.erofs_bytes).sum(),
            config,
            layers: found,
            imported_at: SystemTime::UNIX_EPOCH + Duration::from_secs(record.imported_at),
            pinned: record.pinned,
        }))
    }

    /// Takes a record into memory and builds its image anew.
    pub(super) fn reload(&self, state: &mut State, record: ImageRecord) {
        let image = self.load_image(&record, &state.layers);
        state.images.insert(record.id, Entry { record, image });
    }

    /// Builds every image anew.
    pub(super) fn reload_all(&self, state: &mut State) {
        let records: Vec<_> = state
            .images
            .values()
            .map(|entry| entry.record.clone())
            .collect();
        for record in records {
            self.reload(state, record);
        }
    }

    /// Makes an image of `record` known, merging the names of an image with the
    /// same id, and takes its tags away from whichever images had them.
    pub(crate) fn commit_image(&self, mut record: ImageRecord) -> Result<Arc<Image>> {
        let mut state = self.lock();
        if let Some(known) = state
            .images
            .get(&record.id)
            .filter(|known| !known.record.removed)
        {
            merge(&mut record.repo_tags, &known.record.repo_tags);
            merge(&mut record.repo_digests, &known.record.repo_digests);
            merge(&mut record.blobs, &known.record.blobs);
            record.pinned |= known.record.pinned;
        }
        for names in [&mut record.repo_tags, &mut record.repo_digests] {
            names.sort();
            names.dedup();
        }
        let robbed: Vec<ImageRecord> = state
            .images
            .values()
            .map(|entry| &entry.record)
            .filter(|other| other.id != record.id)
            .filter(|other| {
                other
                    .repo_tags
                    .iter()
                    .any(|tag| record.repo_tags.contains(tag))
            })
            .map(|other| {
                let mut other = other.clone();
                other
                    .repo_tags
                    .retain(|tag| !record.repo_tags.contains(tag));
                other
            })
            .collect();
        let put_images = robbed.iter().chain([&record]).collect();
        self.records.commit(&Changes {
            put_images,
            ..Changes::default()
        })?;
        let id = record.id;
        // What was damaged may have been mended by the layers that came.
        let damaged = state.images.values().filter(|entry| entry.image.is_err());
        let damaged: Vec<_> = damaged.map(|entry| entry.record.clone()).collect();
        for record in damaged.into_iter().chain(robbed).chain([record]) {
            self.reload(&mut state, record);
        }
        self.publish(&state);
        match state.images.get(&id).map(|entry| &entry.image) {
            Some(Ok(image)) => Ok(image.clone()),
            Some(Err(reason)) => Err(Error::Inconsistent(reason.clone())),
            None => Err(Error::NotFound(id.to_string())),
        }
    }

    /// Forgets an image and deletes what only it used.
    pub(super) fn purge(&self, state: &mut State, id: &Digest) -> Result<u64> {
        self.records.commit(&Changes {
            drop_images: vec![*id],
            ..Changes::default()
        })?;
        state.images.remove(id);
        self.publish(state);
        steps::reached("image forgotten");
        self.sweep(state)
    }

    /// Deletes layers and blobs that no image and no import needs.
    pub(crate) fn sweep(&self, state: &mut State) -> Result<u64> {
        let unused: Vec<LayerRecord> = state
            .layers
            .values()
            .filter(|layer| !state.needs(|record| &record.layers, &layer.key()))
            .cloned()
            .collect();
        let mut freed = 0;
        if !unused.is_empty() {
            let drop_layers = unused.iter().map(LayerRecord::key).collect();
            self.records.commit(&Changes {
                drop_layers,
                ..Changes::default()
            })?;
        }
        for layer in &unused {
            state.layers.remove(&layer.key());
            steps::reached("layer forgotten");
            let path = self.layer_path(layer);
            freed += fs::metadata(&path).map_or(0, |meta| meta.blocks() * 512);
            files::remove_file(&path)?;
        }
        let blobs = self.dir.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).at("list", &blobs)? {
            let path = entry.at("list", &blobs)?.path();
            if !self.is_needed_blob(state, &path) {
                freed += fs::metadata(&path).map_or(0, |meta| meta.blocks() * 512);
                files::remove_file(&path)?;
            }
        }
        Ok(freed)
    }

    fn is_needed_blob(&self, state: &State, path: &Path) -> bool {
        path.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| Digest::from_hex(name).ok())
            .is_some_and(|digest| state.needs(|record| &record.blobs, &digest))
    }

    /// At start: removes files that no record names.
    pub(super) fn remove_strays(&self, state: &State) -> Result<()> {
        let named: HashSet<PathBuf> = state
            .layers
            .values()
            .map(|layer| self.layer_path(layer))
            .collect();
        let layers = self.dir.join("layers");
        for entry in fs::read_dir(&layers).at("list", &layers)? {
            let path = entry.at("list", &layers)?.path();
            if !named.contains(&path) {
                tracing::info!(path = %path.display(), "removing a layer that no record names");
                files::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Keeps a layer or blob from being collected while an import relies on it.
    pub(crate) fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        *self.lock().pins.entry(digest).or_insert(0) += 1;
        Pin {
            inner: self.clone(),
            digest,
        }
    }
}

/// Keeps one layer or blob. See [`Inner::pin`].
pub(crate) struct Pin {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        if let Some(count) = state.pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.digest);
            }
        }
    }
}

fn merge<T: Clone + PartialEq>(into: &mut Vec<T>, from: &[T]) {
    for item in from {
        if !into.contains(item) {
            into.push(item.clone());
        }
    }
}
