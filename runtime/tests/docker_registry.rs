//! Pulls from Debian's docker-registry, a real one: TLS, passwords, tokens, mirrors.
//!
//! `tests/host/setup.sh` unpacks the registry in the cache; skopeo and umoci make the
//! image and push it.

// Tests say what they expect by unwrapping it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use base64::Engine as _;
use bulkhead::{Kind, config::Registries, images::NodeImages, pods::images::Images as _};
use bulkhead_image::{Image, Reference, Store};
use bulkhead_registry::AuthConfig;
use bulkhead_test_registry::{Answer, Server};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

const REPOSITORY: &str = "team/app";
const USER: &str = "me";
const PASSWORD: &str = "word";
/// bcrypt of the password, as `htpasswd -B` writes it.
const HTPASSWD: &str = "me:$2b$05$XdDCxIWMS5lHasasxWVRP.xAV1YcJOdqcPmvsDv0/A2qHMjCqPnO6\n";
const START_MAX: Duration = Duration::from_secs(60);

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run tests/host/setup.sh"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// Where `tests/host/setup.sh` has unpacked it.
fn program() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("BULKHEAD_CACHE").unwrap_or_else(|| {
        variable("XDG_CACHE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .unwrap()
            .join("bulkhead")
    });
    cache.join("docker-registry/usr/bin/docker-registry")
}

/// A registry with what was pushed into `storage`; ends when it is dropped.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// `rest`: of its configuration, what is not the same for all.
    fn start(directory: &Path, name: &str, rest: &serde_json::Value) -> Self {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let address = format!("127.0.0.1:{port}");
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": directory.join("storage") } },
            "http": { "addr": address, "secret": "not one" },
        });
        for (section, more) in rest.as_object().unwrap() {
            let keys = config.as_object_mut().unwrap();
            let section = keys.entry(section).or_insert_with(|| json!({}));
            for (key, value) in more.as_object().unwrap() {
                section[key] = value.clone();
            }
        }
        // JSON is YAML.
        let file = directory.join(format!("{name}.yml"));
        fs::write(&file, config.to_string()).unwrap();
        let program = program();
        let child = Command::new(&program)
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            // It tells of every request that it refuses.
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}: run tests/host/setup.sh", program.display())
            });
        let registry = Self { child, address };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes an image of two layers into the storage, as `team/app:1`.
fn push(directory: &Path) {
    let at = |name: &str| directory.join(name).display().to_string();
    let image = format!("{}:latest", at("layout"));
    let (bundle, root) = (at("bundle"), directory.join("bundle/rootfs"));
    run("umoci", &["init", "--layout", &at("layout")]);
    run("umoci", &["new", "--image", &image]);
    run(
        "umoci",
        &["unpack", "--rootless", "--image", &image, &bundle],
    );
    for (file, bytes) in [("one", vec![1; 100_000]), ("two", vec![2; 300_000])] {
        fs::write(root.join(file), bytes).unwrap();
        run(
            "umoci",
            &["repack", "--refresh-bundle", "--image", &image, &bundle],
        );
    }
    let registry = Registry::start(directory, "open", &json!({}));
    let to = format!("docker://{}/{REPOSITORY}:1", registry.address);
    let from = format!("oci:{image}");
    let insecure = ["--insecure-policy", "copy", "--dest-tls-verify=false"];
    run("skopeo", &[&insecure[..], &[&from, &to]].concat());
}

/// An authority, and in files its certificate, and those of a server; which the acceptor
/// has as well.
fn authority(directory: &Path) -> (CertifiedIssuer<'static, KeyPair>, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(directory.join("ca.pem"), issuer.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    fs::write(directory.join("server.pem"), server.pem()).unwrap();
    fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (issuer, TlsAcceptor::from(Arc::new(config)))
}

fn tls(directory: &Path) -> serde_json::Value {
    json!({ "certificate": directory.join("server.pem"), "key": directory.join("server.key") })
}

/// A node that knows of a registry by what is in its `hosts.toml`.
fn node(directory: &Path, registry: &str, hosts: &str) -> NodeImages {
    let hosts_dir = directory.join("hosts");
    let own = hosts_dir.join(registry.replace(':', "_") + "_");
    let own = match registry.contains(':') {
        true => own,
        false => hosts_dir.join(registry),
    };
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("hosts.toml"), hosts).unwrap();
    let store = Store::open(directory.join("store")).unwrap();
    NodeImages::new(
        store,
        &Registries {
            hosts_dir,
            ..Registries::default()
        },
    )
}

fn auth(username: &str, password: &str) -> Option<AuthConfig> {
    Some(AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    })
}

fn whole(image: &Image) {
    assert_eq!(image.layers.len(), 2, "{image:?}");
    assert!(image.size_bytes > 400_000, "{image:?}");
}

async fn pull_with(
    node: &NodeImages,
    reference: Reference,
    auth: Option<AuthConfig>,
) -> bulkhead::Result<Arc<Image>> {
    node.pull(reference, auth, Box::new(|_| ())).await
}

