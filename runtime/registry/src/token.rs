//! Tokens: a token server gives them for credentials, or to anybody.
//!
//! Source: the distribution project's spec/auth/token.md (GET) and oauth.md (POST,
//! with a refresh token).

use base64::Engine as _;
use reqwest::{Client, Url, header::HeaderValue};
use serde::Deserialize;

use crate::{challenge::Challenge, credentials::Secret};

/// From the request to a token server to the last byte of its answer.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// The longest answer of one, in bytes.
const ANSWER_MAX: usize = 1 << 20;
const CLIENT_ID: &str = "bulkhead";

/// How a token could not be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The token server says no.
    Denied(String),
    /// It can't be asked, or talks nonsense.
    Unavailable(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// `Authorization` for user and password.
pub(crate) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let both = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret_header(&format!("Basic {both}"))
}

/// `Authorization` for a token.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    secret_header(&format!("Bearer {token}"))
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Answers a challenge of a server whose API is at `base`.
pub(crate) async fn answer(
    http: &Client,
    base: &Url,
    challenge: &Challenge,
    secret: Option<&Secret>,
) -> Result<Option<HeaderValue>, Refused> {
    match (challenge, secret) {
        (_, Some(Secret::RegistryToken(token))) => Ok(bearer(token)),
        (Challenge::Basic, Some(Secret::Password { user, password })) => Ok(basic(user, password)),
        (Challenge::Basic, _) => Ok(None),
        (
            Challenge::Bearer {
                realm,
                service,
                scope,
            },
            secret,
        ) => {
            let realm = server(realm, base)?;
            let mut query: Vec<(&str, &str)> = Vec::new();
            query.extend(service.as_deref().map(|service| ("service", service)));
            // Several scopes are separated by spaces.
            let scopes = scope.iter().flat_map(|scope| scope.split(' '));
            query.extend(
                scopes
                    .filter(|it| !it.is_empty())
                    .map(|scope| ("scope", scope)),
            );
            fetch(http, realm, query, secret)
                .await
                .map(|token| bearer(&token))
        }
    }
}

/// A token server's URL. Credentials meant for a server that is spoken to in secret
/// are not sent to another one in the open.
fn server(realm: &str, base: &Url) -> Result<Url, Refused> {
    let wrong = |why: &str| Refused::Unavailable(format!("its token server {realm:?} {why}"));
    let url = Url::parse(realm).map_err(|_| wrong("is no URL"))?;
    match (url.scheme(), base.scheme()) {
        ("https", _) | ("http", "http") => Ok(url),
        _ => Err(wrong("is not at an https:// URL")),
    }
}

async fn fetch(
    http: &Client,
    realm: Url,
    query: Vec<(&str, &str)>,
    secret: Option<&Secret>,
) -> Result<String, Refused> {
    let shown = {
        let mut url = realm.clone();
        url.set_query(None);
        url
    };
    let unavailable = |why: String| Refused::Unavailable(format!("token server {shown}: {why}"));
    let request = match secret {
        Some(Secret::IdentityToken(token)) => {
            let mut form = query;
            form.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
            ]);
            let mut body = Url::parse("form:").map_err(|error| unavailable(error.to_string()))?;
            body.query_pairs_mut().extend_pairs(form);
            http.post(realm)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body.query().unwrap_or_default().to_owned())
        }
        other => {
            let mut url = realm;
            url.query_pairs_mut().extend_pairs(query);
            match other {
                Some(Secret::Password { user, password }) => {
                    url.query_pairs_mut().append_pair("account", user);
                    http.get(url).basic_auth(user, Some(password))
                }
                _ => http.get(url),
            }
        }
    };
    let mut response = request
        .header("accept", "application/json")
        .timeout(TIMEOUT)
        .send()
        .await
        .map_err(|error| unavailable(crate::server::without_url(error)))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| unavailable(crate::server::without_url(error)))?
    {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(unavailable(format!(
                "its answer is longer than {ANSWER_MAX} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_client_error() && status.as_u16() != 429 {
        return Err(Refused::Denied(format!("token server {shown}: {status}")));
    }
    if !status.is_success() {
        return Err(unavailable(status.to_string()));
    }
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| unavailable("its answer is not JSON".to_owned()))?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .find(|token| !token.is_empty());
    token.ok_or_else(|| unavailable("there is no token in its answer".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_secret() {
        let basic = basic("me", "it").unwrap();
        assert_eq!(basic.to_str().unwrap(), "Basic bWU6aXQ=");
        assert!(basic.is_sensitive() && bearer("t").unwrap().is_sensitive());
        assert_eq!(bearer("two\nlines"), None);
    }

    #[test]
    fn a_token_server_in_the_open_is_only_asked_for_a_registry_in_the_open() {
        let base = |url| Url::parse(url).unwrap();
        for (realm, registry, asked) in [
            ("https://t/", "https://r/v2/", true),
            ("https://t/", "http://r/v2/", true),
            ("http://t/", "http://r/v2/", true),
            ("http://t/", "https://r/v2/", false),
            ("file:///etc/passwd", "http://r/v2/", false),
            ("nonsense", "http://r/v2/", false),
        ] {
            assert_eq!(server(realm, &base(registry)).is_ok(), asked, "{realm}");
        }
    }
}
