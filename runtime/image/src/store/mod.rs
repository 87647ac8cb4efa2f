//! The content store.
//!
//! ```text
//! <dir>/images.redb               records (see `records`)
//! <dir>/blobs/sha256/<hex>        configurations, manifests, indexes: small
//! <dir>/layers/<key>.v2.erofs     layers, one file each, shared by all images
//! <dir>/tmp/                      what is being written; emptied at start
//! ```
//!
//! A file becomes visible in one order only: written in `tmp/`, fsync, renamed
//! into place, its directory fsynced, and only then named by a record. It goes
//! in the opposite order. Whatever is found at start that no record names is
//! left over from a crash and is removed.
//!
//! A layer or blob is kept while an image record names it (also the record of a
//! removed image that a pod still holds) or while an import has it *pinned*.
//! All of that is decided under one lock, so collection cannot race an import
//! or a pod.

mod check;
mod rebuild;
mod state;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::image::{FsInfo, Image, Problem, Removed};
use crate::limits::Limits;
use crate::records::{Changes, ImageRecord, LayerRecord, Records};
use crate::space::UnderWay;

pub(crate) use check::sum_of;
pub(crate) use state::Pin;

/// The image store. Clones share one store.
///
/// [`Store::list`], [`Store::get`] and [`Store::resolve`] are answered from
/// memory and wait for nothing. The others block for a small transaction on
/// disk, [`Store::import`] for as long as it takes.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) records: Records,
    state: Mutex<State>,
    /// What readers see; replaced whole at each change of `state`.
    catalog: RwLock<Arc<Catalog>>,
    /// Signalled when a layer's conversion ends.
    pub(crate) converted: Condvar,
    pub(crate) under_way: UnderWay,
}

#[derive(Default)]
pub(crate) struct State {
    images: BTreeMap<Digest, Entry>,
    /// By their keys.
    pub(crate) layers: BTreeMap<Digest, LayerRecord>,
    /// Layers (by key) and blobs that running imports rely on.
    pins: HashMap<Digest, usize>,
    /// Layers that are being converted, by chain id.
    pub(crate) converting: HashSet<Digest>,
    /// Images that pods rely on.
    holds: HashMap<Digest, usize>,
    problems: Vec<Problem>,
}

struct Entry {
    record: ImageRecord,
    /// The image, or why it cannot be used.
    image: Result<Arc<Image>, String>,
}

