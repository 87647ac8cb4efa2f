//! The node's images: the store, and the registries that fill it.

mod bounds;
mod policy;
mod remote;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bulkhead_image::{
    Checked, Digest, FsInfo, Image, ImportOptions, ImportReport, Problem, Progress, PullOptions,
    Reference, Removed, Store,
};
use bulkhead_registry::{AuthConfig, Client, Settings, Sources};

pub(crate) use self::remote::remote_error;
use self::{bounds::Bounds, policy::Demand, remote::Remote};
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
    policy: Option<PathBuf>,
    options: PullOptions,
    bounds: Bounds,
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
            policy: given(&registries.policy),
            options: PullOptions {
                layers_at_once: usize::try_from(registries.layers_at_once).unwrap_or(1),
            },
            bounds: Bounds::new(registries),
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

    async fn export(
        &self,
        images: Vec<String>,
        mut out: Box<dyn Write + Send>,
        report: Box<dyn Fn(u64, u64) -> io::Result<()> + Send + Sync>,
    ) -> Result<()> {
        let store = self.store.clone();
        Ok(bulkhead_image::blocking(move || store.export(&images, &mut *out, &*report)).await?)
    }

    async fn check(
        &self,
        repair: bool,
        progress: Box<dyn for<'a> Fn(&'a str) + Send + Sync>,
    ) -> Result<Checked> {
        let store = self.store.clone();
        Ok(bulkhead_image::blocking(move || store.check(repair, &*progress)).await?)
    }

    async fn pull(
        &self,
        reference: Reference,
        auth: Option<AuthConfig>,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Arc<Image>> {
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
        let demand = Demand::of(self.policy.as_deref(), &reference)?;
        // Who goes away while it waits has asked for nothing.
        let turn = self.bounds.pull().await;
        let remote = Remote::new(
            self.registries.open(&reference, &sources).await?,
            demand,
            self.bounds.downloads(reference.domain()),
        );
        let (store, options) = (self.store.clone(), self.options);
        let name = reference.to_string();
        let pull = move || {
            let _turn = turn;
            store.pull(&reference, &remote, options, &*progress)
        };
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
