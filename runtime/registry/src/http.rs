//! HTTP clients: one for each way of proving who somebody is.

use std::{collections::HashMap, path::Path, sync::Mutex, time::Duration};

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
pub(crate) struct Clients(Mutex<HashMap<(Tls, Option<Duration>), Client>>);

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
        let key = (tls.clone(), dial);
        let mut clients = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(tls, dial.unwrap_or(DIAL), progress)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build(tls: &Tls, dial: Duration, progress: Duration) -> Result<Client, String> {
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
    for file in &tls.authorities {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let pem = read(file).map_err(|error| wrong(&error))?;
        let all = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&error))?;
        if all.is_empty() {
            return Err(wrong(&"there is no certificate in it"));
        }
        builder = builder.tls_certs_merge(all);
    }
    // One is shown; more than one there is no choosing among.
    if let Some((certificate, key)) = tls.clients.first() {
        let names = || format!("{} and {}", certificate.display(), key.display());
        let mut pem = read(certificate).map_err(|error| format!("{}: {error}", names()))?;
        if key != certificate {
            pem.push(b'\n');
            pem.extend(read(key).map_err(|error| format!("{}: {error}", names()))?);
        }
        let identity = Identity::from_pem(&pem).map_err(|error| format!("{}: {error}", names()))?;
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
