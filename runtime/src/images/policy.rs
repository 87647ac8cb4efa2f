//! Which images may be pulled: allowed, forbidden, or only with a signature.
//!
//! A file of its own, read for every pull, so that a change of it counts at once:
//!
//! ```toml
//! [scope."*"]                        # everything else; must be there
//! action = "deny"
//! [scope."registry.example"]
//! action = "allow"
//! [scope."registry.example/team"]    # the longest scope that fits counts
//! action = "signed"                  # by one of these keys, as `cosign sign --key` does
//! keys = ["team.pub"]                # relative to the file
//! [scope."registry.example/built"]
//! action = "signed"                  # by one of these, as `cosign sign` does without a key
//! identities = [{ issuer = "https://issuer.example", subject = "builder@team.example" }]
//! authorities = "fulcio.pem"         # who vouches for them: certificates
//! logs = ["rekor.pub"]               # keys of transparency logs
//! ```
//!
//! Names are whole: `docker.io/library/busybox`. A file that can't be read or understood
//! forbids everything.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use bulkhead_image::{Digest, Error as ImageError, ErrorKind, Reference};
use bulkhead_registry::{Identity, Keyless, Repository, Signers, SigningKey};
use serde::Deserialize;

use super::remote::remote_error;
use crate::error::{Error, Result};

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The scope of whatever no other one fits.
const REST: &str = "*";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scope: BTreeMap<String, Scope>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    action: Action,
    #[serde(default)]
    keys: Vec<PathBuf>,
    #[serde(default)]
    identities: Vec<Identity>,
    authorities: Option<PathBuf>,
    #[serde(default)]
    logs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Allow,
    Deny,
    Signed,
}

/// What is to be seen to before an image's layers are fetched.
#[derive(Debug, Clone)]
pub(super) enum Demand {
    /// Nothing.
    Nothing,
    /// A signature by one of these.
    Signature {
        signers: Signers,
        /// Who demands it.
        by: String,
    },
}

impl Demand {
    /// What the policy in a file, if there is one, demands of an image.
    ///
    /// # Errors
    /// It forbids the image, or can't be read or understood.
    pub(super) fn of(policy: Option<&Path>, image: &Reference) -> Result<Self> {
        let Some(path) = policy else {
            return Ok(Self::Nothing);
        };
        let wrong = |why: String| {
            Error::precondition(format!(
                "policy of images {}: {why}; no image is pulled until it is mended",
                path.display()
            ))
        };
        let text = read(path).map_err(|error| wrong(error.to_string()))?;
        let file = parse(&text).map_err(wrong)?;
        let (name, scope) = file.fits(&image.name()).ok_or_else(|| wrong(no_rest()))?;
        let by = format!("scope {name:?} of {}", path.display());
        match scope.action {
            Action::Allow => Ok(Self::Nothing),
            Action::Deny => Err(refused(format!("{image} is forbidden ({by})")).into()),
            Action::Signed => {
                let directory = path.parent().unwrap_or(Path::new("/"));
                let signers = scope.signers(directory).map_err(|why| {
                    let path = path.display();
                    Error::precondition(format!(
                        "policy of images {path}: {why}; no image of scope {name:?} is pulled \
                         until it is mended"
                    ))
                })?;
                Ok(Self::Signature { signers, by })
            }
        }
    }

    /// Sees to it that the manifest or index of a digest is as is demanded.
    ///
    /// # Errors
    /// It is not, or the registry can't be asked.
    pub(super) async fn met(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), ImageError> {
        let Self::Signature { signers, by } = self else {
            return Ok(());
        };
        let signed = repository.is_signed(digest, signers).await;
        signed
            .map_err(remote_error)?
            .map_err(|why| refused(format!("{digest} must be signed ({by}): {why}")))
    }
}

fn refused(why: String) -> ImageError {
    ImageError::Remote {
        kind: ErrorKind::Refused,
        source: why.into(),
    }
}

