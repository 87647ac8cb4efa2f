//! Who this node is to a registry: from the request, or from a docker configuration.
//!
//! Sources: AuthConfig of CRI's api.proto; Docker's config.json, where `auths` holds
//! secrets, and `credHelpers` and `credsStore` name programs `docker-credential-NAME`
//! that are asked (docker-credential-helpers: the server on standard input, JSON on
//! standard output).

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Error, Result};

/// The largest configuration and the longest answer of a helper, in bytes.
const TEXT_MAX: u64 = 1 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// What Docker's configuration calls Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// Something that proves who this node is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// For a token server: an OAuth2 refresh token.
    IdentityToken(String),
    /// For the registry itself: sent as it is.
    RegistryToken(String),
}

// What it holds must not get into a log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}

/// A secret, whose it is, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) secret: Secret,
    /// For messages: `the request`, or a file.
    pub(crate) source: String,
}

/// What a client of CRI gives along with a pull, and what Docker's configuration has
/// for a registry. Empty fields count as none.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Its password.
    pub password: String,
    /// `user:password` in base64, in place of both.
    pub auth: String,
    /// The server that they are for; any if it is empty. Not in Docker's configuration.
    #[serde(skip)]
    pub server_address: String,
    /// An OAuth2 refresh token.
    #[serde(rename = "identitytoken")]
    pub identity_token: String,
    /// A bearer token.
    #[serde(rename = "registrytoken")]
    pub registry_token: String,
}

// What it holds must not get into a log.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthConfig")
    }
}

impl AuthConfig {
    /// The secret, if there is one.
    ///
    /// # Errors
    /// `auth` is not what it should be.
    fn secret(&self) -> std::result::Result<Option<Secret>, String> {
        if !self.registry_token.is_empty() {
            return Ok(Some(Secret::RegistryToken(self.registry_token.clone())));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Secret::IdentityToken(self.identity_token.clone())));
        }
        if !self.username.is_empty() || !self.password.is_empty() {
            return Ok(Some(Secret::Password {
                user: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        decode(&self.auth).map(Some)
    }
}

/// `user:password` in base64.
fn decode(auth: &str) -> std::result::Result<Secret, String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.trim())
        .map_err(|_| "its auth is not base64".to_owned())?;
    let text = String::from_utf8(bytes).map_err(|_| "its auth is not UTF-8".to_owned())?;
    let (user, password) = text
        .split_once(':')
        .ok_or("its auth is not user:password in base64")?;
    Ok(Secret::Password {
        user: user.to_owned(),
        // Some tools pad with zeroes.
        password: password.trim_end_matches('\0').to_owned(),
    })
}

/// Host and port of what names a server in many ways: with a scheme, with a path.
fn authority(server: &str) -> &str {
    let server = match server.split_once("://") {
        Some((_, rest)) => rest,
        None => server,
    };
    let host = server.split('/').next().unwrap_or_default();
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Where credentials are looked for.
#[derive(Clone, Default)]
pub struct Sources {
    /// What came with the request.
    pub request: Option<AuthConfig>,
    /// Docker's configuration.
    pub docker: Option<PathBuf>,
    /// Where its credential helpers are; in the search path without it.
    pub helpers: Option<PathBuf>,
}

impl Sources {
    /// The credentials for a server that is asked for the content of `registry`;
    /// `mirror` if it is another one. What came with a request and names no server is
    /// for the registry itself: a mirror, which somebody else may run, does not get it.
    ///
    /// # Errors
    /// A source can't be read or understood.
    pub(crate) async fn find(
        &self,
        registry: &str,
        server: &str,
        mirror: bool,
    ) -> Result<Option<Credentials>> {
        let from_request = |why| Error::Credentials {
            source_name: "the request".to_owned(),
            why,
        };
        if let Some(request) = &self.request
            && let Some(secret) = request.secret().map_err(from_request)?
        {
            let named = authority(&request.server_address);
            let fits = match named {
                "" => !mirror,
                named => named == authority(server) || (!mirror && named == registry),
            };
            if fits {
                return Ok(Some(Credentials {
                    secret,
                    source: "the request".to_owned(),
                }));
            }
        }
        let Some(path) = &self.docker else {
            return Ok(None);
        };
        let name = if mirror { authority(server) } else { registry };
        from_docker(path, name, self.helpers.as_deref()).await
    }
}

#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, AuthConfig>,
    #[serde(rename = "credHelpers", default)]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore", default)]
    store: String,
}

