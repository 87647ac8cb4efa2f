//! Records of images and layers in a redb file.
//!
//! Two tables, both keyed by 64 hex digits, both holding JSON with a `schema`
//! number: `images` by image id, `layers` by what they depend on
//! ([`LayerRecord::key`]). A record is written only
//! after the files it names are on disk, and removed before they are unlinked,
//! so a crash at any point leaves at most files that no record names; those go
//! at the next start. Every commit is durable when it returns: two-phase, with
//! fsync.

use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::import::chain_id;

const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const LAYERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layers");

/// The form of records that this version writes, and the newest it reads.
///
/// 2: layers may have a `base`, and images name layers by their keys.
const SCHEMA: u32 = 2;

/// What is remembered of an image. Its configuration is read from its blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) schema: u32,
    pub(crate) id: Digest,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    /// Keys of the layers to stack, base first, each once.
    pub(crate) layers: Vec<Digest>,
    /// Every small blob that belongs to the image: configuration, manifest, index.
    pub(crate) blobs: Vec<Digest>,
    /// Seconds since 1970.
    pub(crate) imported_at: u64,
    pub(crate) pinned: bool,
    /// Removed by the user while pods still use it: hidden, and gone with the
    /// last hold.
    pub(crate) removed: bool,
}

impl ImageRecord {
    pub(crate) fn new(id: Digest) -> Self {
        Self {
            schema: SCHEMA,
            id,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            layers: Vec::new(),
            blobs: Vec::new(),
            imported_at: 0,
            pinned: false,
            removed: false,
        }
    }
}

/// What is remembered of a converted layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) schema: u32,
    pub(crate) diff_id: Digest,
    /// Whether the layers beneath it were asked for anything: on others it may be another
    /// one. `base` is their chain id then, if there are any.
    #[serde(default)]
    pub(crate) leans: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<Digest>,
    /// [`bulkhead_erofs::WRITER_VERSION`] of the writer that made the file.
    pub(crate) writer: u32,
    /// Length of the EROFS image.
    pub(crate) erofs_bytes: u64,
    /// Length of the uncompressed archive.
    pub(crate) tar_bytes: u64,
    /// XXH3 of the EROFS image; not in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<u64>,
}

impl LayerRecord {
    pub(crate) fn new(
        diff_id: Digest,
        leans: bool,
        base: Option<Digest>,
        erofs_bytes: u64,
        tar_bytes: u64,
        checksum: u64,
    ) -> Self {
        let writer = bulkhead_erofs::WRITER_VERSION;
        Self {
            schema: SCHEMA,
            diff_id,
            leans,
            base: base.filter(|_| leans),
            writer,
            erofs_bytes,
            tar_bytes,
            checksum: Some(checksum),
        }
    }

    /// What it is kept under: the diff id, or the chain id of one that leans on others.
    pub(crate) fn key(&self) -> Digest {
        chain_id(self.base.as_ref(), &self.diff_id)
    }

    /// The name of the layer's file: what it holds and who wrote it.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.v{}.erofs", self.key().hex(), self.writer)
    }
}

/// One transaction's changes.
#[derive(Default)]
pub(crate) struct Changes<'a> {
    pub(crate) put_images: Vec<&'a ImageRecord>,
    pub(crate) drop_images: Vec<Digest>,
    pub(crate) put_layers: Vec<&'a LayerRecord>,
    pub(crate) drop_layers: Vec<Digest>,
}

/// Everything that was read at start.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) images: Vec<ImageRecord>,
    pub(crate) layers: Vec<LayerRecord>,
    /// Keys of records that could not be read, and why.
    pub(crate) unreadable: Vec<(String, String)>,
}

/// The database.
pub(crate) struct Records {
    db: Database,
    path: PathBuf,
}

