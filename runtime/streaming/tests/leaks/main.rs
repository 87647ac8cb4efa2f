//! A thousand sessions leave nothing. In a process of its own, since it counts what
//! the process has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "../server/backend.rs"]
mod backend;

use std::{fs, future::pending, sync::Arc, time::Duration};

use backend::{Pod, Program, Shell};
use bulkhead_streaming::{
    Settings, Standard,
    client::{Protocol, open_pair, port_forward, remote},
    listen,
};

const PROTOCOLS: [Protocol; 2] = [
    Protocol::Spdy("v4.channel.k8s.io"),
    Protocol::WebSocket("v5.channel.k8s.io"),
];

/// Sessions, opened and killed.
const STREAMS: usize = 1000;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory, KiB.
fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

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

/// Killed by the client in the middle of everything, or by the process's end, in
/// turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sessions_leave_nothing() {
    let (server, listening) = listen(&Settings::default()).await.unwrap();
    tokio::spawn(listening.serve(pending()));
    let pod = Arc::new(Pod::default());
    let shells = [
        Program::Sleep,
        Program::Yes,
        Program::Cat,
        Program::Write(200_000, 1),
    ]
    .map(Shell::new);
    let round = async |from: usize, to: usize| {
        for n in from..to {
            if n % 3 == 0 {
                let url = server.port_forward(pod.clone(), vec![]).unwrap();
                let (mut sender, mut receiver) = port_forward(&url, n % 2 == 0).await.unwrap();
                let (_, data) = open_pair(&mut sender, &mut receiver, [7, 9, 13][n / 3 % 3], 0)
                    .await
                    .unwrap();
                sender.send(data, &[1; 1000]).await.unwrap();
                receiver.next().await.unwrap();
                continue;
            }
            let (shell, protocol) = (&shells[n % 4], PROTOCOLS[n / 2 % 2]);
            let streams = Standard {
                stdin: true,
                stdout: true,
                stderr: n % 5 != 0,
                tty: n % 5 == 0,
            };
            let url = match n % 3 {
                1 => server.exec(streams, shell.clone()),
                _ => server.attach(streams, shell.clone()),
            };
            let (mut input, mut output) = remote(&url.unwrap(), protocol, streams).await.unwrap();
            let _ = input.stdin(&[2; 10_000]).await;
            if n % 4 == 3 {
                // Killed from the process's end.
                output.rest().await.unwrap();
            }
        }
    };
    let gone = async || {
        soon("connections are gone", || server.connections() == 0).await;
        soon("processes are gone", || {
            shells.iter().all(|it| it.living() == 0)
        })
        .await;
        soon("the pod's connections are gone", || pod.living() == 0).await;
    };
    // What the first sessions allocate is kept for those that follow.
    round(0, 100).await;
    gone().await;
    let before = (tasks(), descriptors(), memory());
    round(0, STREAMS).await;
    gone().await;
    soon("tasks are gone", || tasks() <= before.0).await;
    soon("descriptors are gone", || descriptors() <= before.1).await;
    let grown = memory().saturating_sub(before.2);
    // A session that leaked its buffers would cost 64 KiB.
    assert!(
        grown < STREAMS * 16,
        "{grown} KiB more after {STREAMS} sessions"
    );
}
