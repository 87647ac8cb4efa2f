//! Which layers are attached, and which containers stand on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::Mutex;

use super::{Disks, check_serial};
use crate::error::{Error, Result};

/// More layers than any image has (overlayfs stacks at most 500).
const MAX_LAYERS: usize = 500;

/// The pod's layers. One attach or release runs at a time: they share a bus.
#[derive(Debug)]
pub struct Layers {
    disks: Arc<dyn Disks>,
    dir: PathBuf,
    attached: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Layers {
    /// No layers yet; they will appear below `dir`.
    #[must_use]
    pub fn new(disks: Arc<dyn Disks>, dir: PathBuf) -> Self {
        Self {
            disks,
            dir,
            attached: Mutex::default(),
        }
    }

    /// Attaches what is not attached yet.
    ///
    /// # Errors
    /// As [`Disks::attach`]; what this call attached is given back.
    pub async fn attach(&self, serials: &[String]) -> Result<()> {
        let mut attached = self.attached.lock().await;
        if serials.len() + attached.len() > MAX_LAYERS * 4 {
            return Err(Error::invalid("too many layers"));
        }
        let mut fresh: Vec<String> = Vec::new();
        for serial in serials {
            check_serial(serial)?;
            if !attached.contains_key(serial) && !fresh.contains(serial) {
                fresh.push(serial.clone());
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let (disks, dir, wanted) = (Arc::clone(&self.disks), self.dir.clone(), fresh.clone());
        blocking(move || {
            disks.attach(&wanted, &dir).inspect_err(|_| {
                for serial in &wanted {
                    if let Err(why) = disks.detach(serial, &dir) {
                        tracing::error!("give back layer {serial}: {why}");
                    }
                }
            })
        })
        .await?;
        attached.extend(fresh.into_iter().map(|serial| (serial, BTreeSet::new())));
        Ok(())
    }

    /// Gives layers back. Serials that are not attached succeed.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` while a container stands on one; none is released
    /// then. As [`Disks::detach`]; those before it are released.
    pub async fn release(&self, serials: &[String]) -> Result<()> {
        let mut attached = self.attached.lock().await;
        for serial in serials {
            check_serial(serial)?;
            if let Some(user) = attached.get(serial).and_then(BTreeSet::first) {
                return Err(Error::precondition(format!(
                    "layer {serial} is in use by container {user}"
                )));
            }
        }
        for serial in serials {
            let (disks, dir, wanted) = (Arc::clone(&self.disks), self.dir.clone(), serial.clone());
            blocking(move || disks.detach(&wanted, &dir)).await?;
            attached.remove(serial);
        }
        Ok(())
    }

    /// Marks layers as used by a container.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for none or too many, `FAILED_PRECONDITION` for one
    /// that is not attached; none is marked then.
    pub async fn hold(&self, serials: &[String], container: &str) -> Result<()> {
        if serials.is_empty() || serials.len() > MAX_LAYERS {
            return Err(Error::invalid(format!(
                "a container needs 1 to {MAX_LAYERS} layers, not {}",
                serials.len()
            )));
        }
        let mut attached = self.attached.lock().await;
        if let Some(missing) = serials.iter().find(|s| !attached.contains_key(*s)) {
            return Err(Error::precondition(format!(
                "layer {missing} is not attached: call AttachLayers first"
            )));
        }
        for serial in serials {
            if let Some(users) = attached.get_mut(serial) {
                users.insert(container.to_owned());
            }
        }
        Ok(())
    }

    /// The container no longer uses any layer.
    pub async fn let_go(&self, container: &str) {
        for users in self.attached.lock().await.values_mut() {
            users.remove(container);
        }
    }
}

/// Runs blocking work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|why| Error::internal(format!("a worker thread failed: {why}")))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::Path, sync::Mutex as StdMutex};
    use ttrpc::Code;

    /// Attaches everything but "bad", and remembers what is mounted.
    #[derive(Debug, Default)]
    struct FakeDisks(StdMutex<BTreeSet<String>>);

    impl Disks for FakeDisks {
        fn attach(&self, serials: &[String], _: &Path) -> Result<()> {
            for serial in serials {
                if serial == "bad" {
                    return Err(Error::not_found("no such disk"));
                }
                self.0.lock().unwrap().insert(serial.clone());
            }
            Ok(())
        }
        fn detach(&self, serial: &str, _: &Path) -> Result<()> {
            self.0.lock().unwrap().remove(serial);
            Ok(())
        }
        fn mount_scratch(&self, _: &str, _: &Path) -> Result<()> {
            Ok(())
        }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn layers_in_use_are_not_released() {
        let disks = Arc::new(FakeDisks::default());
        let layers = Layers::new(Arc::clone(&disks) as _, "/nowhere".into());
        layers.attach(&names(&["a", "b"])).await.unwrap();
        layers.attach(&names(&["b", "b"])).await.unwrap();
        layers.hold(&names(&["a", "b"]), "one").await.unwrap();
        layers.hold(&names(&["b"]), "two").await.unwrap();

        let busy = layers.release(&names(&["a"])).await.unwrap_err();
        assert_eq!(busy.code(), Code::FAILED_PRECONDITION);
        layers.let_go("one").await;
        layers.release(&names(&["a", "never-seen"])).await.unwrap();
        assert!(layers.release(&names(&["b"])).await.is_err());
        layers.let_go("two").await;
        layers.release(&names(&["b"])).await.unwrap();
        assert!(disks.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_failed_attach_leaves_nothing() {
        let disks = Arc::new(FakeDisks::default());
        let layers = Layers::new(Arc::clone(&disks) as _, "/nowhere".into());
        assert!(layers.attach(&names(&["a", "bad"])).await.is_err());
        assert!(disks.0.lock().unwrap().is_empty());
        let unattached = layers.hold(&names(&["a"]), "one").await.unwrap_err();
        assert_eq!(unattached.code(), Code::FAILED_PRECONDITION);
    }
}