/// Where a document is wrong. The parser's own words may quote what is in it.
fn where_wrong(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "not what Docker's configuration has there",
        _ => "not JSON",
    };
    format!("line {}, column {}: {what}", error.line(), error.column())
}

async fn from_docker(
    path: &Path,
    registry: &str,
    helpers: Option<&Path>,
) -> Result<Option<Credentials>> {
    let wrong = |why: String| Error::Credentials {
        source_name: path.display().to_string(),
        why,
    };
    let mut text = Vec::new();
    match tokio::fs::File::open(path).await {
        Ok(file) => {
            let read = file.take(TEXT_MAX).read_to_end(&mut text).await;
            read.map_err(|error| wrong(error.to_string()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    }
    let config: DockerConfig =
        serde_json::from_slice(&text).map_err(|error| wrong(where_wrong(&error)))?;
    let (secret, source) = match config.place(registry).map_err(wrong)? {
        Place::Nowhere => return Ok(None),
        Place::Here(secret) => (Some(secret), path.display().to_string()),
        Place::Helper(helper, server) => {
            let secret = ask(&helper, &server, helpers).await.map_err(wrong)?;
            (
                secret,
                format!("docker-credential-{helper} (by {})", path.display()),
            )
        }
    };
    Ok(secret.map(|secret| Credentials { secret, source }))
}

/// Where a configuration says that a registry's secret is.
enum Place {
    Nowhere,
    Here(Secret),
    /// A helper's name, and what it knows the registry by.
    Helper(String, String),
}

impl DockerConfig {
    fn place(&self, registry: &str) -> std::result::Result<Place, String> {
        let named = |name: &&String| authority(name) == registry;
        if let Some(name) = self.helpers.keys().find(named)
            && let Some(helper) = self.helpers.get(name)
        {
            return Ok(Place::Helper(helper.clone(), name.clone()));
        }
        let entry = self.auths.iter().find(|(name, _)| named(name));
        if let Some((_, auth)) = entry
            && let Some(secret) = auth.secret()?
        {
            return Ok(Place::Here(secret));
        }
        // With a store, entries are there and empty.
        Ok(match self.store.is_empty() {
            true => Place::Nowhere,
            false => {
                let server = match (entry, registry) {
                    (Some((name, _)), _) => name.clone(),
                    (None, "docker.io") => HUB.to_owned(),
                    (None, other) => other.to_owned(),
                };
                Place::Helper(self.store.clone(), server)
            }
        })
    }
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    user: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Asks a helper. One that knows of nothing says so and fails.
async fn ask(
    helper: &str,
    server: &str,
    helpers: Option<&Path>,
) -> std::result::Result<Option<Secret>, String> {
    // It becomes a program's name: nothing that could lead elsewhere.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if helper.is_empty() || !helper.bytes().all(plain) {
        return Err(format!("{helper:?} is no credential helper's name"));
    }
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| format!("{program} get: {why}");
    let file = helpers.map_or_else(|| program.clone().into(), |it| it.join(&program));
    let mut child = tokio::process::Command::new(file)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut stdin) = stdin {
            // One that reads nothing may have ended already.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(TEXT_MAX).read_to_end(&mut answer).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, answer))
    };
    let (status, answer) = tokio::time::timeout(HELPER_TIMEOUT, talk)
        .await
        .map_err(|_| failed(format!("no answer within {HELPER_TIMEOUT:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&answer);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let said: String = said.trim().chars().take(256).collect();
        return Err(failed(format!("{status}: {said}")));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&answer).map_err(|_| failed("its answer is not JSON".to_owned()))?;
    Ok(Some(match answer.user.as_str() {
        "<token>" => Secret::IdentityToken(answer.secret),
        _ => Secret::Password {
            user: answer.user,
            password: answer.secret,
        },
    }))
}
