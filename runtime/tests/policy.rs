//! Images that may not be pulled, or only with a signature, against a registry in the
//! test.

// Tests say what they expect by unwrapping it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path, sync::Arc};

use base64::Engine as _;
use bulkhead::{Kind, config::Registries, images::NodeImages, pods::images::Images as _};
use bulkhead_erofs::testing::{Archive, Item};
use bulkhead_image::{Digest, Image, Reference, Store};
use bulkhead_test_registry::{Content, Server};
use p256::{
    ecdsa::{DerSignature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use serde_json::json;

const REPOSITORY: &str = "team/app";
const NAME: &str = "registry.example/team/app:1";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({
        "mediaType": media_type, "size": bytes.len(), "digest": Digest::of(bytes).to_string(),
    })
}

/// An image under the tag 1; and its manifest's digest.
fn image() -> (Content, Digest) {
    let layer = Archive::new().add(Item::file("a", "b")).finish();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let digest = Digest::of(manifest.as_bytes());
    let mut content = Content::default();
    for name in ["1", &digest.to_string()] {
        content = content.manifest(REPOSITORY, name, MANIFEST, manifest.as_bytes());
    }
    for blob in [config.as_bytes(), &layer] {
        content = content.blob(REPOSITORY, &Digest::of(blob).to_string(), blob);
    }
    (content, digest)
}

/// What is signed of an image.
fn payload(signed: &Digest) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": "registry.example/team/app" },
            "image": { "docker-manifest-digest": signed.to_string() },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

/// Adds a signature of `signed` as one of `image`.
fn sign(content: Content, image: &Digest, signed: &Digest, key: &SigningKey) -> Content {
    let payload = payload(signed);
    let signature: DerSignature = key.sign(payload.as_bytes());
    let annotations = json!({ "dev.cosignproject.cosign/signature": base64(signature.as_bytes()) });
    with_signature(content, image, &payload, annotations)
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Adds what was signed, and what lies beside it.
fn with_signature(
    content: Content,
    image: &Digest,
    payload: &str,
    annotations: serde_json::Value,
) -> Content {
    let media_type = "application/vnd.dev.cosign.simplesigning.v1+json";
    let mut layer = descriptor(media_type, payload.as_bytes());
    layer["annotations"] = annotations;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": [layer],
    });
    let tag = format!("sha256-{}.sig", image.hex());
    content
        .manifest(REPOSITORY, &tag, MANIFEST, manifest.to_string().as_bytes())
        .blob(
            REPOSITORY,
            &Digest::of(payload.as_bytes()).to_string(),
            payload.as_bytes(),
        )
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_slice(&[byte; 32]).unwrap()
}

fn node(directory: &Path, server: &Server, policy: &str) -> NodeImages {
    let hosts = directory.join("hosts/registry.example");
    fs::create_dir_all(&hosts).unwrap();
    let text = format!("server = \"http://{}\"\n", server.address);
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    fs::write(directory.join("policy.toml"), policy).unwrap();
    let public = key(1).verifying_key().to_public_key_pem(LineEnding::LF);
    fs::write(directory.join("team.pub"), public.unwrap()).unwrap();
    NodeImages::new(
        Store::open(directory.join("store")).unwrap(),
        &Registries {
            hosts_dir: directory.join("hosts"),
            policy: directory.join("policy.toml"),
            ..Registries::default()
        },
    )
}

const SIGNED: &str = r#"
[scope."*"]
action = "deny"
[scope."registry.example/team"]
action = "signed"
keys = ["team.pub"]
"#;

async fn pull(node: &NodeImages) -> bulkhead::Result<Arc<Image>> {
    let reference = Reference::parse(NAME).unwrap();
    node.pull(reference, None, Box::new(|_| ())).await
}

