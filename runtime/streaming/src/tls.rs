//! TLS, where the operator gives a certificate.

use std::{fs, io, path::Path, sync::Arc};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// Largest PEM file that is read, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Accepts TLS with the certificate chain and the key of two PEM files.
///
/// # Errors
/// Which file can't be used, and why.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let wrong = |path: &Path, why: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {why}", path.display()),
        )
    };
    let read = |path: &Path| {
        let read = fs::metadata(path).and_then(|it| match it.len() {
            len if len > FILE_MAX => Err(io::ErrorKind::FileTooLarge.into()),
            _ => fs::read(path),
        });
        read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "no certificate is in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| wrong(key, error.to_string()))?;
    let provider = Arc::new(crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(|error| wrong(certificate, error.to_string()))?;
    // Upgrades are a thing of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
