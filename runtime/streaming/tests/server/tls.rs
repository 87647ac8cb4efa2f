//! TLS, with a certificate of the tests' own (self-signed for 127.0.0.1).

use std::{path::Path, sync::Arc};

use bulkhead_streaming::{Settings, listen};
use futures::StreamExt as _;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest as _};

use super::{
    OUT,
    backend::{Program, Shell},
};

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/certificate.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/key.pem");

fn settings(certificate: &str, key: &str) -> Settings {
    Settings {
        tls: Some((certificate.into(), key.into())),
        ..Settings::default()
    }
}

fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn sessions_run_over_tls() {
    let (server, listening) = listen(&settings(CERTIFICATE, KEY)).await.unwrap();
    let serving = tokio::spawn(listening.serve(std::future::pending()));
    let url = server.exec(OUT, Shell::new(Program::Write(5, 0))).unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let host = url.split('/').nth(2).unwrap();
    let socket = TcpStream::connect(host).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let socket = connector().connect(name, socket).await.unwrap();
    let mut request = url.replace("https", "wss").into_client_request().unwrap();
    let version = "v5.channel.k8s.io".parse().unwrap();
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", version);
    let (mut socket, _) = client_async(request, socket).await.unwrap();
    let mut said = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_binary() {
            said.push(message.into_data());
        }
    }
    assert!(said.contains(&b"\x01xxxxx".as_slice().into()), "{said:?}");
    let last = String::from_utf8_lossy(said.last().unwrap()).into_owned();
    assert!(last.contains("Success"), "{last}");
    serving.abort();
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    for (certificate, key) in [
        ("/nonexistent/certificate.pem", KEY),
        (KEY, KEY),
        (CERTIFICATE, CERTIFICATE),
    ] {
        let refused = listen(&settings(certificate, key)).await.err().unwrap();
        let named = Path::new(certificate).display().to_string();
        assert!(refused.to_string().contains(&named), "{refused}");
    }
}
