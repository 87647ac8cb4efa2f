//! The client: from a registry's name to the servers that have its content.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bulkhead_image::{Digest, Reference};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};

use crate::{
    blob::Blob,
    credentials::Sources,
    endpoint::{self, Endpoint},
    error::{Attempt, Error, Kind, Result},
    hosts::{Hosts, Tls},
    http::Clients,
    server::{self, Server, Shared},
    signature::{self, Signers},
};

/// What a manifest may be: an index or a manifest, of OCI or of Docker.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where `hosts.toml` files are, one directory for each registry.
    pub hosts: Option<PathBuf>,
    /// A download that has got nothing, or next to nothing, for this long has broken
    /// off.
    pub progress: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: None,
            progress: Duration::from_secs(60),
        }
    }
}

/// A client of registries; its connections are shared by all that it opens.
#[derive(Debug, Default)]
pub struct Client {
    settings: Settings,
    clients: Clients,
}

/// A repository of a registry, as seen with some credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    path: String,
    servers: Arc<[Shared]>,
    progress: Duration,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the bytes.
    pub digest: Digest,
    /// As they came.
    pub bytes: Vec<u8>,
}

impl Client {
    /// A client that has spoken to nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            clients: Clients::default(),
        }
    }

    /// The repository that a reference names. Nobody is asked yet.
    ///
    /// # Errors
    /// A `hosts.toml`, a certificate or credentials that can't be used.
    pub async fn open(&self, reference: &Reference, sources: &Sources) -> Result<Repository> {
        let registry = reference.domain();
        let hosts = match &self.settings.hosts {
            Some(directory) => Hosts::of(directory, registry)?,
            None => Hosts::default(),
        };
        let mut servers = Vec::new();
        for endpoint in endpoint::endpoints(registry, &hosts)? {
            servers.push(Arc::new(self.server(endpoint, registry, sources).await?));
        }
        Ok(Repository {
            name: reference.name(),
            path: reference.path().to_owned(),
            servers: servers.into(),
            progress: self.settings.progress,
        })
    }

    async fn server(
        &self,
        endpoint: Endpoint,
        registry: &str,
        sources: &Sources,
    ) -> Result<Server> {
        let mirror = endpoint.mirror_of.is_some();
        let credentials = sources
            .find(registry, &endpoint.authority(), mirror)
            .await?;
        let file = endpoint.file.clone().unwrap_or_else(|| registry.into());
        let wrong = |why| Error::Hosts {
            file: file.clone(),
            why,
        };
        let progress = self.settings.progress;
        let http = self
            .clients
            .get(&endpoint.tls, endpoint.dial_timeout, progress);
        let elsewhere = self.clients.get(&Tls::default(), None, progress);
        let (http, elsewhere) = (http.map_err(wrong)?, elsewhere.map_err(wrong)?);
        Server::new(endpoint, http, elsewhere, credentials).map_err(wrong)
    }
}

impl Repository {
    /// Fetches what a tag stands for.
    ///
    /// # Errors
    /// No server has it, or it is longer than `limit` bytes.
    pub async fn tagged(&self, tag: &str, limit: u64) -> Result<Manifest> {
        let may = |endpoint: &Endpoint| endpoint.resolves && endpoint.pulls;
        self.manifest(tag, None, limit, may).await
    }

    /// Fetches a manifest or an index by its digest.
    ///
    /// # Errors
    /// No server has it, it is longer than `limit` bytes, or is another one.
    pub async fn by_digest(&self, digest: &Digest, limit: u64) -> Result<Manifest> {
        let may = |endpoint: &Endpoint| endpoint.pulls;
        let name = digest.to_string();
        self.manifest(&name, Some(digest), limit, may).await
    }

    /// Whether one of the signers signed a manifest or an index; if not, why not.
    ///
    /// # Errors
    /// The servers can't be asked.
    pub async fn is_signed(
        &self,
        digest: &Digest,
        signers: &Signers,
    ) -> Result<std::result::Result<(), String>> {
        signature::verify(self, digest, signers).await
    }

    /// A download of a blob of `size` bytes. Nobody is asked before the first read.
    #[must_use]
    pub fn blob(&self, digest: &Digest, size: u64) -> Blob {
        let pulls = self.servers.iter().filter(|it| it.endpoint.pulls);
        Blob::new(
            pulls.cloned().collect(),
            &self.path,
            *digest,
            size,
            self.progress,
        )
    }

    async fn manifest(
        &self,
        name: &str,
        wanted: Option<&Digest>,
        limit: u64,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Result<Manifest> {
        let what = format!("manifests/{name}");
        let mut attempts = Vec::new();
        for server in self.servers.iter().filter(|it| may(&it.endpoint)) {
            match fetch(server, &self.path, &what, wanted, limit, self.progress).await {
                Ok(manifest) => return Ok(manifest),
                Err(attempt) => attempts.push(attempt),
            }
        }
        let separator = if wanted.is_some() { '@' } else { ':' };
        Err(Error::Failed {
            what: format!("manifest of {}{separator}{name}", self.name),
            attempts,
        })
    }
}

async fn fetch(
    server: &Server,
    repository: &str,
    what: &str,
    wanted: Option<&Digest>,
    limit: u64,
    patience: Duration,
) -> std::result::Result<Manifest, Attempt> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
    let mut response = server.get(repository, what, &headers).await?;
    let url = server.endpoint.url(repository, what);
    let failed = |kind, why| server.attempt(&url, kind, why);
    let said = response.headers().get("docker-content-digest");
    let said = said.and_then(|it| it.to_str().ok()?.parse::<Digest>().ok());
    let mut bytes = Vec::new();
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let chunk = tokio::time::timeout_at(deadline, response.chunk()).await;
        let chunk = chunk.map_err(|_| {
            let seconds = patience.as_secs_f32();
            failed(
                Kind::Unavailable,
                format!("not all of it came in {seconds} s"),
            )
        })?;
        match chunk {
            Ok(Some(chunk)) if (bytes.len() + chunk.len()) as u64 > limit => {
                let why = format!("it is longer than {limit} bytes");
                return Err(failed(Kind::Corrupt, why));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(failed(Kind::Unavailable, server::without_url(error))),
        }
    }
    let digest = Digest::of(&bytes);
    // By tag, a server is believed what it stands for; still it must not say one
    // thing and send another.
    match wanted.copied().or(said) {
        Some(expected) if expected != digest => Err(failed(
            Kind::Corrupt,
            format!("it has the digest {digest}, not {expected}"),
        )),
        _ => Ok(Manifest { digest, bytes }),
    }
}
