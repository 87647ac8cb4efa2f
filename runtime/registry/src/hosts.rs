//! `hosts.toml`: which servers stand in for a registry.
//!
//! A directory holds one directory for each registry, named as containerd names
//! them, and in it a file `hosts.toml` in containerd's form
//! (docs/hosts.md of the containerd project):
//!
//! ```toml
//! server = "https://registry.example"      # the registry itself; asked last
//!
//! [host."https://mirror.example:5000"]     # mirrors, asked in this order
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.pem"                      # files: relative to the directory
//!   client = [["client.pem", "client.key"]]
//!   skip_verify = false
//!   override_path = true                   # the URL's path is used as it is
//!   dial_timeout = "5s"
//!   [host."https://mirror.example:5000".header]
//!     x-tenant = "blue"
//! ```
//!
//! `no_fallback = true` at the top is our own: then the registry itself is not
//! asked, and what no mirror has is not there.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::error::{Error, Result};

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 256 << 10;
/// The most mirrors of a registry.
const MIRRORS_MAX: usize = 64;
/// Of a registry that has no directory of its own.
const DEFAULT_DIRECTORY: &str = "_default";

/// What `hosts.toml` says of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// The file that says so; none where there is none.
    pub(crate) file: Option<PathBuf>,
    /// In the order in which they are asked.
    pub(crate) mirrors: Vec<Host>,
    /// The registry itself, where the file names it.
    pub(crate) server: Option<Host>,
    /// The registry itself is not asked.
    pub(crate) no_fallback: bool,
}

/// A server and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// As in the file; `https://` where it has no scheme.
    pub(crate) url: String,
    /// Whether it may say which digest a tag stands for.
    pub(crate) resolves: bool,
    /// Whether content is fetched from it.
    pub(crate) pulls: bool,
    pub(crate) tls: Tls,
    /// The URL's path is the API's, without `/v2`.
    pub(crate) override_path: bool,
    pub(crate) dial_timeout: Option<Duration>,
    /// Sent with every request.
    pub(crate) headers: Vec<(String, String)>,
}

/// How a server proves who it is, and this node to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    /// Certificates of authorities, beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
    /// Certificates and keys of this node's own.
    pub(crate) clients: Vec<(PathBuf, PathBuf)>,
    /// Whoever it is.
    pub(crate) skip_verify: bool,
}

impl Hosts {
    /// What `directory` says of a registry; nothing where it has no file for it.
    ///
    /// # Errors
    /// A file that can't be read or understood: it is named, and what is wrong.
    pub(crate) fn of(directory: &Path, registry: &str) -> Result<Self> {
        for candidate in candidates(registry) {
            let file = directory.join(candidate).join("hosts.toml");
            match read(&file) {
                Ok(text) => return parse(&text, &file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::hosts(&file, error.to_string())),
            }
        }
        Ok(Self::default())
    }
}

/// The directories that a registry's file may be in, the first first. A port's colon
/// may stand as it is, or be written as `_` with another one behind the port.
fn candidates(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([registry.to_owned(), DEFAULT_DIRECTORY.to_owned()]);
    names
}

fn read(file: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(file)?;
    file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!(
            "it is longer than {FILE_MAX} bytes"
        )));
    }
    Ok(text)
}

/// Parses a file's text. `file` is what relative names in it are relative to.
pub(crate) fn parse(text: &str, file: &Path) -> Result<Hosts> {
    let wrong = |why: String| Error::hosts(file, why);
    let mut table: toml::Table =
        toml::from_str(text).map_err(|error| wrong(where_wrong(text, &error)))?;
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut keys = Keys {
        table: &mut table,
        directory,
    };
    let hosts = (|| {
        let no_fallback = keys.flag("no_fallback")?;
        let server = keys.text("server")?;
        let mirrors = keys.mirrors()?;
        // What stands beside `server` is the server's own.
        let server = match server {
            Some(url) => Some(keys.host(&url)?),
            None => None,
        };
        keys.end()?;
        if no_fallback && mirrors.is_empty() {
            return Err("no_fallback without a mirror leaves nobody to ask".to_owned());
        }
        Ok(Hosts {
            file: Some(file.to_owned()),
            mirrors,
            server,
            no_fallback,
        })
    })();
    hosts.map_err(wrong)
}

/// What is wrong and where. The line itself, which the parser would show, may hold a
/// secret, and messages are read by those who ask for an image.
fn where_wrong(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.unwrap_or_default().matches('\n').count() + 1;
    format!("line {line}: {}", error.message())
}

/// Takes known keys out of a table; what is left in the end is not known.
struct Keys<'a> {
    table: &'a mut toml::Table,
    directory: &'a Path,
}

type Found<T> = std::result::Result<T, String>;

