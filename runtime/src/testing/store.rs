//! Records in the world's memory, as JSON.

use std::sync::Arc;

use async_trait::async_trait;

use super::world::{Hand, World};
use crate::store::{Change, Loaded, Records, StoreError};

/// [`Records`] that are lost with the world, not with the daemon.
pub struct MemoryRecords {
    world: Hand,
}

impl MemoryRecords {
    /// The records in `world`.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        Self {
            world: Hand::new(world),
        }
    }
}

fn failed(reason: String) -> StoreError {
    StoreError::Commit {
        reason,
        full: false,
    }
}

fn json<T: serde::Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| failed(error.to_string()))
}

#[async_trait]
impl Records for MemoryRecords {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded::default();
        let mut bad = Vec::new();
        let mut state = self.world.lock();
        for (key, value) in &state.disk {
            let read = if key.starts_with("pods/") {
                serde_json::from_slice(value).map(|record| loaded.pods.push(record))
            } else if key.starts_with("containers/") {
                serde_json::from_slice(value).map(|record| loaded.containers.push(record))
            } else {
                loaded.pod_cidr = String::from_utf8(value.clone()).ok();
                Ok(())
            };
            if let Err(error) = read {
                loaded.quarantined.push(format!("{key}: {error}"));
                bad.push(key.clone());
            }
        }
        for key in bad {
            state.disk.remove(&key);
        }
        Ok(loaded)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.world.point("commit", true).await.map_err(failed)?;
        {
            let mut state = self.world.lock();
            for change in &changes {
                match change {
                    Change::PutPod(it) => {
                        state
                            .disk
                            .insert(format!("pods/{}", it.id), json(it.as_ref())?);
                    }
                    Change::DropPod(id) => {
                        state.disk.remove(&format!("pods/{id}"));
                    }
                    Change::PutContainer(it) => {
                        state
                            .disk
                            .insert(format!("containers/{}", it.id), json(it.as_ref())?);
                    }
                    Change::DropContainer(id) => {
                        state.disk.remove(&format!("containers/{id}"));
                    }
                    Change::PutSetting(_, value) => {
                        state
                            .disk
                            .insert("setting/pod-cidr".to_owned(), value.clone().into_bytes());
                    }
                }
            }
        }
        // An I/O error may be reported although the disk has it.
        self.world.point("commit done", true).await.map_err(failed)
    }
}