impl Store {
    /// Opens the store in `dir`, creating it where it is missing, with default
    /// limits.
    ///
    /// Left-over temporary files are removed. Images whose files are damaged or
    /// missing are set aside (see [`Store::problems`]); the others are usable.
    ///
    /// # Errors
    /// If the directory cannot be made or read, or if the database is in use by another
    /// process. One that is damaged is made anew from the files.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, Limits::default())
    }

    /// [`Store::open`] with the given limits on what is imported.
    pub fn open_with(dir: impl AsRef<Path>, limits: Limits) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        for sub in ["blobs/sha256", "layers", "tmp"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).at("create", &path)?;
        }
        let owner_only = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&dir, owner_only).at("change the mode of", &dir)?;
        files::sync_dir(&dir)?;
        let (records, loaded, lost) = rebuild::open(&dir, &limits)?;
        files::empty_dir(&dir.join("tmp"))?;

        let mut state = State::default();
        state.problems.extend(lost.map(|reason| Problem {
            what: "the image database".to_owned(),
            reason,
        }));
        for (what, reason) in loaded.unreadable {
            tracing::error!(%what, %reason, "unreadable record set aside");
            let reason = format!("unreadable record: {reason}; import the image again");
            state.problems.push(Problem { what, reason });
        }
        state.layers = loaded
            .layers
            .into_iter()
            .map(|record| (record.key(), record))
            .collect();
        let inner = Inner {
            dir,
            limits,
            records,
            state: Mutex::new(State::default()),
            catalog: RwLock::default(),
            converted: Condvar::new(),
            under_way: UnderWay::default(),
        };
        for record in loaded.images {
            let image = inner.load_image(&record, &state.layers);
            if let Err(reason) = &image {
                tracing::error!(image = %record.id, %reason, "damaged image set aside");
            }
            state.images.insert(record.id, Entry { record, image });
        }
        inner.remove_strays(&state)?;
        inner.publish(&state);
        *inner.lock() = state;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// All usable images, ordered by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.catalog().list()
    }

    /// The usable image with this id.
    pub fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        self.inner.catalog().get(id)
    }

    /// Finds the image that `reference` means: an id (`sha256:…` or 64 hex
    /// digits), a name with tag, digest or neither (then `latest`), or a unique
    /// prefix of an id of at least three digits.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], or [`Error::Reference`] where
    /// the text is none of these.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Image>> {
        self.inner.catalog().resolve(reference)
    }

    /// Removes the image that `reference` means, with all its names, as CRI's
    /// RemoveImage does. It vanishes from every list at once. Layers that no
    /// other image uses are deleted, at once or with the last [`Hold`].
    ///
    /// # Errors
    /// As [`Store::resolve`]; or the database or disk failed, and then the
    /// image is either wholly here or wholly gone.
    pub fn remove(&self, reference: &str) -> Result<Removed> {
        let mut state = self.inner.lock();
        // The catalog agrees with the state while that is locked.
        let id = match self.inner.catalog().resolve(reference) {
            Ok(image) => image.id,
            Err(error) => state.damaged_id(reference).ok_or(error)?,
        };
        let Some(entry) = state.images.get(&id) else {
            return Err(Error::NotFound(reference.to_owned()));
        };
        let repo_tags = entry.record.repo_tags.clone();
        if state.holds.contains_key(&id) {
            let mut record = entry.record.clone();
            record.removed = true;
            record.repo_tags.clear();
            record.repo_digests.clear();
            let put_images = vec![&record];
            self.inner.records.commit(&Changes {
                put_images,
                ..Changes::default()
            })?;
            if let Some(entry) = state.images.get_mut(&id) {
                entry.record = record;
            }
            self.inner.publish(&state);
            return Ok(Removed {
                id,
                repo_tags,
                freed_bytes: 0,
            });
        }
        let freed_bytes = self.inner.purge(&mut state, &id)?;
        Ok(Removed {
            id,
            repo_tags,
            freed_bytes,
        })
    }

    /// Keeps the files of an image in place until the returned guard is
    /// dropped, whatever is removed meanwhile. Each pod holds what it uses.
    /// Images that were removed while held can be held again, so that a
    /// restarted daemon can hold what its living pods use before it calls
    /// [`Store::collect`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such usable image.
    pub fn hold(&self, id: &Digest) -> Result<Hold> {
        let mut state = self.inner.lock();
        let image = match state.images.get(id) {
            Some(Entry {
                image: Ok(image), ..
            }) => image.clone(),
            _ => return Err(Error::NotFound(id.to_string())),
        };
        *state.holds.entry(*id).or_insert(0) += 1;
        drop(state);
        Ok(Hold {
            inner: self.inner.clone(),
            image,
        })
    }

    /// Deletes what nothing needs: removed images without a hold, and layers
    /// and blobs of no image. The daemon calls it once after it has adopted its
    /// pods; at other times the store does it by itself. Returns bytes freed.
    pub fn collect(&self) -> Result<u64> {
        let mut state = self.inner.lock();
        let gone: Vec<Digest> = state
            .images
            .iter()
            .filter(|(id, entry)| entry.record.removed && !state.holds.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        let mut freed = 0;
        for id in gone {
            freed += self.inner.purge(&mut state, &id)?;
        }
        Ok(freed + self.inner.sweep(&mut state)?)
    }

    /// Marks an image as not to be garbage-collected, or not so.
    pub fn set_pinned(&self, id: &Digest, pinned: bool) -> Result<()> {
        let mut state = self.inner.lock();
        let Some(entry) = state.images.get(id) else {
            return Err(Error::NotFound(id.to_string()));
        };
        let mut record = entry.record.clone();
        record.pinned = pinned;
        let put_images = vec![&record];
        self.inner.records.commit(&Changes {
            put_images,
            ..Changes::default()
        })?;
        self.inner.reload(&mut state, record);
        self.inner.publish(&state);
        Ok(())
    }

    /// Bytes and inodes in use, as the file system counts them.
    pub fn fs_info(&self) -> Result<FsInfo> {
        let mut info = FsInfo {
            path: self.inner.dir.clone(),
            used_bytes: 0,
            inodes_used: 0,
        };
        // The store is two levels deep; nothing here recurses without bound.
        let mut pending = vec![(self.inner.dir.clone(), 0)];
        while let Some((dir, depth)) = pending.pop() {
            for entry in fs::read_dir(&dir).at("list", &dir)? {
                let entry = entry.at("list", &dir)?;
                // A file may vanish between listing and looking: an import ended.
                let Ok(meta) = entry.metadata() else { continue };
                info.used_bytes += meta.blocks() * 512;
                info.inodes_used += 1;
                if meta.is_dir() && depth < 3 {
                    pending.push((entry.path(), depth + 1));
                }
            }
        }
        Ok(info)
    }

    /// What is damaged and was set aside.
    pub fn problems(&self) -> Vec<Problem> {
        let state = self.inner.lock();
        let damaged = state.images.iter().filter_map(|(id, entry)| {
            let reason = entry.image.as_ref().err()?;
            let names = entry.record.repo_tags.join(", ");
            let reason = format!("{reason}; import it again, or remove it ({names})");
            Some(Problem {
                what: format!("image {id}"),
                reason,
            })
        });
        state.problems.iter().cloned().chain(damaged).collect()
    }
}

/// Keeps an image's files in place. See [`Store::hold`].
pub struct Hold {
    inner: Arc<Inner>,
    image: Arc<Image>,
}

impl Hold {
    /// The image that is held.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let id = self.image.id;
        let Some(count) = state.holds.get_mut(&id) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.holds.remove(&id);
        if state
            .images
            .get(&id)
            .is_some_and(|entry| entry.record.removed)
            && let Err(error) = self.inner.purge(&mut state, &id)
        {
            tracing::warn!(image = %id, %error, "removed image left to the next collection");
        }
    }
}
