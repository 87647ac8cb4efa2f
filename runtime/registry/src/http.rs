//! HTTP clients: one for each way of proving who somebody is.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Certificate, Client, Identity, redirect};

use crate::hosts::Tls;

/// Until a connection stands, TLS and all.
const DIAL: Duration = Duration::from_secs(30);
/// A connection that nobody uses is closed: the next pull may be hours away.
const IDLE: Duration = Duration::from_secs(5);
const AGENT: &str = concat!("bulkhead/", env!("CARGO_PKG_VERSION"));
/// The largest file of certificates, in bytes.
const PEM_MAX: u64 = 4 << 20;

/// Clients by what they trust and show; each keeps its connections.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<Known>);

/// By what they are for, and how long they wait for a connection.
type Known = HashMap<(Tls, Option<Duration>), (Material, Client)>;

/// What is in the files that a [`Tls`] names. They are read for every pull, so that a
/// certificate that was renewed is the one that is shown.
#[derive(Default, PartialEq, Eq)]
struct Material {
    authorities: Vec<Vec<u8>>,
    /// Certificate and key.
    identity: Option<Vec<u8>>,
}

// There is a private key in it.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material")
    }
}

impl Clients {
    /// The client for a server. Its requests fail when nothing has come for
    /// `progress`: however long a download takes, one that moves goes on.
    ///
    /// # Errors
    /// A certificate or key can't be read or understood: it is named.
    pub(crate) fn get(
        &self,
        tls: &Tls,
        dial: Option<Duration>,
        progress: Duration,
    ) -> Result<Client, String> {
        let material = Material::read(tls)?;
        let key = (tls.clone(), dial);
        if let Some((known, client)) = self.lock().get(&key)
            && *known == material
        {
            return Ok(client.clone());
        }
        let client = build(tls, &material, dial.unwrap_or(DIAL), progress)?;
        self.lock().insert(key, (material, client.clone()));
        Ok(client)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Material {
    fn read(tls: &Tls) -> Result<Self, String> {
        let read =
            |file: &PathBuf| read(file).map_err(|error| format!("{}: {error}", file.display()));
        let authorities = tls.authorities.iter().map(read).collect::<Result<_, _>>()?;
        // One is shown; among more than one there is no choosing.
        let identity = match tls.clients.first() {
            None => None,
            Some((certificate, key)) => {
                let mut pem = read(certificate)?;
                if key != certificate {
                    pem.push(b'\n');
                    pem.extend(read(key)?);
                }
                Some(pem)
            }
        };
        Ok(Self {
            authorities,
            identity,
        })
    }
}

fn build(
    tls: &Tls,
    material: &Material,
    dial: Duration,
    progress: Duration,
) -> Result<Client, String> {
    // The process has one; somebody else may have set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(AGENT)
        .connect_timeout(dial)
        .read_timeout(progress)
        .pool_idle_timeout(IDLE)
        // Followed by hand: credentials stay with who they are for.
        .redirect(redirect::Policy::none())
        // Content is verified as it is stored.
        .no_gzip()
        .no_zstd()
        .no_brotli()
        .no_deflate()
        .tls_danger_accept_invalid_certs(tls.skip_verify);
    for (file, pem) in tls.authorities.iter().zip(&material.authorities) {
        let wrong = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
        let all = Certificate::from_pem_bundle(pem).map_err(|error| wrong(&error))?;
        if all.is_empty() {
            return Err(wrong(&"there is no certificate in it"));
        }
        builder = builder.tls_certs_merge(all);
    }
    if let (Some((certificate, key)), Some(pem)) = (tls.clients.first(), &material.identity) {
        let identity = Identity::from_pem(pem).map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            format!("{certificate} and {key}: {error}")
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| error.to_string())
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(file)?;
    file.take(PEM_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
