//! The server over real sockets, with processes and ports of our own making.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod backend;
mod ends;
mod forwarding;
mod processes;
mod refusals;
mod tls;

use std::{future::pending, time::Duration};

use bulkhead_streaming::{Server, Settings, Standard, client::Protocol, listen};

/// A server, ended when dropped.
struct Running {
    server: Server,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn running() -> Running {
    let (server, listening) = listen(&Settings::default()).await.unwrap();
    let task = tokio::spawn(listening.serve(pending()));
    Running { server, task }
}

const OUT: Standard = Standard {
    stdin: false,
    stdout: true,
    stderr: true,
    tty: false,
};
const ALL: Standard = Standard { stdin: true, ..OUT };
const TTY: Standard = Standard {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

/// All that end stdin alone.
const HALF_CLOSING: [Protocol; 2] = [
    Protocol::Spdy("v4.channel.k8s.io"),
    Protocol::WebSocket("v5.channel.k8s.io"),
];
/// All.
const EVERY: [Protocol; 9] = [
    HALF_CLOSING[0],
    Protocol::Spdy("v3.channel.k8s.io"),
    Protocol::Spdy("v2.channel.k8s.io"),
    HALF_CLOSING[1],
    Protocol::WebSocket("v4.channel.k8s.io"),
    Protocol::WebSocket("v4.base64.channel.k8s.io"),
    Protocol::WebSocket("channel.k8s.io"),
    Protocol::WebSocket("base64.channel.k8s.io"),
    Protocol::WebSocket(""),
];

/// Waits for something that happens soon; the bound only ends a test that fails.
async fn soon(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if happened() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not after 30 s: {what}");
}
