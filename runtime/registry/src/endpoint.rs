//! The servers that are asked for a registry's content, in order.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;

use crate::{
    error::{Error, Result},
    hosts::{Host, Hosts, Tls},
};

/// A server that is asked.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Where its API begins; ends with `/`.
    pub(crate) base: Url,
    /// The registry that it stands in for; none for the registry itself.
    pub(crate) mirror_of: Option<String>,
    /// The file that names it.
    pub(crate) file: Option<PathBuf>,
    pub(crate) resolves: bool,
    pub(crate) pulls: bool,
    pub(crate) tls: Tls,
    pub(crate) dial_timeout: Option<Duration>,
    pub(crate) headers: Vec<(String, String)>,
}

/// Who is asked for `registry`: its mirrors, then itself, unless that is forbidden.
///
/// # Errors
/// A URL that is none.
pub(crate) fn endpoints(registry: &str, hosts: &Hosts) -> Result<Vec<Endpoint>> {
    let own = match &hosts.server {
        _ if hosts.no_fallback => Vec::new(),
        Some(host) => vec![host.clone()],
        None => itself(registry),
    };
    let mirrors = hosts.mirrors.iter().map(|host| (host, true));
    let own = own.iter().map(|host| (host, false));
    mirrors
        .chain(own)
        .map(|(host, mirror)| {
            let base = base(host).map_err(|why| {
                let file = hosts.file.clone().unwrap_or_else(|| registry.into());
                Error::hosts(&file, format!("{:?} is no URL: {why}", host.url))
            })?;
            Ok(Endpoint {
                base,
                mirror_of: mirror.then(|| registry.to_owned()),
                file: hosts.file.clone(),
                resolves: host.resolves,
                pulls: host.pulls,
                tls: host.tls.clone(),
                dial_timeout: host.dial_timeout,
                headers: host.headers.clone(),
            })
        })
        .collect()
}

/// The registry by its name. One on this node's loopback may do without TLS.
fn itself(registry: &str) -> Vec<Host> {
    let name = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let schemes: &[&str] = match is_loopback(registry) {
        true => &["https", "http"],
        false => &["https"],
    };
    let host = |scheme: &&str| Host {
        url: format!("{scheme}://{name}"),
        resolves: true,
        pulls: true,
        tls: Tls::default(),
        override_path: false,
        dial_timeout: None,
        headers: Vec::new(),
    };
    schemes.iter().map(host).collect()
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The API is below `/v2`, unless the URL's path is said to be the API's.
fn base(host: &Host) -> std::result::Result<Url, String> {
    let mut url = Url::parse(&host.url).map_err(|error| error.to_string())?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong in it".to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let api = host.override_path || path.ends_with("/v2");
    url.set_path(&format!("{path}{}/", if api { "" } else { "/v2" }));
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

impl Endpoint {
    /// The URL of something below a repository, such as `manifests/latest`.
    pub(crate) fn url(&self, repository: &str, what: &str) -> Url {
        let mut url = self.base.clone();
        // Repositories, tags and digests hold nothing that a path must escape.
        url.set_path(&format!("{}{repository}/{what}", self.base.path()));
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }

    /// Host and port, as credentials are named by.
    pub(crate) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::hosts;

    fn urls(registry: &str, file: &str) -> Vec<String> {
        let hosts = hosts::parse(file, Path::new("/certs/hosts.toml")).unwrap();
        let endpoints = endpoints(registry, &hosts).unwrap();
        let url = |it: &Endpoint| it.url("team/app", "manifests/1").to_string();
        endpoints.iter().map(url).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        for (registry, asked) in [
            ("docker.io", vec!["https://registry-1.docker.io"]),
            ("r.example:5000", vec!["https://r.example:5000"]),
            (
                "localhost:5000",
                vec!["https://localhost:5000", "http://localhost:5000"],
            ),
            (
                "127.0.0.1:80",
                vec!["https://127.0.0.1:80", "http://127.0.0.1"],
            ),
            (
                "[::1]:5000",
                vec!["https://[::1]:5000", "http://[::1]:5000"],
            ),
        ] {
            let asked: Vec<_> = asked
                .iter()
                .map(|url| format!("{url}/v2/team/app/manifests/1"))
                .collect();
            let found = endpoints(registry, &Hosts::default()).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|it| it.url("team/app", "manifests/1").to_string())
                .collect();
            assert_eq!(found, asked);
        }
    }

    #[test]
    fn mirrors_come_first_and_are_told_for_whom() {
        let file = "[host.\"http://m:5000\"]\n[host.\"https://h/p\"]\n[host.\"https://o/x/\"]\n\
                    override_path = true\n[host.\"https://v/v2\"]\n";
        assert_eq!(
            urls("r.example", file),
            [
                "http://m:5000/v2/team/app/manifests/1?ns=r.example",
                "https://h/p/v2/team/app/manifests/1?ns=r.example",
                "https://o/x/team/app/manifests/1?ns=r.example",
                "https://v/v2/team/app/manifests/1?ns=r.example",
                "https://r.example/v2/team/app/manifests/1",
            ]
        );
    }

    #[test]
    fn the_registry_itself_may_be_elsewhere_or_forbidden() {
        assert_eq!(
            urls("r", "server = \"http://s:1\""),
            ["http://s:1/v2/team/app/manifests/1"]
        );
        let file = "no_fallback = true\n[host.\"http://m\"]";
        assert_eq!(urls("r", file), ["http://m/v2/team/app/manifests/1?ns=r"]);
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in ["https://", "https://user:word@r", "http://[::1"] {
            let file = format!("server = {url:?}");
            let hosts = hosts::parse(&file, Path::new("/certs/hosts.toml")).unwrap();
            let error = endpoints("r", &hosts).unwrap_err().to_string();
            assert!(error.contains("/certs/hosts.toml"), "{error}");
        }
    }

    #[test]
    fn credentials_are_named_by_host_and_port() {
        let hosts = hosts::parse("server = \"http://s:81\"", Path::new("/h")).unwrap();
        let all = endpoints("r", &hosts).unwrap();
        assert_eq!(all.first().unwrap().authority(), "s:81");
    }
}
