//! What can go wrong with a registry, in words that name what was tried.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The classes a caller tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No server has it.
    NotFound,
    /// A server wants other credentials, or forbids it.
    Denied,
    /// No server could be reached, or those that were are overloaded or broken.
    Unavailable,
    /// What came is not what it should be.
    Corrupt,
    /// The node's configuration or the request is wrong.
    Invalid,
}

/// An error of the registry client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A `hosts.toml` can't be used.
    #[error("{file}: {why}", file = file.display())]
    Hosts {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Credentials can't be read or understood.
    #[error("credentials from {source_name}: {why}")]
    Credentials {
        /// Where they come from.
        source_name: String,
        /// What is wrong with them.
        why: String,
    },
    /// None of the servers gave what was wanted.
    #[error("{what}: {}", joined(attempts))]
    Failed {
        /// What was wanted.
        what: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
}

/// One server, and why it gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What was asked, without its query.
    pub url: String,
    /// The `hosts.toml` that names the server; none for the registry itself.
    pub file: Option<PathBuf>,
    /// Where the credentials came from that were shown; none if none were.
    pub credentials: Option<String>,
    /// What came of it.
    pub why: String,
    /// The same as a class.
    pub kind: Kind,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)?;
        if let Some(file) = &self.file {
            write!(f, " (by {})", file.display())?;
        }
        write!(f, ": {}", self.why)?;
        match (&self.credentials, self.kind) {
            (Some(source), Kind::Denied) => write!(f, " (with the credentials from {source})"),
            (None, Kind::Denied) => write!(f, " (without credentials: none are known for it)"),
            _ => Ok(()),
        }
    }
}

fn joined(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "there is no server to ask".to_owned();
    }
    let texts: Vec<_> = attempts.iter().map(Attempt::to_string).collect();
    texts.join("; ")
}

impl Error {
    pub(crate) fn hosts(file: &Path, why: String) -> Self {
        Self::Hosts {
            file: file.to_owned(),
            why,
        }
    }

    /// Which class it is of. Of several servers, the one that knew most about it
    /// counts: a damaged answer before a refusal, a refusal before nothing there,
    /// and that before silence.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let Self::Failed { attempts, .. } = self else {
            return Kind::Invalid;
        };
        let order = [Kind::Corrupt, Kind::Denied, Kind::NotFound, Kind::Invalid];
        order
            .into_iter()
            .find(|kind| attempts.iter().any(|attempt| attempt.kind == *kind))
            .unwrap_or(Kind::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(kind: Kind, file: Option<&str>, credentials: Option<&str>) -> Attempt {
        Attempt {
            url: "https://r/v2/a/manifests/1".to_owned(),
            file: file.map(PathBuf::from),
            credentials: credentials.map(str::to_owned),
            why: "401 Unauthorized".to_owned(),
            kind,
        }
    }

    #[test]
    fn the_message_names_url_file_and_credentials() {
        let error = Error::Failed {
            what: "manifest of r/a:1".to_owned(),
            attempts: vec![
                attempt(Kind::Unavailable, Some("/certs/r/hosts.toml"), None),
                attempt(Kind::Denied, None, Some("the request")),
                attempt(Kind::Denied, None, None),
            ],
        };
        assert_eq!(
            error.to_string(),
            "manifest of r/a:1: https://r/v2/a/manifests/1 (by /certs/r/hosts.toml): 401 \
             Unauthorized; https://r/v2/a/manifests/1: 401 Unauthorized (with the credentials \
             from the request); https://r/v2/a/manifests/1: 401 Unauthorized (without \
             credentials: none are known for it)"
        );
        assert_eq!(error.kind(), Kind::Denied);
    }

    #[test]
    fn silence_counts_least() {
        let failed = |kinds: &[Kind]| Error::Failed {
            what: String::new(),
            attempts: kinds
                .iter()
                .map(|kind| attempt(*kind, None, None))
                .collect(),
        };
        assert_eq!(failed(&[]).kind(), Kind::Unavailable);
        assert_eq!(
            failed(&[Kind::Unavailable, Kind::NotFound]).kind(),
            Kind::NotFound
        );
        assert_eq!(failed(&[Kind::Unavailable]).kind(), Kind::Unavailable);
    }
}
