//! Servers that prove who they are, and want the same of this node.

use std::{path::Path, sync::Arc};

use bulkhead_registry::Kind;
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use bulkhead_test_registry::{Answer, Server};

use crate::{MIB, Node};

/// An authority, and what it signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn sign(&self, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server's side; with `clients`, only for those that it signed.
    fn acceptor(&self, clients: bool) -> TlsAcceptor {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = match clients {
            false => ServerConfig::builder().with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(self.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                    .build()
                    .unwrap();
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![certificate.der().clone()];
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).unwrap();
    }
}

async fn server(acceptor: TlsAcceptor) -> Server {
    Server::tls(acceptor, |_| Answer::new(200, "content")).await
}

fn file(server: &Server, rest: &str) -> String {
    format!("server = \"https://{}\"\n{rest}", server.address)
}

#[tokio::test]
async fn a_custom_authority() {
    let authority = Authority::new();
    let server = server(authority.acceptor(false)).await;
    let node = Node::new(&file(&server, ""));
    let error = node.open().await.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(server.asked().is_empty());

    let node = Node::new(&file(&server, "ca = \"ca.pem\"\n"));
    let reference = bulkhead_image::Reference::parse("r.example/team/app").unwrap();
    let error = node
        .client
        .open(&reference, &<_>::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    authority.write(&node.path().join("r.example/ca.pem"));
    node.open().await.tagged("1", MIB).await.unwrap();
}

#[tokio::test]
async fn whoever_it_is() {
    let server = server(Authority::new().acceptor(false)).await;
    let node = Node::new(&file(&server, "skip_verify = true\n"));
    node.open().await.tagged("1", MIB).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate() {
    let authority = Authority::new();
    let server = server(authority.acceptor(true)).await;
    let node = Node::new(&file(&server, "ca = \"ca.pem\"\n"));
    authority.write(&node.path().join("r.example/ca.pem"));
    let error = node.open().await.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");

    let hosts = "ca = \"ca.pem\"\nclient = [[\"client.pem\", \"client.key\"]]\n";
    let node = Node::new(&file(&server, hosts));
    let own = node.path().join("r.example");
    authority.write(&own.join("ca.pem"));
    let (certificate, key) = authority.sign(ExtendedKeyUsagePurpose::ClientAuth);
    std::fs::write(own.join("client.pem"), certificate.pem()).unwrap();
    std::fs::write(own.join("client.key"), key.serialize_pem()).unwrap();
    node.open().await.tagged("1", MIB).await.unwrap();
}

#[tokio::test]
async fn a_server_in_the_open_where_tls_is_spoken() {
    let plain = Server::plain(|_| Answer::new(200, "content")).await;
    let node = Node::new(&file(&plain, ""));
    let error = node.open().await.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn an_authority_that_is_renewed_is_trusted_at_once() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = server(new.acceptor(false)).await;
    let node = Node::new(&file(&server, "ca = \"ca.pem\"\n"));
    let path = node.path().join("r.example/ca.pem");
    old.write(&path);
    node.open().await.tagged("1", MIB).await.unwrap_err();
    new.write(&path);
    node.open().await.tagged("1", MIB).await.unwrap();
}
