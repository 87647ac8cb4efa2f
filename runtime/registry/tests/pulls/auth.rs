//! Who is told which secret.

use std::os::unix::fs::PermissionsExt as _;

use bulkhead_registry::{AuthConfig, Kind, Sources};

use bulkhead_test_registry::{Answer, Server};

use crate::{MIB, Node, at};

/// `me:word` in base64.
const BASIC: &str = "Basic bWU6d29yZA==";

fn request(username: &str, password: &str) -> Sources {
    Sources {
        request: Some(AuthConfig {
            username: username.to_owned(),
            password: password.to_owned(),
            ..AuthConfig::default()
        }),
        ..Sources::default()
    }
}

/// A registry that wants user and password.
async fn basic() -> Server {
    Server::plain(|asked| match asked.header("authorization") {
        BASIC => Answer::new(200, "content"),
        _ => Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await
}

/// A token server, and a registry that wants its token.
async fn bearer(
    token: impl Fn(&bulkhead_test_registry::Asked) -> Answer + Send + Sync + 'static,
) -> (Server, Server) {
    let tokens = Server::plain(token).await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"the registry\",scope=\"repository:team/app:pull\"",
        tokens.address
    );
    let registry = Server::plain(move |asked| match asked.header("authorization") {
        "Bearer good" => Answer::new(200, "content"),
        _ => Answer::new(401, "").header("WWW-Authenticate", challenge.clone()),
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn user_and_password() {
    let server = basic().await;
    let node = Node::new(&at(&server));
    let repository = node.open_with(&request("me", "word")).await;
    repository.tagged("1", MIB).await.unwrap();
    repository.tagged("1", MIB).await.unwrap();
    // Shown at once the second time.
    assert_eq!(server.asked().len(), 3);
    let repository = node.open_with(&request("me", "wrong")).await;
    let error = repository.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let text = error.to_string();
    assert!(text.contains("the credentials from the request"), "{text}");
    assert!(!text.contains("wrong"), "{text}");
    let error = node.open().await.tagged("1", MIB).await.unwrap_err();
    assert!(error.to_string().contains("without credentials"), "{error}");
}

#[tokio::test]
async fn the_requests_auth_field() {
    let server = basic().await;
    let node = Node::new(&at(&server));
    let auth = |auth: &str| Sources {
        request: Some(AuthConfig {
            auth: auth.to_owned(),
            ..AuthConfig::default()
        }),
        ..Sources::default()
    };
    let repository = node.open_with(&auth("bWU6d29yZA==")).await;
    repository.tagged("1", MIB).await.unwrap();
    let reference = bulkhead_image::Reference::parse("r.example/team/app").unwrap();
    let error = node
        .client
        .open(&reference, &auth("???"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("base64"), "{error}");
}

#[tokio::test]
async fn a_token_for_anybody_and_one_for_credentials() {
    let (registry, tokens) = bearer(|asked| {
        assert!(
            asked.target.contains("service=the+registry"),
            "{}",
            asked.target
        );
        assert!(
            asked
                .target
                .contains("scope=repository%3Ateam%2Fapp%3Apull")
        );
        match asked.header("authorization") {
            "" => Answer::new(200, "{\"token\":\"good\",\"expires_in\":60}"),
            BASIC => Answer::new(200, "{\"access_token\":\"good\"}"),
            _ => Answer::new(401, "{}"),
        }
    })
    .await;
    let node = Node::new(&at(&registry));
    node.open().await.tagged("1", MIB).await.unwrap();
    let repository = node.open_with(&request("me", "word")).await;
    repository.tagged("1", MIB).await.unwrap();
    let repository = node.open_with(&request("me", "wrong")).await;
    let error = repository.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("token server"), "{error}");
    assert_eq!(tokens.asked().len(), 3);
    // The registry itself was never told the password.
    let log = registry.log();
    assert!(
        log.iter()
            .all(|asked| !asked.header("authorization").contains("Basic"))
    );
}

#[tokio::test]
async fn a_token_that_is_too_old_is_replaced() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let tokens = Server::plain(|_| Answer::new(200, "{\"token\":\"good\"}")).await;
    let challenge = format!("Bearer realm=\"http://{}/\"", tokens.address);
    let turn = AtomicUsize::new(0);
    let registry = Server::plain(move |asked| {
        let old = turn.fetch_add(1, Ordering::Relaxed) == 2;
        match asked.header("authorization") {
            "Bearer good" if !old => Answer::new(200, "content"),
            _ => Answer::new(401, "").header("WWW-Authenticate", challenge.clone()),
        }
    })
    .await;
    let repository = Node::new(&at(&registry)).open().await;
    repository.tagged("1", MIB).await.unwrap();
    repository.tagged("1", MIB).await.unwrap();
    assert_eq!(tokens.asked().len(), 2);
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let (registry, tokens) = bearer(|asked| {
        assert_eq!(asked.method, "POST");
        assert!(
            asked.body.contains("grant_type=refresh_token"),
            "{}",
            asked.body
        );
        assert!(asked.body.contains("refresh_token=mine"), "{}", asked.body);
        Answer::new(200, "{\"access_token\":\"good\"}")
    })
    .await;
    let sources = Sources {
        request: Some(AuthConfig {
            identity_token: "mine".to_owned(),
            ..AuthConfig::default()
        }),
        ..Sources::default()
    };
    let repository = Node::new(&at(&registry)).open_with(&sources).await;
    repository.tagged("1", MIB).await.unwrap();
    assert_eq!(tokens.asked(), ["POST /token"]);
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let (registry, tokens) = bearer(|_| Answer::new(500, "")).await;
    let sources = Sources {
        request: Some(AuthConfig {
            registry_token: "good".to_owned(),
            ..AuthConfig::default()
        }),
        ..Sources::default()
    };
    let repository = Node::new(&at(&registry)).open_with(&sources).await;
    repository.tagged("1", MIB).await.unwrap();
    assert!(tokens.asked().is_empty());
}

#[tokio::test]
async fn secrets_do_not_follow_a_redirect() {
    let elsewhere = Server::plain(|asked| {
        assert_eq!(asked.header("authorization"), "");
        Answer::new(200, "content")
    })
    .await;
    let target = format!("http://{}/storage", elsewhere.address);
    let registry = Server::plain(move |asked| match asked.header("authorization") {
        BASIC => Answer::new(307, "").header("Location", target.clone()),
        _ => Answer::new(401, "").header("WWW-Authenticate", "Basic"),
    })
    .await;
    let repository = Node::new(&at(&registry))
        .open_with(&request("me", "word"))
        .await;
    repository.tagged("1", MIB).await.unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
}

#[tokio::test]
async fn a_mirror_is_not_told_what_is_for_the_registry() {
    let mirror = basic().await;
    let registry = basic().await;
    let hosts = format!("{}[host.\"http://{}\"]\n", at(&registry), mirror.address);
    let node = Node::new(&hosts);
    let repository = node.open_with(&request("me", "word")).await;
    repository.tagged("1", MIB).await.unwrap();
    let log = mirror.log();
    assert!(
        log.iter()
            .all(|asked| asked.header("authorization").is_empty())
    );
    // Unless it is named.
    let mut named = request("me", "word");
    if let Some(request) = &mut named.request {
        request.server_address = format!("http://{}/v2/", mirror.address);
    }
    let before = registry.asked().len();
    node.open_with(&named).await.tagged("1", MIB).await.unwrap();
    assert_eq!(registry.asked().len(), before);
}

#[tokio::test]
async fn dockers_configuration_is_read() {
    let server = basic().await;
    let node = Node::new(&at(&server));
    let path = node.path().join("config.json");
    let sources = Sources {
        docker: Some(path.clone()),
        ..Sources::default()
    };
    std::fs::write(
        &path,
        "{\"auths\":{\"https://r.example/v1/\":{\"auth\":\"bWU6d29yZA==\"}}}",
    )
    .unwrap();
    node.open_with(&sources)
        .await
        .tagged("1", MIB)
        .await
        .unwrap();
    std::fs::write(
        &path,
        "{\"auths\":{\"r.example\":{\"username\":\"me\",\"password\":\"no\"}}}",
    )
    .unwrap();
    let error = node
        .open_with(&sources)
        .await
        .tagged("1", MIB)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
    std::fs::write(
        &path,
        "{\"auths\":{\"other.example\":{\"auth\":\"bWU6d29yZA==\"}}}",
    )
    .unwrap();
    let error = node
        .open_with(&sources)
        .await
        .tagged("1", MIB)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("without credentials"), "{error}");
    std::fs::write(&path, "{").unwrap();
    let reference = bulkhead_image::Reference::parse("r.example/team/app").unwrap();
    let error = node.client.open(&reference, &sources).await.unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[tokio::test]
async fn a_credential_helper_is_asked() {
    let server = basic().await;
    let node = Node::new(&at(&server));
    let program = node.path().join("docker-credential-of-the-test");
    let script = "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get r.example' ] || exit 1\n\
                  echo '{\"Username\":\"me\",\"Secret\":\"word\"}'\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = node.path().join("config.json");
    std::fs::write(&path, "{\"credHelpers\":{\"r.example\":\"of-the-test\"}}").unwrap();
    let sources = Sources {
        docker: Some(path.clone()),
        helpers: Some(node.path().to_owned()),
        ..Sources::default()
    };
    let repository = node.open_with(&sources).await;
    repository.tagged("1", MIB).await.unwrap();
    std::fs::write(
        &path,
        "{\"credHelpers\":{\"r.example\":\"../of-the-test\"}}",
    )
    .unwrap();
    let reference = bulkhead_image::Reference::parse("r.example/team/app").unwrap();
    let error = node.client.open(&reference, &sources).await.unwrap_err();
    assert!(
        error.to_string().contains("no credential helper"),
        "{error}"
    );
}
