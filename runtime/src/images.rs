//! The node's images: the store, and the registries that fill it.

use std::{io::Read, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bulkhead_image::{
    Digest, Error as ImageError, ErrorKind, FsInfo, Image, ImportOptions, ImportReport, Problem,
    Progress, PullOptions, Reference, Removed, Repository, Store,
};
use bulkhead_registry::{Blob, Client, Kind as Why, RequestAuth, Settings, Sources};
use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    config,
    error::{Error, Result},
    pods::images::{ImageHold, Images},
};

/// Images of this node.
pub struct NodeImages {
    store: Store,
    registries: Client,
    docker_config: Option<PathBuf>,
    options: PullOptions,
    /// No registry is asked.
    offline: bool,
}

impl NodeImages {
    /// A store, and how registries are spoken to.
    #[must_use]
    pub fn new(store: Store, registries: &config::Registries) -> Self {
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        Self {
            store,
            registries: Client::new(Settings {
                hosts: given(&registries.hosts_dir),
                progress: Duration::from_secs(registries.progress_timeout_seconds.into()),
            }),
            docker_config: given(&registries.docker_config),
            options: PullOptions {
                layers_at_once: usize::try_from(registries.layers_at_once).unwrap_or(1),
            },
            offline: registries.offline,
        }
    }
}

#[async_trait]
impl Images for NodeImages {
    fn resolve(&self, reference: &str) -> Result<Arc<Image>> {
        if reference.is_empty() {
            return Err(Error::invalid("the image name is empty"));
        }
        Ok(self.store.resolve(reference)?)
    }

    fn list(&self) -> Vec<Arc<Image>> {
        self.store.list()
    }

    fn hold(&self, id: &Digest) -> Result<ImageHold> {
        Ok(Box::new(self.store.hold(id)?))
    }

    async fn remove(&self, reference: &str) -> Result<Removed> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        Ok(bulkhead_image::blocking(move || store.remove(&reference)).await?)
    }

    async fn collect(&self) -> Result<u64> {
        let store = self.store.clone();
        Ok(bulkhead_image::blocking(move || store.collect()).await?)
    }

    async fn fs_info(&self) -> Result<FsInfo> {
        let store = self.store.clone();
        Ok(bulkhead_image::blocking(move || store.fs_info()).await?)
    }

    fn problems(&self) -> Vec<Problem> {
        self.store.problems()
    }

    async fn import(
        &self,
        path: PathBuf,
        options: ImportOptions,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<ImportReport> {
        let store = self.store.clone();
        Ok(bulkhead_image::blocking(move || store.import(&path, &options, &*progress)).await?)
    }

    async fn pull(&self, reference: Reference, auth: Option<RequestAuth>) -> Result<Arc<Image>> {
        if self.offline {
            let name = reference.to_string();
            return self.store.resolve(&name).map_err(|_| {
                Error::not_found(format!(
                    "{name} was not imported, and this node asks no registry \
                     (registries.offline): `bulkhead image import FILE` takes it in from a file"
                ))
            });
        }
        let sources = Sources {
            request: auth,
            docker: self.docker_config.clone(),
            helpers: None,
        };
        let remote = Remote {
            repository: self.registries.open(&reference, &sources).await?,
            handle: Handle::current(),
        };
        let (store, options) = (self.store.clone(), self.options);
        let name = reference.to_string();
        let pull = move || store.pull(&reference, &remote, options, &|_| ());
        let report = bulkhead_image::blocking(pull).await?;
        tracing::info!(
            image = name,
            bytes = report.bytes_read,
            layers = report.layers_converted,
            reused = report.layers_reused,
            took = ?report.elapsed,
            "pulled"
        );
        let image = report.images.into_iter().next();
        image.ok_or_else(|| Error::internal("nothing came of it"))
    }
}

/// A repository for threads that may block.
struct Remote {
    repository: bulkhead_registry::Repository,
    handle: Handle,
}

impl Repository for Remote {
    fn tagged(&self, tag: &str, limit: u64) -> Result<(Digest, Vec<u8>), ImageError> {
        let manifest = self.handle.block_on(self.repository.tagged(tag, limit));
        let manifest = manifest.map_err(remote_error)?;
        Ok((manifest.digest, manifest.bytes))
    }

    fn by_digest(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let manifest = self
            .handle
            .block_on(self.repository.by_digest(digest, limit));
        Ok(manifest.map_err(remote_error)?.bytes)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read>, ImageError> {
        Ok(Box::new(Download {
            blob: Some(self.repository.blob(digest, size)),
            handle: self.handle.clone(),
            rest: Bytes::new(),
        }))
    }
}

/// A download as a reader. After an error it is at its end.
struct Download {
    blob: Option<Blob>,
    handle: Handle,
    rest: Bytes,
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            let Some(blob) = &mut self.blob else {
                return Ok(0);
            };
            match self.handle.block_on(blob.chunk()) {
                Ok(Some(bytes)) => self.rest = bytes,
                Ok(None) => self.blob = None,
                Err(error) => {
                    self.blob = None;
                    return Err(remote_error(error).into_io());
                }
            }
        }
        let now = self.rest.split_to(buf.len().min(self.rest.len()));
        if let Some(room) = buf.get_mut(..now.len()) {
            room.copy_from_slice(&now);
        }
        Ok(now.len())
    }
}

pub(crate) fn remote_error(error: bulkhead_registry::Error) -> ImageError {
    let kind = match error.kind() {
        Why::NotFound => ErrorKind::NotFound,
        Why::Denied => ErrorKind::Denied,
        Why::Unavailable => ErrorKind::Unavailable,
        Why::Corrupt => ErrorKind::Corrupt,
        Why::Invalid => ErrorKind::Invalid,
    };
    ImageError::Remote {
        kind,
        source: Box::new(error),
    }
}