impl Records {
    /// Opens the database at `path`, creating it where it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let db = Database::create(path).map_err(|error| {
            let (reason, damaged) = match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    let reason = "it is in use by another process; is the daemon running on this \
                                  directory?";
                    (reason.to_owned(), false)
                }
                other => {
                    let error = redb::Error::from(other);
                    (error.to_string(), is_damage(&error))
                }
            };
            Error::Database {
                path: path.to_owned(),
                reason,
                damaged,
            }
        })?;
        let records = Self {
            db,
            path: path.to_owned(),
        };
        // Tables exist from here on, so that reading need not care.
        records.commit(&Changes::default())?;
        Ok(records)
    }

    /// Reads every record; one that cannot be read hides no other.
    pub(crate) fn load(&self) -> Result<Loaded> {
        let txn = self.db.begin_read().map_err(|e| self.error(e))?;
        let mut loaded = Loaded::default();
        let images = txn.open_table(IMAGES).map_err(|e| self.error(e))?;
        for item in images.iter().map_err(|e| self.error(e))? {
            let (key, value) = item.map_err(|e| self.error(e))?;
            match decode::<ImageRecord>(value.value(), |r| (r.schema, r.id), key.value()) {
                Ok(record) => loaded.images.push(record),
                Err(reason) => loaded
                    .unreadable
                    .push((format!("image {}", key.value()), reason)),
            }
        }
        let layers = txn.open_table(LAYERS).map_err(|e| self.error(e))?;
        for item in layers.iter().map_err(|e| self.error(e))? {
            let (key, value) = item.map_err(|e| self.error(e))?;
            match decode::<LayerRecord>(value.value(), |r| (r.schema, r.key()), key.value()) {
                Ok(record) => loaded.layers.push(record),
                Err(reason) => loaded
                    .unreadable
                    .push((format!("layer {}", key.value()), reason)),
            }
        }
        Ok(loaded)
    }

    /// Makes all of `changes` durable, or none.
    pub(crate) fn commit(&self, changes: &Changes<'_>) -> Result<()> {
        let mut txn = self.db.begin_write().map_err(|e| self.error(e))?;
        txn.set_two_phase_commit(true);
        txn.set_durability(Durability::Immediate)
            .map_err(|e| self.error(e))?;
        {
            let mut images = txn.open_table(IMAGES).map_err(|e| self.error(e))?;
            for record in &changes.put_images {
                let json =
                    serde_json::to_vec(record).map_err(|e| self.error(std::io::Error::other(e)))?;
                images
                    .insert(record.id.hex().as_str(), json.as_slice())
                    .map_err(|e| self.error(e))?;
            }
            for id in &changes.drop_images {
                images
                    .remove(id.hex().as_str())
                    .map_err(|e| self.error(e))?;
            }
            let mut layers = txn.open_table(LAYERS).map_err(|e| self.error(e))?;
            for record in &changes.put_layers {
                let json =
                    serde_json::to_vec(record).map_err(|e| self.error(std::io::Error::other(e)))?;
                layers
                    .insert(record.key().hex().as_str(), json.as_slice())
                    .map_err(|e| self.error(e))?;
            }
            for id in &changes.drop_layers {
                layers
                    .remove(id.hex().as_str())
                    .map_err(|e| self.error(e))?;
            }
        }
        txn.commit().map_err(|e| self.error(e))
    }

    /// Writes raw bytes under an image key, to test what a bad record does.
    #[cfg(test)]
    pub(crate) fn put_raw_image(&self, key: &str, value: &[u8]) {
        let txn = self.db.begin_write().unwrap();
        txn.open_table(IMAGES).unwrap().insert(key, value).unwrap();
        txn.commit().unwrap();
    }

    fn error(&self, error: impl Into<redb::Error>) -> Error {
        let error = error.into();
        Error::Database {
            path: self.path.clone(),
            reason: error.to_string(),
            damaged: is_damage(&error),
        }
    }
}

/// Whether what is in the file makes no sense, as opposed to a disk that fails now.
fn is_damage(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => false,
    }
}

fn decode<T: DeserializeOwned>(
    json: &[u8],
    identity: impl Fn(&T) -> (u32, Digest),
    key: &str,
) -> Result<T, String> {
    let record: T = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let (schema, id) = identity(&record);
    if schema > SCHEMA {
        return Err(format!(
            "it was written by a newer version (schema {schema})"
        ));
    }
    if id.hex() != key {
        return Err("it lies under another key than its own".into());
    }
    Ok(record)
}