fn no_rest() -> String {
    format!("there is no scope {REST:?}, for images that no other one fits")
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    // What is cut off might forbid something.
    if text.len() as u64 > FILE_MAX {
        let why = format!("it is longer than {FILE_MAX} bytes");
        return Err(std::io::Error::other(why));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<File, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    if !file.scope.contains_key(REST) {
        return Err(no_rest());
    }
    for (name, scope) in &file.scope {
        let keyless = !scope.identities.is_empty();
        if (keyless || !scope.keys.is_empty()) != (scope.action == Action::Signed) {
            return Err(format!(
                "scope {name:?}: keys and identities are for action = \"signed\", which needs some"
            ));
        }
        if keyless != scope.authorities.is_some() || keyless == scope.logs.is_empty() {
            return Err(format!(
                "scope {name:?}: identities, authorities and logs need each other"
            ));
        }
        if name.ends_with('/') || name.is_empty() {
            return Err(format!("scope {name:?} ends with nothing"));
        }
    }
    Ok(file)
}

impl Scope {
    /// Whose signatures count. `directory`: what files are relative to.
    fn signers(&self, directory: &Path) -> Result<Signers, String> {
        let read_all = |files: &[PathBuf]| {
            let keys = files.iter();
            let keys = keys.map(|key| SigningKey::read(&directory.join(key)));
            keys.collect::<Result<Vec<_>, _>>()
        };
        let mut signers = Signers {
            keys: read_all(&self.keys)?,
            identities: None,
        };
        if let Some(authorities) = &self.authorities {
            let path = directory.join(authorities);
            let wrong = |why: String| format!("{}: {why}", path.display());
            let pem = read(&path).map_err(|error| wrong(error.to_string()))?;
            let logs = read_all(&self.logs)?;
            let keyless = Keyless::new(pem.as_bytes(), logs, self.identities.clone());
            signers.identities = Some(keyless.map_err(wrong)?);
        }
        Ok(signers)
    }
}

impl File {
    /// The longest scope that an image's name is in.
    fn fits(&self, image: &str) -> Option<(&str, &Scope)> {
        let is_in = |name: &str| {
            let rest = image.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let scopes = self.scope.iter().filter(|(name, _)| is_in(name));
        let longest = scopes.max_by_key(|(name, _)| name.len());
        let found = longest.or_else(|| self.scope.get_key_value(REST));
        found.map(|(name, scope)| (name.as_str(), scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [scope."*"]
        action = "deny"
        [scope."r.example"]
        action = "allow"
        [scope."r.example/team"]
        action = "signed"
        keys = ["a.pub"]
        [scope."r.example/team/open"]
        action = "allow"
    "#;

    #[test]
    fn the_longest_scope_counts() {
        let file = parse(POLICY).unwrap();
        for (image, scope) in [
            ("r.example/app", "r.example"),
            ("r.example/team/app", "r.example/team"),
            ("r.example/team", "r.example/team"),
            ("r.example/teams/app", "r.example"),
            ("r.example/team/open", "r.example/team/open"),
            ("r.example.org/team", "*"),
            ("docker.io/library/busybox", "*"),
        ] {
            assert_eq!(file.fits(image).unwrap().0, scope, "{image}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, words) in [
            ("", "scope"),
            ("[scope.\"r\"]\naction = \"allow\"", "no scope \"*\""),
            ("[scope.\"*\"]\naction = \"maybe\"", "maybe"),
            ("[scope.\"*\"]\naction = \"signed\"", "needs some"),
            (
                "[scope.\"*\"]\naction = \"deny\"\nkeys = [\"a\"]",
                "keys and identities are for",
            ),
            (
                "[scope.\"*\"]\naction = \"signed\"\nidentities = [{ issuer = \"i\", subject = \"s\" }]",
                "need each other",
            ),
            (
                "[scope.\"*\"]\naction = \"signed\"\nkeys = [\"a\"]\nlogs = [\"l\"]",
                "need each other",
            ),
            (
                "[scope.\"*\"]\naction = \"signed\"\nidentities = [{ issuer = \"i\" }]",
                "subject",
            ),
            ("[scope.\"*\"]\naction = \"deny\"\nkey = \"a\"", "key"),
            (
                "[scope.\"*\"]\naction = \"deny\"\n[scope.\"r/\"]\naction = \"allow\"",
                "\"r/\"",
            ),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn without_a_file_that_can_be_used_nothing_is_pulled() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("policy.toml");
        let image = Reference::parse("r.example/team/app:1").unwrap();
        let demand = || Demand::of(Some(&path), &image);
        let refused = |words: &str| {
            let error = demand().unwrap_err();
            assert_eq!(error.kind(), crate::Kind::FailedPrecondition);
            assert!(error.to_string().contains(words), "{error}");
        };
        refused("No such file");
        std::fs::write(&path, "nonsense").unwrap();
        refused("policy.toml");
        let rest = "#".repeat(1 << 20);
        std::fs::write(&path, format!("[scope.\"*\"]\naction = \"allow\"\n{rest}")).unwrap();
        refused("longer than");
        // The key is missing.
        std::fs::write(&path, POLICY).unwrap();
        refused("a.pub");
        assert!(matches!(Demand::of(None, &image), Ok(Demand::Nothing)));
        let other = Reference::parse("elsewhere/app:1").unwrap();
        let error = Demand::of(Some(&path), &other).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::PermissionDenied);
        let text = error.to_string();
        assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
        assert!(text.contains("scope \"*\""), "{text}");
    }
}
