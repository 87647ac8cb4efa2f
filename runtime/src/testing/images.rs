//! An image store with one image in it.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bulkhead_image::{
    Checked, Digest, FsInfo, Image, ImageConfig, ImportOptions, ImportReport, Problem, Progress,
    Reference, Removed,
};
use bulkhead_registry::AuthConfig;

use super::world::{Hand, World};
use crate::{
    error::{Error, Result},
    pods::images::{ImageHold, Images},
};

/// The name of the image that is there.
pub const IMAGE: &str = "docker.io/library/words:latest";

/// Its id.
pub const IMAGE_ID: &str =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// [`Images`] in memory.
pub struct FakeImages {
    world: Hand,
    images: Mutex<Vec<Arc<Image>>>,
}

impl FakeImages {
    /// A store in `world` with [`IMAGE`] in it.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        Self {
            world: Hand::new(world),
            images: Mutex::new(vec![Arc::new(image())]),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Image>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The image that is there.
#[must_use]
pub(crate) fn image() -> Image {
    let id = Digest::of(b"");
    Image {
        id,
        repo_tags: vec![IMAGE.to_owned()],
        repo_digests: vec![format!("docker.io/library/words@{id}")],
        size_bytes: 4096,
        config: ImageConfig {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            cmd: vec!["sleep".to_owned()],
            env: vec!["LANG=C".to_owned()],
            user: "1000".to_owned(),
            ..ImageConfig::default()
        },
        layers: vec![bulkhead_image::Layer {
            diff_id: id,
            erofs_path: "/nonexistent/layer.erofs".into(),
            erofs_bytes: 4096,
        }],
        imported_at: SystemTime::UNIX_EPOCH,
        pinned: false,
    }
}

struct Hold(Hand);

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.0.holds() {
            return;
        }
        let mut state = self.0.lock();
        state.holds = state.holds.saturating_sub(1);
    }
}

#[async_trait]
impl Images for FakeImages {
    fn resolve(&self, reference: &str) -> Result<Arc<Image>> {
        if reference.is_empty() {
            return Err(Error::invalid("the image name is empty"));
        }
        let named = |image: &&Arc<Image>| {
            let id = image.id.to_string();
            reference == "words"
                || id == reference
                || image.id.hex() == reference
                || image
                    .repo_tags
                    .iter()
                    .chain(&image.repo_digests)
                    .any(|name| name == reference)
        };
        self.lock()
            .iter()
            .find(named)
            .cloned()
            .ok_or_else(|| bulkhead_image::Error::NotFound(reference.to_owned()).into())
    }

    fn list(&self) -> Vec<Arc<Image>> {
        self.lock().clone()
    }

    fn hold(&self, id: &Digest) -> Result<ImageHold> {
        if *id != Digest::of(b"") {
            return Err(bulkhead_image::Error::NotFound(id.to_string()).into());
        }
        self.world.lock().holds += 1;
        Ok(Box::new(Hold(self.world.clone())))
    }

    async fn remove(&self, reference: &str) -> Result<Removed> {
        let image = self.resolve(reference)?;
        self.lock().clear();
        Ok(Removed {
            id: image.id,
            repo_tags: image.repo_tags.clone(),
            freed_bytes: 4096,
        })
    }

    async fn collect(&self) -> Result<u64> {
        Ok(0)
    }

    async fn fs_info(&self) -> Result<FsInfo> {
        Ok(FsInfo {
            path: "/var/lib/bulkhead/images".into(),
            used_bytes: 4096,
            inodes_used: 3,
        })
    }

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    async fn import(
        &self,
        path: PathBuf,
        _options: ImportOptions,
        _progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<ImportReport> {
        Err(Error::invalid(format!(
            "{}: this store takes nothing in",
            path.display()
        )))
    }

    async fn export(
        &self,
        images: Vec<String>,
        mut out: Box<dyn Write + Send>,
        report: Box<dyn Fn(u64, u64) -> io::Result<()> + Send + Sync>,
    ) -> Result<()> {
        // Of the form, if not of the kind: names, again and again.
        let archive = images.join("\n").repeat(100_000);
        let total = archive.len() as u64;
        let write = move || {
            for piece in archive.as_bytes().chunks(64 << 10) {
                report(0, total)?;
                out.write_all(piece)?;
            }
            out.flush()
        };
        let written = tokio::task::spawn_blocking(write).await;
        let written = written.map_err(io::Error::other).flatten();
        written.map_err(|error| Error::internal(format!("write the archive: {error}")))
    }

    async fn check(
        &self,
        repair: bool,
        progress: Box<dyn for<'a> Fn(&'a str) + Send + Sync>,
    ) -> Result<Checked> {
        progress("nothing");
        Ok(Checked {
            images: self.list().len(),
            layers: 0,
            bytes_read: 0,
            problems: Vec::new(),
            repaired: repair,
        })
    }

    async fn pull(
        &self,
        reference: Reference,
        _auth: Option<AuthConfig>,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Arc<Image>> {
        let name = reference.to_string();
        let image = self.resolve(&name)?;
        progress(Progress::Image { name, layers: 0 });
        Ok(image)
    }
}
