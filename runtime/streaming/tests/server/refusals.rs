//! What is refused, and how.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    OUT,
    backend::{Pod, Program, Shell},
    running, soon,
};
use bulkhead_streaming::client::{Protocol, remote};

/// The head of the answer to a request.
async fn answer(url: &str, method: &str, headers: &str) -> String {
    let host = url.split('/').nth(2).unwrap();
    let path = url.split_once(host).unwrap().1;
    let mut socket = TcpStream::connect(host).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

#[tokio::test]
async fn a_token_works_once_and_for_its_own_kind() {
    let running = running().await;
    let shell = Shell::new(Program::Write(1, 0));
    let url = running.server.exec(OUT, shell.clone()).unwrap();
    let spdy = Protocol::Spdy("v4.channel.k8s.io");
    let (_input, mut output) = remote(&url, spdy, OUT).await.unwrap();
    output.rest().await.unwrap();
    assert!(remote(&url, spdy, OUT).await.is_err());
    let url = running.server.exec(OUT, shell).unwrap();
    let other = url.replace("/exec/", "/attach/");
    assert!(
        answer(&other, "POST", UPGRADE)
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    let guessed = format!("{url}x");
    assert!(
        answer(&guessed, "POST", UPGRADE)
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    let longer = format!("{url}/x");
    assert!(
        answer(&longer, "POST", UPGRADE)
            .await
            .starts_with("HTTP/1.1 404 ")
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_told_what_would() {
    let running = running().await;
    let url = || {
        running
            .server
            .exec(OUT, Shell::new(Program::Sleep))
            .unwrap()
    };
    let put = answer(&url(), "PUT", UPGRADE).await;
    assert!(
        put.starts_with("HTTP/1.1 405 ") && put.contains("GET, POST"),
        "{put}"
    );
    let plain = answer(&url(), "GET", "").await;
    assert!(
        plain.starts_with("HTTP/1.1 400 ") && plain.contains("SPDY/3.1"),
        "{plain}"
    );
    let version = format!("{UPGRADE}X-Stream-Protocol-Version: v9\r\n");
    let version = answer(&url(), "POST", &version).await;
    assert!(version.starts_with("HTTP/1.1 403 "), "{version}");
    assert!(version.contains("v4.channel.k8s.io"), "{version}");
    let forward = running
        .server
        .port_forward(Arc::new(Pod::default()), vec![]);
    let channels = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let ports = answer(&forward.unwrap(), "GET", channels).await;
    assert!(
        ports.starts_with("HTTP/1.1 400 ") && ports.contains("ports"),
        "{ports}"
    );
    let long = format!("X: {}\r\n", "x".repeat(100_000));
    let long = answer(&url(), "GET", &long).await;
    assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_let_go() {
    let running = running().await;
    let shell = Shell::new(Program::Sleep);
    let url = running.server.exec(OUT, shell.clone()).unwrap();
    let host = url.split('/').nth(2).unwrap();
    let path = url.split_once(host).unwrap().1;
    let mut socket = TcpStream::connect(host).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    // A control frame of version 2.
    socket
        .write_all(&[0x80, 2, 0, 1, 0, 0, 0, 10])
        .await
        .unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    // A GOAWAY with status 1, protocol error.
    assert!(answer.ends_with(&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]));
    soon("it is gone", || running.server.connections() == 0).await;
}