impl Keys<'_> {
    fn mirrors(&mut self) -> Found<Vec<Host>> {
        let mirrors = match self.table.remove("host") {
            None => return Ok(Vec::new()),
            Some(toml::Value::Table(mirrors)) => mirrors,
            Some(_) => return Err("host is not a table".to_owned()),
        };
        if mirrors.len() > MIRRORS_MAX {
            return Err(format!("more than {MIRRORS_MAX} mirrors"));
        }
        let mut hosts = Vec::new();
        for (url, value) in mirrors {
            let toml::Value::Table(mut table) = value else {
                return Err(format!("host.{url:?} is not a table"));
            };
            let mut keys = Keys {
                table: &mut table,
                directory: self.directory,
            };
            let host = keys.host(&url).and_then(|host| keys.end().map(|()| host));
            hosts.push(host.map_err(|why| format!("host.{url:?}: {why}"))?);
        }
        Ok(hosts)
    }

    fn host(&mut self, url: &str) -> Found<Host> {
        let capabilities = self.texts("capabilities")?;
        let may = |name: &str| {
            let named = capabilities.as_ref();
            named.is_none_or(|named| named.iter().any(|it| it == name))
        };
        let (resolves, pulls) = (may("resolve"), may("pull"));
        let known = ["pull", "resolve", "push", "referrers"];
        for name in capabilities.iter().flatten() {
            if !known.contains(&name.as_str()) {
                return Err(format!("{name:?} is no capability (pull, resolve, push)"));
            }
        }
        let dial_timeout = match self.text("dial_timeout")? {
            Some(text) => Some(duration(&text)?),
            None => None,
        };
        Ok(Host {
            url: with_scheme(url)?,
            resolves,
            pulls,
            tls: Tls {
                authorities: self.files("ca")?,
                clients: self.clients()?,
                skip_verify: self.flag("skip_verify")?,
            },
            override_path: self.flag("override_path")?,
            dial_timeout,
            headers: self.headers()?,
        })
    }

    fn flag(&mut self, key: &str) -> Found<bool> {
        match self.table.remove(key) {
            None => Ok(false),
            Some(toml::Value::Boolean(flag)) => Ok(flag),
            Some(_) => Err(format!("{key} is neither true nor false")),
        }
    }

    fn text(&mut self, key: &str) -> Found<Option<String>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{key} is not a string")),
        }
    }

    /// A string, or an array of strings.
    fn texts(&mut self, key: &str) -> Found<Option<Vec<String>>> {
        let value = self.table.remove(key);
        value.map(|value| strings(key, value)).transpose()
    }

    fn files(&mut self, key: &str) -> Found<Vec<PathBuf>> {
        let names = self.texts(key)?.unwrap_or_default();
        Ok(names.iter().map(|name| self.directory.join(name)).collect())
    }

    /// A file with certificate and key, several of them, or pairs of files.
    fn clients(&mut self) -> Found<Vec<(PathBuf, PathBuf)>> {
        let files = match self.table.remove("client") {
            None => return Ok(Vec::new()),
            Some(toml::Value::Array(all)) => all,
            Some(one) => vec![one],
        };
        let mut clients = Vec::new();
        for entry in files {
            let names = strings("client", entry)?;
            let path = |name: &String| self.directory.join(name);
            match names.as_slice() {
                [both] => clients.push((path(both), path(both))),
                [certificate, key] if key.is_empty() => {
                    clients.push((path(certificate), path(certificate)));
                }
                [certificate, key] => clients.push((path(certificate), path(key))),
                other => {
                    return Err(format!(
                        "client has an entry of {} files, not of one or two",
                        other.len()
                    ));
                }
            }
        }
        Ok(clients)
    }

    fn headers(&mut self) -> Found<Vec<(String, String)>> {
        let table = match self.table.remove("header") {
            None => return Ok(Vec::new()),
            Some(toml::Value::Table(table)) => table,
            Some(_) => return Err("header is not a table".to_owned()),
        };
        let mut headers = Vec::new();
        for (name, value) in table {
            for value in strings(&name, value)? {
                headers.push((name.clone(), value));
            }
        }
        Ok(headers)
    }

    fn end(&self) -> Found<()> {
        match self.table.keys().next() {
            Some(key) => Err(format!("{key:?} is not known")),
            None => Ok(()),
        }
    }
}

fn strings(key: &str, value: toml::Value) -> Found<Vec<String>> {
    let all = match value {
        toml::Value::Array(all) => all,
        one => vec![one],
    };
    let texts = all.into_iter().map(|value| match value {
        toml::Value::String(text) => Ok(text),
        _ => Err(format!("{key} holds something that is not a string")),
    });
    texts.collect()
}

fn with_scheme(url: &str) -> Found<String> {
    match url.split_once("://") {
        Some(("http" | "https", _)) => Ok(url.to_owned()),
        Some((scheme, _)) => Err(format!("{scheme}:// is neither http:// nor https://")),
        None => Ok(format!("https://{url}")),
    }
}

