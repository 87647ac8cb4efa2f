//! Whatever goes, what was behind it goes too.

use std::time::Duration;

use super::{
    ALL, HALF_CLOSING,
    backend::{Program, Shell},
    running, soon,
};
use bulkhead_streaming::{Settings, client::remote, listen};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_is_noticed_while_its_input_stands_still() {
    let running = running().await;
    for protocol in HALF_CLOSING {
        let shell = Shell::new(Program::Sleep);
        let url = running.server.exec(ALL, shell.clone()).unwrap();
        let (mut input, output) = remote(&url, protocol, ALL).await.unwrap();
        // Until nobody takes any more: the end would stand behind all this.
        let feeding = async { while input.stdin(&[0; 60_000]).await.is_ok() {} };
        let stuck = tokio::time::timeout(Duration::from_secs(2), feeding).await;
        assert!(stuck.is_err(), "a process that reads nothing took it all");
        assert_eq!(shell.living(), 1);
        drop((input, output));
        soon("the process is gone", || shell.living() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_end_is_every_sessions() {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (server, listening) = listen(&Settings::default()).await.unwrap();
    let serving = tokio::spawn(listening.serve(async {
        let _ = ended.await;
    }));
    let shell = Shell::new(Program::Yes);
    let mut clients = Vec::new();
    for protocol in HALF_CLOSING {
        let url = server.exec(ALL, shell.clone()).unwrap();
        clients.push(remote(&url, protocol, ALL).await.unwrap());
    }
    soon("they run", || shell.living() == 2).await;
    end.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(shell.living(), 0);
    assert_eq!(server.connections(), 0);
    for (_, mut output) in clients {
        while let Ok(Some(_)) = output.next().await {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_ends() {
    let settings = Settings {
        idle: Duration::from_millis(100),
        ..Settings::default()
    };
    let (server, listening) = listen(&settings).await.unwrap();
    let serving = tokio::spawn(listening.serve(std::future::pending()));
    let shell = Shell::new(Program::Sleep);
    let url = server.exec(ALL, shell.clone()).unwrap();
    let (_input, mut output) = remote(&url, HALF_CLOSING[0], ALL).await.unwrap();
    while let Ok(Some(_)) = output.next().await {}
    soon("the process is gone", || shell.living() == 0).await;
    serving.abort();
}
