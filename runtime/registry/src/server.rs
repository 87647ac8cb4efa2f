//! One server: its requests, with credentials, redirects and second tries.
//!
//! ```text
//!  get ─▶ send ─▶ 2xx: done
//!           │ 401: answer the challenge, once, and send again
//!           │ 3xx: follow, without credentials where it leads elsewhere
//!           │ 429, 5xx, no connection: wait, and send again
//!           ▼ anything else: this server has not got it
//! ```

use std::{sync::Arc, time::Duration};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{
        AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
    },
};
use tokio::sync::Mutex;

use crate::{
    challenge::{self, Challenge},
    credentials::Credentials,
    endpoint::Endpoint,
    error::{Attempt, Kind},
    retry, token,
};

/// How far a request is sent on.
const REDIRECTS_MAX: usize = 5;
/// What is shown of a server's own explanation.
const EXPLANATION_MAX: usize = 512;
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(10);

/// A server, and what it is asked with.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    http: Client,
    /// For servers that it sends on to: they prove who they are as anybody.
    elsewhere: Client,
    credentials: Option<Credentials>,
    headers: HeaderMap,
    /// The answer to its last challenge, shown with every request.
    authorization: Mutex<Option<HeaderValue>>,
}

/// Why a request has no answer, and whether another one might.
struct Failure {
    kind: Kind,
    why: String,
    /// It may pass; and how long the server wants to be left alone.
    passing: Option<Option<Duration>>,
}

impl Failure {
    fn lasting(kind: Kind, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
            passing: None,
        }
    }

    fn passing(why: impl Into<String>, wish: Option<Duration>) -> Self {
        Self {
            kind: Kind::Unavailable,
            why: why.into(),
            passing: Some(wish),
        }
    }
}

impl Server {
    pub(crate) fn new(
        endpoint: Endpoint,
        http: Client,
        elsewhere: Client,
        credentials: Option<Credentials>,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let wrong = || format!("{name:?} is no header, or its value none");
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            // It may be a secret.
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self {
            endpoint,
            http,
            elsewhere,
            credentials,
            headers,
            authorization: Mutex::default(),
        })
    }

    /// Asks for something below a repository. The answer is a success.
    pub(crate) async fn get(
        &self,
        repository: &str,
        what: &str,
        extra: &HeaderMap,
    ) -> Result<Response, Attempt> {
        let url = self.endpoint.url(repository, what);
        let mut failed = 0;
        loop {
            let failure = match self.get_once(&url, extra).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            failed += 1;
            let again = failure.passing.and_then(|wish| retry::pause(failed, wish));
            let Some(pause) = again else {
                return Err(self.attempt(&url, failure.kind, failure.why));
            };
            tracing::debug!(url = %shown(&url), why = failure.why, ?pause, "asking again");
            tokio::time::sleep(pause).await;
        }
    }

    /// An attempt of this server's that failed.
    pub(crate) fn attempt(&self, url: &Url, kind: Kind, why: String) -> Attempt {
        Attempt {
            url: shown(url),
            file: self.endpoint.file.clone(),
            credentials: self.credentials.as_ref().map(|it| it.source.clone()),
            why,
            kind,
        }
    }

    async fn get_once(&self, url: &Url, extra: &HeaderMap) -> Result<Response, Failure> {
        let response = self.send(url, extra).await?;
        let response = match response.status() {
            StatusCode::UNAUTHORIZED => {
                self.authorize(&response).await?;
                self.send(url, extra).await?
            }
            _ => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wish = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|wish| retry::retry_after(wish.to_str().ok()?, jiff::Timestamp::now()));
        let why = explained(response).await;
        Err(match status.as_u16() {
            401 | 403 => Failure::lasting(Kind::Denied, why),
            404 | 410 => Failure::lasting(Kind::NotFound, why),
            code if retry::is_passing(code) => Failure::passing(why, wish),
            500.. => Failure::lasting(Kind::Unavailable, why),
            _ => Failure::lasting(Kind::Invalid, why),
        })
    }

    /// Sends a request, and sends it on where it is told to.
    async fn send(&self, url: &Url, extra: &HeaderMap) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let home = is_same_server(&url, &self.endpoint.base);
            let client = if home { &self.http } else { &self.elsewhere };
            let mut request = client.get(url.clone()).headers(extra.clone());
            if home {
                request = request.headers(self.headers.clone());
                if let Some(shown) = self.authorization.lock().await.clone() {
                    request = request.header(AUTHORIZATION, shown);
                }
            }
            let response = request.send().await.map_err(|error| failure(error, &url))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION);
            let target = location.and_then(|it| url.join(it.to_str().ok()?).ok());
            let wrong =
                |why: &str| Failure::lasting(Kind::Unavailable, format!("it sends on {why}"));
            let target = target.ok_or_else(|| wrong("to nowhere"))?;
            match (target.scheme(), url.scheme()) {
                ("https", _) | ("http", "http") => {}
                _ => return Err(wrong(&format!("to {}, which is not safe", shown(&target)))),
            }
            url = target;
        }
        Err(Failure::lasting(
            Kind::Unavailable,
            format!("it sends on more than {REDIRECTS_MAX} times"),
        ))
    }

    /// Answers a challenge, for the requests from now on.
    async fn authorize(&self, response: &Response) -> Result<(), Failure> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> = headers
            .iter()
            .filter_map(|header| header.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        if challenges.is_empty() {
            let why = "401, and it does not say how to authenticate (Basic or Bearer)";
            return Err(Failure::lasting(Kind::Denied, why));
        }
        let secret = self.credentials.as_ref().map(|it| &it.secret);
        let mut shown = self.authorization.lock().await;
        let mut reason = None;
        for challenge in &challenges {
            let base = &self.endpoint.base;
            match token::answer(&self.http, base, challenge, secret).await {
                Ok(Some(answer)) => {
                    *shown = Some(answer);
                    return Ok(());
                }
                Ok(None) => {}
                Err(refused) => reason = Some(refused),
            }
        }
        *shown = None;
        Err(match reason {
            Some(token::Refused::Denied(why)) => Failure::lasting(Kind::Denied, why),
            Some(token::Refused::Unavailable(why)) => Failure::passing(why, None),
            None => Failure::lasting(Kind::Denied, "401 Unauthorized"),
        })
    }
}