/// As Go writes durations, of one unit: `500ms`, `5s`, `1m`.
fn duration(text: &str) -> Found<Duration> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let milliseconds = units.iter().find_map(|(unit, each)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*each)
    });
    let milliseconds = milliseconds.ok_or_else(|| format!("{text:?} is no duration, as \"5s\""))?;
    Ok(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Hosts {
        parse(text, Path::new("/certs/registry.example/hosts.toml")).unwrap()
    }

    fn refused(text: &str) -> String {
        let error = parse(text, Path::new("/certs/r/hosts.toml")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("/certs/r/hosts.toml"), "{error}");
        error
    }

    #[test]
    fn mirrors_keep_their_order() {
        let hosts = parsed(
            r#"
            server = "https://registry.example"
            [host."https://z.example"]
            [host."http://a.example:5000"]
            [host."b.example/cache/v2"]
            override_path = true
            "#,
        );
        let urls: Vec<_> = hosts.mirrors.iter().map(|host| &host.url).collect();
        assert_eq!(
            urls,
            [
                "https://z.example",
                "http://a.example:5000",
                "https://b.example/cache/v2"
            ]
        );
        assert_eq!(hosts.server.unwrap().url, "https://registry.example");
        assert!(hosts.mirrors.iter().all(|host| host.resolves && host.pulls));
        assert!(hosts.mirrors.last().unwrap().override_path && !hosts.no_fallback);
    }

    #[test]
    fn all_of_a_host() {
        let hosts = parsed(
            r#"
            no_fallback = true
            [host."https://m"]
            capabilities = ["pull"]
            ca = ["own.pem", "/etc/ssl/other.pem"]
            client = [["c.pem", "c.key"], ["both.pem", ""]]
            skip_verify = true
            dial_timeout = "1500ms"
            [host."https://m".header]
            x-tenant = ["a", "b"]
            x-one = "c"
            "#,
        );
        let [host] = hosts.mirrors.as_slice() else {
            panic!("{hosts:?}");
        };
        assert!(host.pulls && !host.resolves && hosts.no_fallback && hosts.server.is_none());
        assert_eq!(
            host.tls,
            Tls {
                authorities: vec![
                    "/certs/registry.example/own.pem".into(),
                    "/etc/ssl/other.pem".into()
                ],
                clients: vec![
                    (
                        "/certs/registry.example/c.pem".into(),
                        "/certs/registry.example/c.key".into()
                    ),
                    (
                        "/certs/registry.example/both.pem".into(),
                        "/certs/registry.example/both.pem".into()
                    ),
                ],
                skip_verify: true,
            }
        );
        assert_eq!(host.dial_timeout, Some(Duration::from_millis(1500)));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            host.headers,
            [
                header("x-tenant", "a"),
                header("x-tenant", "b"),
                header("x-one", "c")
            ]
        );
    }

    #[test]
    fn keys_beside_the_server_are_the_servers() {
        let hosts = parsed("server = \"http://r:5000\"\nca = \"r.pem\"\nclient = \"c.pem\"\n");
        let tls = hosts.server.unwrap().tls;
        assert_eq!(
            tls.authorities,
            [Path::new("/certs/registry.example/r.pem")]
        );
        let both = PathBuf::from("/certs/registry.example/c.pem");
        assert_eq!(tls.clients, [(both.clone(), both)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("server = 5", "server is not a string"),
            ("sever = \"https://x\"", "\"sever\" is not known"),
            ("ca = \"x\"", "\"ca\" is not known"),
            ("no_fallback = true", "nobody to ask"),
            ("[host.\"ftp://x\"]", "ftp"),
            ("[host.x]\nskip_verfy = true", "skip_verfy"),
            ("[host.x]\ncapabilities = [\"pul\"]", "\"pul\""),
            ("[host.x]\nclient = [[\"a\", \"b\", \"c\"]]", "3 files"),
            ("[host.x]\ndial_timeout = \"soon\"", "\"soon\""),
            ("[host", "line 1"),
        ] {
            let error = refused(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn messages_do_not_quote_the_file() {
        let error = refused("[host.x.header]\nauthorization = \"Bearer s3cret\nx = 1");
        assert!(
            error.contains("line 2: ") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn the_directory_of_a_registry_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, mirror: &str| {
            let directory = temp.path().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let text = format!("[host.{mirror:?}]\n");
            std::fs::write(directory.join("hosts.toml"), text).unwrap();
        };
        let found = |registry: &str| {
            let hosts = Hosts::of(temp.path(), registry).unwrap();
            hosts.mirrors.first().map(|host| host.url.clone())
        };
        assert_eq!(found("a.example"), None);
        write("_default", "https://default");
        write("a.example", "https://a");
        write("b.example_5000_", "https://b");
        write("c.example:5000", "https://c");
        for (registry, mirror) in [
            ("a.example", "https://a"),
            ("b.example:5000", "https://b"),
            ("c.example:5000", "https://c"),
            ("d.example", "https://default"),
        ] {
            assert_eq!(found(registry).as_deref(), Some(mirror));
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("long");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), "#".repeat(300 << 10)).unwrap();
        let error = Hosts::of(temp.path(), "long").unwrap_err().to_string();
        assert!(error.contains("longer"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}") {
            let _ = parse(&text, Path::new("/hosts.toml"));
        }
    }
}