async fn refused(content: Content, words: &str) {
    let server = Server::plain(move |asked| content.answer(asked)).await;
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), &server, SIGNED);
    let error = pull(&node).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
    assert!(
        text.contains(words) && text.contains("registry.example/team"),
        "{text}"
    );
    assert!(node.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_a_signature_is_pulled() {
    let (content, digest) = image();
    let content = sign(content, &digest, &digest, &key(1));
    let server = Server::plain(move |asked| content.answer(asked)).await;
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), &server, SIGNED);
    assert_eq!(pull(&node).await.unwrap().repo_tags, [NAME]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_the_right_signature_is_refused() {
    let (content, digest) = image();
    refused(content.clone(), "has no signature").await;
    let stranger = sign(content.clone(), &digest, &digest, &key(2));
    refused(stranger, "none of the keys").await;
    let another = sign(content, &digest, &Digest::of(b"another"), &key(1));
    refused(another, "another image").await;
}

/// Adds a signature by someone with a certificate for minutes; and returns the authority's
/// certificate.
fn sign_as(content: Content, image: &Digest, who: &str, log: &SigningKey) -> (Content, String) {
    let (authority_key, signer) = (KeyPair::generate().unwrap(), key(7));
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.subject_alt_names = vec![SanType::Rfc822Name(who.try_into().unwrap())];
    let voucher = b"https://issuer.example".to_vec();
    let id = &[1, 3, 6, 1, 4, 1, 57264, 1, 1];
    params.custom_extensions = vec![CustomExtension::from_oid_content(id, voucher)];
    let signer_pair = signer.to_pkcs8_pem(LineEnding::LF).unwrap();
    let signer_pair = KeyPair::from_pem(&signer_pair).unwrap();
    let authority = Issuer::new(authority, authority_key);
    let certificate = params.signed_by(&signer_pair, &authority).unwrap().pem();

    let payload = payload(image);
    let signature: DerSignature = signer.sign(payload.as_bytes());
    let signature = base64(signature.as_bytes());
    let body = json!({
        "apiVersion": "0.0.1", "kind": "hashedrekord",
        "spec": {
            "data": { "hash": {
                "algorithm": "sha256", "value": Digest::of(payload.as_bytes()).hex(),
            } },
            "signature": {
                "content": signature,
                "publicKey": { "content": base64(certificate.as_bytes()) },
            },
        },
    });
    let body = base64(body.to_string().as_bytes());
    let entry =
        format!(r#"{{"body":"{body}","integratedTime":1700000000,"logID":"00","logIndex":1}}"#);
    let promise: DerSignature = log.sign(entry.as_bytes());
    let promise = base64(promise.as_bytes());
    let annotations = json!({
        "dev.cosignproject.cosign/signature": signature,
        "dev.sigstore.cosign/certificate": certificate,
        "dev.sigstore.cosign/bundle":
            format!(r#"{{"SignedEntryTimestamp":"{promise}","Payload":{entry}}}"#),
    });
    (with_signature(content, image, &payload, annotations), pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_an_identity_signed_is_pulled() {
    let policy = r#"
        [scope."*"]
        action = "signed"
        identities = [{ issuer = "https://issuer.example", subject = "builder@team.example" }]
        authorities = "authority.pem"
        logs = ["team.pub"]
    "#;
    for (who, log, words) in [
        ("builder@team.example", 1, None),
        ("mallory@team.example", 1, Some("mallory@team.example")),
        ("builder@team.example", 2, Some("a log that is believed")),
    ] {
        let (content, digest) = image();
        let (content, authority) = sign_as(content, &digest, who, &key(log));
        let server = Server::plain(move |asked| content.answer(asked)).await;
        let directory = tempfile::tempdir().unwrap();
        let node = node(directory.path(), &server, policy);
        fs::write(directory.path().join("authority.pem"), authority).unwrap();
        match (pull(&node).await, words) {
            (Ok(image), None) => assert_eq!(image.repo_tags, [NAME]),
            (Err(error), Some(words)) => {
                assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
                assert!(error.to_string().contains(words), "{error}");
            }
            (other, _) => panic!("{who}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_forbidden_is_not_even_asked() {
    let (content, _) = image();
    let server = Server::plain(move |asked| content.answer(asked)).await;
    let directory = tempfile::tempdir().unwrap();
    let policy = "[scope.\"*\"]\naction = \"deny\"\n";
    let node = node(directory.path(), &server, policy);
    let error = pull(&node).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    // A change counts at once.
    let policy = "[scope.\"*\"]\naction = \"allow\"\n";
    fs::write(directory.path().join("policy.toml"), policy).unwrap();
    pull(&node).await.unwrap();
}
