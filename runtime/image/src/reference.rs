//! Image references: the one place where an image's name is parsed.
//!
//! The grammar is the distribution project's, which registries, Docker and
//! Kubernetes share:
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] component *( "/" component )
//! domain     = host [ ":" port ]                   a '.', a ':', an upper-case
//!                                                  letter or "localhost" makes
//!                                                  the first part a domain
//! component  = a-z 0-9, inside also "." "_" "__" and runs of "-"
//! tag        = 1 to 128 of A-Z a-z 0-9 _ . - , not beginning with "." or "-"
//! ```
//!
//! Short names are Docker Hub's: `busybox` is `docker.io/library/busybox`, and
//! a name with neither tag nor digest means the tag `latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// Longest name (domain and path), as registries bound it.
pub const NAME_MAX: usize = 255;
/// Longest tag.
pub const TAG_MAX: usize = 128;
/// Longest text that is looked at: name, tag, digest and their separators.
const TEXT_MAX: usize = NAME_MAX + 1 + TAG_MAX + 1 + 71;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// A parsed, normalised reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("the image reference is empty")]
    Empty,
    /// Longer than any valid reference.
    #[error("the image reference is longer than {TEXT_MAX} bytes")]
    TooLong,
    /// The name (domain and path) is longer than [`NAME_MAX`].
    #[error("the image name is longer than {NAME_MAX} bytes")]
    NameTooLong,
    /// The domain is no host name, address or host and port.
    #[error("{0:?} is not a registry host")]
    Domain(String),
    /// A part of the path is malformed.
    #[error(
        "{0:?} is not a valid part of an image name (lower-case letters, digits, and single . _ - between them)"
    )]
    Component(String),
    /// A name of 64 hex digits would be taken for an image id.
    #[error("a name of 64 hex digits is an image id, not a repository")]
    LooksLikeId,
    /// The tag is malformed.
    #[error(
        "{0:?} is not a valid tag (at most 128 letters, digits and _ . -, beginning with a letter, digit or _)"
    )]
    Tag(String),
    /// The digest is malformed.
    #[error("after @: {0}")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Parses and normalises `text`. The tag is `latest` where neither tag nor
    /// digest is given.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(ReferenceError::TooLong);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].find(':') {
            Some(colon) => (
                &rest[..name_end + colon],
                Some(&rest[name_end + colon + 1..]),
            ),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (domain, path) = split_domain(name);
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
            if path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ReferenceError::LooksLikeId);
            }
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        check_domain(domain)?;
        for component in path.split('/') {
            check_component(component)?;
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::NameTooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag,
            digest,
        })
    }

    /// The registry, such as `docker.io` or `registry.example:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given or stands for "neither".
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given. It outranks the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `name:tag`, the form of a CRI repo tag, if there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `name@digest`, the form of a CRI repo digest, for `digest`.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// Splits the registry from the path, by Docker's rule of what looks like one.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            // Docker Hub's old name.
            (
                if first == "index.docker.io" {
                    DEFAULT_DOMAIN
                } else {
                    first
                },
                rest,
            )
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Domain(domain.to_owned());
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(bad)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        match port.strip_prefix(':') {
            Some(port) => ("", Some(port)),
            None if port.is_empty() => ("", None),
            None => return Err(bad()),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    if let Some(port) = port
        && (port.bytes().any(|b| !b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err(bad());
    }
    if !domain.starts_with('[') {
        let label_ok = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !host.split('.').all(label_ok) {
            return Err(bad());
        }
    }
    Ok(())
}

/// `[a-z0-9]+ ( ( "." | "_" | "__" | "-"+ ) [a-z0-9]+ )*`
fn check_component(component: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Component(component.to_owned());
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return Err(bad());
    };
    if !alnum(first) || !alnum(last) {
        return Err(bad());
    }
    for run in component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        let separator = matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-');
        if !separator {
            return Err(bad());
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    let ok = bytes.len() <= TAG_MAX
        && bytes.first().is_some_and(|&b| word(b))
        && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-');
    if ok {
        Ok(())
    } else {
        Err(ReferenceError::Tag(tag.chars().take(TAG_MAX).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_are_docker_hubs() {
        assert_eq!(normal("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("busybox:1.36"), "docker.io/library/busybox:1.36");
        assert_eq!(normal("bitnami/redis"), "docker.io/bitnami/redis:latest");
        assert_eq!(
            normal("docker.io/busybox"),
            "docker.io/library/busybox:latest"
        );
        assert_eq!(
            normal("index.docker.io/busybox"),
            "docker.io/library/busybox:latest"
        );
    }

    #[test]
    fn registries() {
        assert_eq!(normal("quay.io/a/b/c:v1"), "quay.io/a/b/c:v1");
        assert_eq!(normal("localhost/x"), "localhost/x:latest");
        assert_eq!(normal("localhost:5000/x"), "localhost:5000/x:latest");
        assert_eq!(normal("REG/x"), "REG/x:latest");
        assert_eq!(normal("[::1]:5000/x:t"), "[::1]:5000/x:t");
        assert_eq!(
            normal("reg:5000/x@".to_owned().as_str().trim_end_matches('@')),
            "reg:5000/x:latest"
        );
    }

    #[test]
    fn digests_and_both() {
        assert_eq!(
            normal(&format!("busybox@{DIGEST}")),
            format!("docker.io/library/busybox@{DIGEST}")
        );
        let both = Reference::parse(&format!("r.io/a:1@{DIGEST}")).unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.digest().unwrap().to_string(), DIGEST);
        assert_eq!(both.tagged().unwrap(), "r.io/a:1");
        assert_eq!(
            both.with_digest(both.digest().unwrap()),
            format!("r.io/a@{DIGEST}")
        );
    }

    #[test]
    fn component_separators() {
        for good in ["a.b", "a_b", "a__b", "a-b", "a----b", "0"] {
            assert!(Reference::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "a..b", "a___b", "a._b", "-a", "a-", "Abc", "a b", "a//b", "/a", "a/", "ü",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals() {
        use ReferenceError as E;
        assert_eq!(Reference::parse(""), Err(E::Empty));
        assert_eq!(Reference::parse(&"a".repeat(64)), Err(E::LooksLikeId));
        assert_eq!(
            Reference::parse(&format!("r.io/{}", "a".repeat(251))),
            Err(E::NameTooLong)
        );
        assert_eq!(Reference::parse(&"a".repeat(10_000)), Err(E::TooLong));
        assert!(matches!(Reference::parse("a:"), Err(E::Tag(_))));
        assert!(matches!(Reference::parse("a:.b"), Err(E::Tag(_))));
        assert!(matches!(
            Reference::parse(&format!("a:{}", "t".repeat(129))),
            Err(E::Tag(_))
        ));
        assert!(matches!(Reference::parse("a@sha256:00"), Err(E::Digest(_))));
        assert!(matches!(Reference::parse("a@md5:00"), Err(E::Digest(_))));
        assert!(matches!(
            Reference::parse("h.io:99999/a"),
            Err(E::Domain(_))
        ));
        assert!(matches!(Reference::parse("-h.io/a"), Err(E::Domain(_))));
        assert!(matches!(Reference::parse("[::g]/a:1"), Err(E::Domain(_))));
        assert!(matches!(Reference::parse("r.io/"), Err(E::Component(_))));
    }

    proptest! {
        /// Whatever parses prints as something that parses to the same.
        #[test]
        fn normal_form_is_stable(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,600}") {
            let _ = Reference::parse(&text);
        }
    }
}