/// By tag, then by the digest that the tag stood for: the same image.
async fn by_tag_and_digest(node: &NodeImages, name: &str, auth: Option<AuthConfig>) {
    let pull = async |name: &str| {
        let reference = Reference::parse(name).unwrap();
        pull_with(node, reference, auth.clone()).await.unwrap()
    };
    let image = pull(&format!("{name}:1")).await;
    whole(&image);
    assert_eq!(image.repo_tags, [format!("{name}:1")]);
    let [by_digest] = &image.repo_digests[..] else {
        panic!("{image:?}");
    };
    assert_eq!(pull(by_digest).await.id, image.id);
    node.remove(&image.id.to_string()).await.unwrap();
    let again = pull(by_digest).await;
    whole(&again);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    push(directory);
    authority(directory);
    let htpasswd = directory.join("htpasswd");
    fs::write(&htpasswd, HTPASSWD).unwrap();
    let registry = Registry::start(
        directory,
        "basic",
        &json!({
            "http": { "tls": tls(directory) },
            "auth": { "htpasswd": { "realm": "r", "path": htpasswd } },
        }),
    );
    let address = &registry.address;
    let ca = directory.join("ca.pem");
    let hosts = format!("server = \"https://{address}\"\nca = {ca:?}\n");
    let node = node(directory, address, &hosts);
    let name = format!("{address}/{REPOSITORY}");
    for (auth, words) in [
        (None, "without credentials"),
        (auth(USER, "another"), "the credentials from the request"),
    ] {
        let reference = Reference::parse(&name).unwrap();
        let refused = pull_with(&node, reference, auth).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::PermissionDenied, "{refused}");
        assert!(refused.to_string().contains(words), "{refused}");
    }
    by_tag_and_digest(&node, &name, auth(USER, PASSWORD)).await;
}

/// A token for docker-registry: a JWT (RFC 7519) whose key's certificate is in its
/// head (RFC 7515, section 4.1.6). Source: the distribution project, "Token
/// Authentication Specification".
fn token(issuer: &CertifiedIssuer<'_, KeyPair>) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let certificate = base64::engine::general_purpose::STANDARD.encode(issuer.der());
    let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [certificate] });
    let claims = json!({
        "iss": "tests", "sub": USER, "aud": "the registry", "jti": "1",
        "iat": now, "nbf": now - 60, "exp": now + 300,
        "access": [{ "type": "repository", "name": REPOSITORY, "actions": ["pull"] }],
    });
    let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let signed = [head, claims]
        .map(|it| text(it.to_string().as_bytes()))
        .join(".");
    let random = ring::rand::SystemRandom::new();
    let key = issuer.key().serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random).unwrap();
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", text(signature.as_ref()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    push(directory);
    let (issuer, acceptor) = authority(directory);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let basic = format!("Basic {basic}");
    let tokens = Server::tls(acceptor, move |asked| {
        assert!(
            asked
                .target
                .contains("scope=repository%3Ateam%2Fapp%3Apull"),
            "{asked:?}"
        );
        match asked.header("authorization") == basic {
            true => Answer::new(200, json!({ "token": token(&issuer) }).to_string()),
            false => Answer::new(401, ""),
        }
    })
    .await;
    let registry = Registry::start(
        directory,
        "tokens",
        &json!({
            "http": { "tls": tls(directory) },
            "auth": { "token": {
                "realm": format!("https://{}/token", tokens.address),
                "service": "the registry", "issuer": "tests",
                "rootcertbundle": directory.join("ca.pem"),
            } },
        }),
    );
    let address = &registry.address;
    let ca = directory.join("ca.pem");
    let hosts = format!("server = \"https://{address}\"\nca = {ca:?}\n");
    let node = node(directory, address, &hosts);
    let name = format!("{address}/{REPOSITORY}");
    let reference = Reference::parse(&name).unwrap();
    let refused = pull_with(&node, reference, auth(USER, "another"))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied, "{refused}");
    by_tag_and_digest(&node, &name, auth(USER, PASSWORD)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    push(directory);
    let empty = directory.join("empty");
    fs::create_dir(&empty).unwrap();
    let without = Registry::start(&empty, "without", &json!({}));
    let with = Registry::start(directory, "with", &json!({}));
    let hosts = format!(
        "no_fallback = true\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
        without.address, with.address
    );
    let node = node(directory, "registry.example", &hosts);
    let name = format!("registry.example/{REPOSITORY}");
    by_tag_and_digest(&node, &name, None).await;
    let reference = Reference::parse(&format!("{name}:2")).unwrap();
    let refused = pull_with(&node, reference, None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound, "{refused}");
    // Both were asked, and by whose word.
    for server in [&without, &with] {
        assert!(refused.to_string().contains(&server.address), "{refused}");
    }
    assert!(refused.to_string().contains("hosts.toml"), "{refused}");
}
