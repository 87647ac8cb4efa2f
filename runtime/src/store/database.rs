//! The records on disk: one redb file.
//!
//! ```text
//! table meta         "schema" -> 1
//! table pods         id  -> JSON of PodRecord
//! table containers   id  -> JSON of ContainerRecord
//! table settings     key -> text
//! table quarantine   "pods/<id>", "containers/<id>" -> the bytes found
//! ```
//!
//! Commits are two-phase with immediate durability: when one returns, it is on the
//! disk, and a crash at any moment leaves either the old or the new state.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use redb::{Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::de::DeserializeOwned;

use super::{Change, Loaded, Records, Setting, StoreError, commit::Committer};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const PODS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pods");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const SETTINGS: TableDefinition<'_, &str, &str> = TableDefinition::new("settings");
const QUARANTINE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("quarantine");

/// Version of the layout above.
const SCHEMA: u64 = 1;

/// redb's page cache, bytes: the records of hundreds of pods fit, and reads only
/// happen at the start.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Records in a file.
pub struct Database {
    db: Arc<redb::Database>,
    committer: Committer,
}

impl Database {
    /// Opens the database, making it where it is missing.
    ///
    /// # Errors
    /// [`StoreError::Open`] when the file can't be used: with the reason, and what
    /// to do about it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = redb::Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| open_error(path, &error))?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| open_error(path, &error))?;
        Self::with(db, path)
    }

    /// Opens a database on any storage: tests bring one that fails.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_on(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let path = Path::new("(memory)");
        let db = redb::Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| open_error(path, &error))?;
        Self::with(db, path)
    }

    fn with(db: redb::Database, path: &Path) -> Result<Self, StoreError> {
        check_schema(&db, path)?;
        let db = Arc::new(db);
        let writer = Arc::clone(&db);
        let committer = Committer::start(move |batch| {
            apply(&writer, batch).map_err(|error| commit_error(&error))
        })
        .map_err(|error| open_error(path, &error))?;
        Ok(Self { db, committer })
    }
}

#[async_trait]
impl Records for Database {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let db = Arc::clone(&self.db);
        tokio::task::spawn_blocking(move || load(&db))
            .await
            .unwrap_or_else(|error| {
                Err(StoreError::Read {
                    reason: error.to_string(),
                })
            })
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.committer.commit(changes).await
    }
}

fn open_error(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Open {
        path: path.display().to_string(),
        reason: format!(
            "{error}; if the file is damaged, move it away and restart: running pods are then \
             removed and kubelet makes them anew"
        ),
    }
}

fn check_schema(db: &redb::Database, path: &Path) -> Result<(), StoreError> {
    let found = (|| -> Result<u64, redb::Error> {
        let mut transaction = db.begin_write()?;
        transaction.set_two_phase_commit(true);
        let found = {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("schema")?.map(|value| value.value());
            if found.is_none() {
                meta.insert("schema", SCHEMA)?;
            }
            // So that loading finds every table.
            transaction.open_table(PODS)?;
            transaction.open_table(CONTAINERS)?;
            transaction.open_table(SETTINGS)?;
            transaction.open_table(QUARANTINE)?;
            found
        };
        transaction.commit()?;
        Ok(found.unwrap_or(SCHEMA))
    })()
    .map_err(|error| open_error(path, &error))?;
    if found != SCHEMA {
        return Err(StoreError::Open {
            path: path.display().to_string(),
            reason: format!(
                "its layout is version {found}, this daemon knows version {SCHEMA}; run the daemon \
                 that wrote it, or drain the node and move the file away"
            ),
        });
    }
    Ok(())
}

fn apply(db: &redb::Database, batch: &[Vec<Change>]) -> Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| redb::Error::Io(std::io::Error::other(error)))?;
    {
        let mut pods = transaction.open_table(PODS)?;
        let mut containers = transaction.open_table(CONTAINERS)?;
        let mut settings = transaction.open_table(SETTINGS)?;
        for change in batch.iter().flatten() {
            match change {
                Change::PutPod(record) => {
                    pods.insert(record.id.as_str(), json(record.as_ref())?.as_slice())?;
                }
                Change::DropPod(id) => {
                    pods.remove(id.as_str())?;
                }
                Change::PutContainer(record) => {
                    containers.insert(record.id.as_str(), json(record.as_ref())?.as_slice())?;
                }
                Change::DropContainer(id) => {
                    containers.remove(id.as_str())?;
                }
                Change::PutSetting(setting, value) => {
                    settings.insert(setting.key(), value.as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json<T: serde::Serialize>(record: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(record).map_err(|error| redb::Error::Io(std::io::Error::other(error)))
}

fn commit_error(error: &redb::Error) -> StoreError {
    let full = matches!(error, redb::Error::Io(io) if matches!(
        io.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    ));
    StoreError::Commit {
        reason: error.to_string(),
        full,
    }
}

fn load(db: &redb::Database) -> Result<Loaded, StoreError> {
    let failed = |error: &dyn std::fmt::Display| StoreError::Read {
        reason: error.to_string(),
    };
    let mut loaded = Loaded::default();
    let mut bad = Vec::new();
    (|| -> Result<(), redb::Error> {
        let transaction = db.begin_read()?;
        let pods = transaction.open_table(PODS)?;
        loaded.pods = records(
            &pods,
            "pods",
            |record: &super::PodRecord| &record.id,
            &mut bad,
        )?;
        let containers = transaction.open_table(CONTAINERS)?;
        loaded.containers = records(
            &containers,
            "containers",
            |it: &super::ContainerRecord| &it.id,
            &mut bad,
        )?;
        let settings = transaction.open_table(SETTINGS)?;
        loaded.pod_cidr = settings
            .get(Setting::PodCidr.key())?
            .map(|value| value.value().to_owned());
        Ok(())
    })()
    .map_err(|error| failed(&error))?;
    if !bad.is_empty() {
        quarantine(db, &bad).map_err(|error| failed(&error))?;
    }
    for (table, id, _, reason) in bad {
        tracing::error!(record = %format!("{table}/{id}"), %reason, "unreadable record set aside");
        loaded.quarantined.push(format!("{table}/{id}: {reason}"));
    }
    Ok(loaded)
}

type Bad = (&'static str, String, Vec<u8>, String);

fn records<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &'static str,
    id: impl Fn(&T) -> &String,
    bad: &mut Vec<Bad>,
) -> Result<Vec<T>, redb::Error> {
    let mut good = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        let (key, bytes) = (key.value(), value.value());
        match serde_json::from_slice::<T>(bytes) {
            Ok(record) if id(&record) == key => good.push(record),
            Ok(record) => {
                let reason = format!("it calls itself {:?}", id(&record));
                bad.push((name, key.to_owned(), bytes.to_vec(), reason));
            }
            Err(error) => bad.push((name, key.to_owned(), bytes.to_vec(), error.to_string())),
        }
    }
    Ok(good)
}

/// Moves unreadable records out of the way, in case somebody wants to look.
fn quarantine(db: &redb::Database, bad: &[Bad]) -> Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_two_phase_commit(true);
    {
        let mut aside = transaction.open_table(QUARANTINE)?;
        for (name, id, bytes, _) in bad {
            aside.insert(format!("{name}/{id}").as_str(), bytes.as_slice())?;
            let table = if *name == "pods" { PODS } else { CONTAINERS };
            transaction.open_table(table)?.remove(id.as_str())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
