//! Exec and attach in every protocol.

use super::{
    ALL, EVERY, HALF_CLOSING, OUT, TTY,
    backend::{Program, Shell},
    running, soon,
};
use bulkhead_streaming::{
    Standard, WindowSize,
    client::{Protocol, Said, remote},
};

fn speaks_json(protocol: Protocol) -> bool {
    let (Protocol::Spdy(name) | Protocol::WebSocket(name)) = protocol;
    name.starts_with("v4") || name.starts_with("v5")
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_complete_before_the_status() {
    let running = running().await;
    for protocol in EVERY {
        let shell = Shell::new(Program::Write(1_000_000, 7));
        let url = running.server.exec(OUT, shell.clone()).unwrap();
        let (_input, mut output) = remote(&url, protocol, OUT).await.unwrap();
        let (stdout, stderr, status) = output.rest().await.unwrap();
        assert_eq!(
            (stdout.len(), stderr.len()),
            (1_000_000, 1_000_000),
            "{protocol:?}"
        );
        if speaks_json(protocol) {
            assert!(
                status.contains(r#""reason":"ExitCode","message":"7""#),
                "{status}"
            );
        } else {
            assert_eq!(status, "command terminated with non-zero exit code: 7");
        }
        soon("the process is gone", || shell.living() == 0).await;
    }
    soon("connections are gone", || running.server.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn success_is_said_and_attach_is_like_exec() {
    let running = running().await;
    for protocol in EVERY {
        let shell = Shell::new(Program::Write(1, 0));
        let url = running.server.attach(OUT, shell).unwrap();
        assert!(url.contains("/attach/"), "{url}");
        let (_input, mut output) = remote(&url, protocol, OUT).await.unwrap();
        let (stdout, _, status) = output.rest().await.unwrap();
        assert_eq!(stdout, b"x");
        let wanted = match speaks_json(protocol) {
            true => r#"{"metadata":{},"status":"Success"}"#,
            false => "",
        };
        assert_eq!(status, wanted, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_comes_back_whole_and_its_end_ends_it() {
    let running = running().await;
    for protocol in HALF_CLOSING {
        let shell = Shell::new(Program::Cat);
        let url = running.server.exec(ALL, shell).unwrap();
        let (mut input, mut output) = remote(&url, protocol, ALL).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let feed = sent.clone();
        let feeding = tokio::spawn(async move {
            for piece in feed.chunks(30_000) {
                input.stdin(piece).await.unwrap();
            }
            input.end().await.unwrap();
            input
        });
        let (stdout, _, status) = output.rest().await.unwrap();
        assert!(stdout == sent, "{protocol:?}: {} bytes", stdout.len());
        assert!(status.contains("Success"), "{status}");
        drop(feeding.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keystrokes_and_terminal_sizes_arrive() {
    let running = running().await;
    for protocol in EVERY {
        if matches!(protocol, Protocol::Spdy("v2.channel.k8s.io")) {
            continue; // knows no sizes
        }
        let shell = Shell::new(Program::Cat);
        let url = running.server.exec(TTY, shell.clone()).unwrap();
        let (mut input, mut output) = remote(&url, protocol, TTY).await.unwrap();
        input.resize(80, 24).await.unwrap();
        let seen = shell.sizes.clone();
        soon("the size is there", || !seen.lock().unwrap().is_empty()).await;
        let (columns, rows) = (80, 24);
        assert_eq!(seen.lock().unwrap()[0], WindowSize { columns, rows });
        for key in ["a", "b"] {
            input.stdin(key.as_bytes()).await.unwrap();
            let said = output.next().await.unwrap().unwrap();
            assert_eq!(said, Said::Stdout(key.into()), "{protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_said_on_the_error_stream() {
    let running = running().await;
    for protocol in EVERY {
        let url = running
            .server
            .exec(ALL, Shell::new(Program::Missing))
            .unwrap();
        let (_input, mut output) = remote(&url, protocol, ALL).await.unwrap();
        let (_, _, status) = output.rest().await.unwrap();
        assert!(status.contains("no such file"), "{status}");
        assert_eq!(speaks_json(protocol), status.contains("InternalError"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_read_ends_all_the_same() {
    let running = running().await;
    for protocol in HALF_CLOSING {
        let url = running.server.exec(ALL, Shell::new(Program::Deaf)).unwrap();
        let (mut input, mut output) = remote(&url, protocol, ALL).await.unwrap();
        let feeding = tokio::spawn(async move { while input.stdin(&[0; 30_000]).await.is_ok() {} });
        let (_, _, status) = output.rest().await.unwrap();
        assert!(status.contains(r#""message":"3""#), "{status}");
        drop(output);
        feeding.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_asked_for_is_there() {
    let running = running().await;
    let wanted = Standard {
        stdout: true,
        ..Standard::default()
    };
    for protocol in EVERY {
        let shell = Shell::new(Program::Write(300_000, 0));
        let url = running.server.exec(wanted, shell).unwrap();
        let (_input, mut output) = remote(&url, protocol, wanted).await.unwrap();
        let (stdout, stderr, _) = output.rest().await.unwrap();
        assert_eq!((stdout.len(), stderr.len()), (300_000, 0));
    }
}