/// Of an error status: the status, and what the server says to it (OCI
/// distribution-spec, section "Error Codes").
async fn explained(mut response: Response) -> String {
    let status = response.status();
    let mut body = Vec::new();
    let read = async {
        while body.len() < EXPLANATION_MAX * 4
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
    };
    // Who takes his time has not explained it.
    let _ = tokio::time::timeout(EXPLANATION_TIMEOUT, read).await;
    body.truncate(EXPLANATION_MAX * 4);
    let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let said = said.as_ref().and_then(|it| {
        let error = it.get("errors")?.get(0)?;
        let text = |key| error.get(key).and_then(serde_json::Value::as_str);
        Some(format!(
            "{} {}",
            text("code").unwrap_or_default(),
            text("message").unwrap_or_default()
        ))
    });
    match said {
        Some(said) => {
            let plain = said.chars().filter(|it| !it.is_control());
            let plain: String = plain.take(EXPLANATION_MAX).collect();
            format!("{status}: {}", plain.trim())
        }
        None => status.to_string(),
    }
}

fn failure(error: reqwest::Error, url: &Url) -> Failure {
    // Who can't prove who they are will not be able to a second later.
    let text = without_url(error);
    let certificate = text.contains("certificate");
    match certificate {
        true if text.contains("CaUsedAsEndEntity") => {
            let why = "it shows an authority's certificate as its own (basicConstraints CA:TRUE): \
                       give it one that the authority signed";
            Failure::lasting(Kind::Unavailable, format!("{why} ({text})"))
        }
        true => Failure::lasting(Kind::Unavailable, text),
        false if url.scheme() == "https" && text.contains("InvalidContentType") => {
            Failure::lasting(Kind::Unavailable, format!("it does not speak TLS ({text})"))
        }
        false => Failure::passing(text, None),
    }
}

/// An error with its causes, and without the URL, which is named beside it.
pub(crate) fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn is_same_server(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// A URL for messages: a query may hold a signature, which is as good as a password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Servers are shared by the layers that are fetched at the same time.
pub(crate) type Shared = Arc<Server>;
