//! The client against servers that answer well, and badly.

// Tests say what they expect by unwrapping it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod auth;
mod tls;

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bulkhead_image::{Digest, Reference};
use bulkhead_registry::{Client, Error, Kind, Repository, Result, Settings, Sources};
use bulkhead_test_registry::{Answer, Asked, Server};

const MIB: u64 = 1 << 20;

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}

/// A client with one `hosts.toml` for the registry `r.example`.
pub(crate) struct Node {
    directory: tempfile::TempDir,
    pub(crate) client: Client,
}

impl Node {
    pub(crate) fn new(hosts: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("r.example");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("hosts.toml"), hosts).unwrap();
        let client = Client::new(Settings {
            hosts: Some(directory.path().to_owned()),
            progress: Duration::from_millis(500),
        });
        Self { directory, client }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) async fn open(&self) -> Repository {
        self.open_with(&Sources::default()).await
    }

    pub(crate) async fn open_with(&self, sources: &Sources) -> Repository {
        let reference = Reference::parse("r.example/team/app:1").unwrap();
        self.client.open(&reference, sources).await.unwrap()
    }
}

pub(crate) fn at(server: &Server) -> String {
    format!("server = \"http://{}\"\n", server.address)
}

async fn bytes(repository: &Repository, digest: &Digest, size: u64) -> Result<Vec<u8>> {
    let mut blob = repository.blob(digest, size);
    let mut all = Vec::new();
    while let Some(chunk) = blob.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn a_manifest_by_tag_and_by_digest() {
    let body = b"{\"schemaVersion\":2}";
    let own = digest(body).to_string();
    let server = Server::plain(move |asked| match asked.path() {
        "/v2/team/app/manifests/1" => {
            assert!(asked.header("accept").contains("oci.image.index"));
            Answer::new(200, body).header("Docker-Content-Digest", own.clone())
        }
        path if path.ends_with(&own) => Answer::new(200, body),
        _ => Answer::new(
            404,
            "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"no\"}]}",
        ),
    })
    .await;
    let repository = Node::new(&at(&server)).open().await;
    let tagged = repository.tagged("1", MIB).await.unwrap();
    assert_eq!(
        (tagged.digest, tagged.bytes.as_slice()),
        (digest(body), &body[..])
    );
    let by_digest = repository.by_digest(&digest(body), MIB).await.unwrap();
    assert_eq!(by_digest, tagged);
    let error = repository.tagged("2", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    let url = format!("http://{}/v2/team/app/manifests/2", server.address);
    assert!(
        text.contains(&url) && text.contains("MANIFEST_UNKNOWN no"),
        "{text}"
    );
    assert!(text.contains("hosts.toml"), "{text}");
}

#[tokio::test]
async fn a_manifest_that_is_another_or_too_long_is_refused() {
    let server = Server::plain(|_| Answer::new(200, "not what was asked for")).await;
    let repository = Node::new(&at(&server)).open().await;
    let error = repository
        .by_digest(&digest(b"wanted"), MIB)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    let error = repository.tagged("1", 5).await.unwrap_err();
    assert!(error.to_string().contains("longer than 5 bytes"), "{error}");
    let lying = Server::plain(|_| {
        Answer::new(200, "one thing")
            .header("Docker-Content-Digest", digest(b"another").to_string())
    })
    .await;
    let repository = Node::new(&at(&lying)).open().await;
    let error = repository.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order() {
    let empty = Server::plain(|_| Answer::new(404, "")).await;
    let full = Server::plain(|_| Answer::new(200, "content")).await;
    let own = Server::plain(|_| Answer::new(200, "content")).await;
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
        own.address, empty.address, full.address
    );
    let repository = Node::new(&hosts).open().await;
    repository.tagged("1", MIB).await.unwrap();
    let target = "GET /v2/team/app/manifests/1?ns=r.example";
    assert_eq!(empty.asked(), [target]);
    assert_eq!(full.asked(), [target]);
    assert!(own.asked().is_empty());
}

#[tokio::test]
async fn a_mirror_does_what_it_may() {
    let resolver = Server::plain(|_| Answer::new(200, "content")).await;
    let puller = Server::plain(|_| Answer::new(200, "content")).await;
    let hosts = format!(
        "no_fallback = true\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"http://{}\"]\n",
        puller.address, resolver.address
    );
    let repository = Node::new(&hosts).open().await;
    repository.tagged("1", MIB).await.unwrap();
    assert!(puller.asked().is_empty() && resolver.asked().len() == 1);
    bytes(&repository, &digest(b"content"), 7).await.unwrap();
    assert!(puller.asked().len() == 1 && resolver.asked().len() == 1);
}

#[tokio::test]
async fn without_fallback_nobody_else_is_asked() {
    let empty = Server::plain(|_| Answer::new(404, "")).await;
    let hosts = format!("no_fallback = true\n[host.\"http://{}\"]\n", empty.address);
    let error = Node::new(&hosts)
        .open()
        .await
        .tagged("1", MIB)
        .await
        .unwrap_err();
    let Error::Failed { attempts, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(attempts.len(), 1, "{error}");
}

#[tokio::test]
async fn headers_go_to_their_server_only() {
    let elsewhere = Server::plain(|asked| {
        assert_eq!(asked.header("x-tenant"), "");
        Answer::new(200, "content")
    })
    .await;
    let target = format!("http://{}/storage/1?signature=secret", elsewhere.address);
    let server = Server::plain(move |asked| {
        assert_eq!(asked.header("x-tenant"), "blue");
        Answer::new(307, "").header("Location", target.clone())
    })
    .await;
    let hosts = format!("{}[header]\nx-tenant = \"blue\"\n", at(&server));
    let repository = Node::new(&hosts).open().await;
    let got = bytes(&repository, &digest(b"content"), 7).await.unwrap();
    assert_eq!(got, b"content");
    assert_eq!(elsewhere.asked(), ["GET /storage/1?signature=secret"]);
}

#[tokio::test]
async fn a_server_that_sends_in_circles_is_left() {
    let server = Server::plain(|_| Answer::new(302, "").header("Location", "/again")).await;
    let repository = Node::new(&at(&server)).open().await;
    let error = repository.tagged("1", MIB).await.unwrap_err();
    assert!(error.to_string().contains("sends on more than"), "{error}");
    assert_eq!(server.asked().len(), 6);
    let files =
        Server::plain(|_| Answer::new(302, "").header("Location", "file:///etc/passwd")).await;
    let repository = Node::new(&at(&files)).open().await;
    let error = repository.tagged("1", MIB).await.unwrap_err();
    assert!(error.to_string().contains("not safe"), "{error}");
}

/// Answers `fails` first, then the content.
fn flaky(fails: Vec<Answer>, body: &'static [u8]) -> impl Fn(&Asked) -> Answer {
    let turn = AtomicUsize::new(0);
    move |asked| match fails.get(turn.fetch_add(1, Ordering::Relaxed)) {
        Some(fail) => fail.clone(),
        None => Answer::part_of(body, asked),
    }
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    let fails = vec![
        Answer::new(429, "").header("Retry-After", "0"),
        Answer::new(503, ""),
    ];
    let server = Server::plain(flaky(fails, b"content")).await;
    let repository = Node::new(&at(&server)).open().await;
    assert_eq!(repository.tagged("1", MIB).await.unwrap().bytes, b"content");
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn one_that_wants_an_hour_is_left() {
    let server = Server::plain(|_| Answer::new(429, "").header("Retry-After", "3600")).await;
    let repository = Node::new(&at(&server)).open().await;
    let error = repository.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn nobody_there_is_told() {
    let gone = Server::plain(|_| Answer::new(200, "")).await.address;
    let node = Node::new(&format!("server = \"http://{gone}\"\n"));
    let error = node.open().await.tagged("1", MIB).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    static BODY: &[u8] = b"0123456789abcdefghij";
    let cut = |at| Answer::new(200, BODY).cut(at);
    let silent = Answer {
        silent: true,
        ..Answer::default()
    };
    let later = Answer::new(206, &BODY[4..])
        .header("Content-Range", "bytes 4-19/20")
        .cut(6);
    let server = Server::plain(flaky(vec![cut(4), silent, later], BODY)).await;
    let repository = Node::new(&at(&server)).open().await;
    assert_eq!(bytes(&repository, &digest(BODY), 20).await.unwrap(), BODY);
    let log = server.log();
    let ranges: Vec<_> = log.iter().map(|asked| asked.header("range")).collect();
    assert_eq!(ranges, ["", "bytes=4-", "bytes=4-", "bytes=10-"]);
}

#[tokio::test]
async fn a_server_without_parts_sends_all_of_it_again() {
    static BODY: &[u8] = b"0123456789abcdefghij";
    let server = Server::plain(flaky(
        vec![Answer::new(200, BODY).cut(7), Answer::new(200, BODY)],
        BODY,
    ))
    .await;
    let repository = Node::new(&at(&server)).open().await;
    assert_eq!(bytes(&repository, &digest(BODY), 20).await.unwrap(), BODY);
}

#[tokio::test]
async fn another_server_goes_on_with_it() {
    static BODY: &[u8] = b"0123456789abcdefghij";
    let first = Server::plain(|_| Answer::new(200, BODY).cut(7)).await;
    let second = Server::plain(|asked| Answer::part_of(BODY, asked)).await;
    let hosts = format!("{}[host.\"http://{}\"]\n", at(&second), first.address);
    let repository = Node::new(&hosts).open().await;
    assert_eq!(bytes(&repository, &digest(BODY), 20).await.unwrap(), BODY);
    assert_eq!(second.asked().len(), 1);
}

#[tokio::test]
async fn one_that_always_breaks_off_is_left() {
    let server = Server::plain(|_| Answer::new(200, "0123456789").cut(0)).await;
    let repository = Node::new(&at(&server)).open().await;
    let error = bytes(&repository, &digest(b"x"), 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(server.asked().len() <= 8, "{:?}", server.asked());
}

#[tokio::test]
async fn one_that_sends_a_byte_at_a_time_is_left() {
    static BODY: &[u8] = &[7; 1000];
    let server = Server::plain(|asked| Answer::part_of(BODY, asked).cut(1)).await;
    let repository = Node::new(&at(&server)).open().await;
    let error = bytes(&repository, &digest(b"x"), 1000).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(server.asked().len(), 200);
}

#[tokio::test]
async fn one_that_drips_is_left() {
    static BODY: &[u8] = &[7; 1000];
    let server =
        Server::plain(|asked| Answer::part_of(BODY, asked).drip(Duration::from_millis(20))).await;
    let repository = Node::new(&at(&server)).open().await;
    let error = bytes(&repository, &digest(b"x"), 1000).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("bytes a second"), "{error}");
    // Each time from where it was.
    let log = server.log();
    assert_eq!(log.len(), 5);
    assert!(
        log.iter()
            .skip(1)
            .all(|asked| asked.header("range").starts_with("bytes="))
    );
}

#[tokio::test]
async fn who_drips_is_left_for_another() {
    static BODY: &[u8] = &[7; 1000];
    let first =
        Server::plain(|asked| Answer::part_of(BODY, asked).drip(Duration::from_millis(20))).await;
    let second = Server::plain(|asked| Answer::part_of(BODY, asked)).await;
    let hosts = format!("{}[host.\"http://{}\"]\n", at(&second), first.address);
    let repository = Node::new(&hosts).open().await;
    assert_eq!(bytes(&repository, &digest(BODY), 1000).await.unwrap(), BODY);
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_wrong_part_is_refused() {
    let server = Server::plain(flaky(
        vec![
            Answer::new(200, "0123456789").cut(3),
            Answer::new(206, "56789").header("Content-Range", "bytes 5-9/10"),
        ],
        b"unused",
    ))
    .await;
    let repository = Node::new(&at(&server)).open().await;
    let error = bytes(&repository, &digest(b"x"), 10).await.unwrap_err();
    assert!(error.to_string().contains("bytes 5-9/10"), "{error}");
}

#[tokio::test]
async fn never_more_than_was_announced() {
    let server = Server::plain(|_| Answer::new(200, "0123456789")).await;
    let repository = Node::new(&at(&server)).open().await;
    assert_eq!(bytes(&repository, &digest(b"x"), 4).await.unwrap(), b"0123");
    assert_eq!(bytes(&repository, &digest(b"x"), 0).await.unwrap(), b"");
}
