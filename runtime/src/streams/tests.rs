//! Streams through a whole daemon: the RPC, the URL, the session, the guest's end.

use std::time::Duration;

use bulkhead_cri_api::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use bulkhead_streaming::{
    Standard,
    client::{self, Protocol},
    spdy::connection::Event,
};
use tonic::Code;

use crate::testing::{Clients, ECHO_PORT, Node, World, records};

const PROTOCOLS: [Protocol; 2] = [
    Protocol::Spdy("v4.channel.k8s.io"),
    Protocol::WebSocket("v5.channel.k8s.io"),
];
const OUT: Standard = Standard {
    stdin: false,
    stdout: true,
    stderr: true,
    tty: false,
};
const ALL: Standard = Standard { stdin: true, ..OUT };

struct Bench {
    node: Node,
    clients: Clients,
    pod: String,
    container: String,
}

impl Bench {
    async fn new() -> Self {
        let node = Node::start(&World::new()).await.unwrap();
        let clients = node.serve().await.unwrap();
        let pod = node
            .pods
            .run(records::pod_config("p", 0), String::new())
            .await
            .unwrap();
        let mut config = records::container_config("c", 0, &["sleep"]);
        config.stdin = true;
        let container = node.pods.create(&pod, config).await.unwrap();
        node.pods.start(&container).await.unwrap();
        Self {
            node,
            clients,
            pod,
            container,
        }
    }

    async fn exec(&self, streams: Standard, cmd: &[&str]) -> Result<String, tonic::Status> {
        let request = ExecRequest {
            container_id: self.container.clone(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let answer = self.clients.runtime.clone().exec(request).await?;
        Ok(answer.into_inner().url)
    }

    async fn attach(&self, streams: Standard) -> Result<String, tonic::Status> {
        let request = AttachRequest {
            container_id: self.container.clone(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let answer = self.clients.runtime.clone().attach(request).await?;
        Ok(answer.into_inner().url)
    }

    async fn port_forward(&self, port: Vec<i32>) -> Result<String, tonic::Status> {
        let request = PortForwardRequest {
            pod_sandbox_id: self.pod.clone(),
            port,
        };
        let answer = self.clients.runtime.clone().port_forward(request).await?;
        Ok(answer.into_inner().url)
    }

    /// Processes in the guest, the container's own among them.
    async fn processes(&self) -> usize {
        let sandbox = self.node.pods.model().pods()[0].sandbox().unwrap();
        sandbox.processes().await.unwrap().len()
    }

    /// Waits until only the container's own process is left.
    async fn execs_are_gone(&self) {
        for _ in 0..3000 {
            if self.processes().await == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} processes are left", self.processes().await);
    }
}

/// Output and status of a command that is given no input.
async fn run(bench: &Bench, protocol: Protocol, cmd: &[&str]) -> (Vec<u8>, String) {
    let url = bench.exec(OUT, cmd).await.unwrap();
    let (_input, mut output) = client::remote(&url, protocol, OUT).await.unwrap();
    let (stdout, _, status) = output.rest().await.unwrap();
    (stdout, status)
}

#[tokio::test]
async fn a_command_gives_its_output_and_how_it_ended() {
    let bench = Bench::new().await;
    for protocol in PROTOCOLS {
        let (stdout, status) = run(&bench, protocol, &["echo", "hello", "there"]).await;
        assert_eq!(stdout, b"hello there\n");
        assert_eq!(status, r#"{"metadata":{},"status":"Success"}"#);
        let (stdout, _) = run(&bench, protocol, &["flood", "5000000"]).await;
        assert_eq!(stdout.len(), 5_000_000);
        let (_, status) = run(&bench, protocol, &["exit", "3"]).await;
        assert!(
            status.contains(r#""reason":"ExitCode","message":"3""#),
            "{status}"
        );
        let (_, status) = run(&bench, protocol, &["missing"]).await;
        assert!(status.contains("no such file"), "{status}");
    }
    bench.execs_are_gone().await;
}

#[tokio::test]
async fn the_end_of_stdin_reaches_the_process() {
    let bench = Bench::new().await;
    for protocol in PROTOCOLS {
        let url = bench.exec(ALL, &["sleep"]).await.unwrap();
        let (mut input, mut output) = client::remote(&url, protocol, ALL).await.unwrap();
        input.stdin(b"hello").await.unwrap();
        input.end().await.unwrap();
        let (_, _, status) = output.rest().await.unwrap();
        assert!(status.contains("Success"), "{status}");
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_its_command_along_and_leaves_the_container() {
    let bench = Bench::new().await;
    for protocol in PROTOCOLS {
        let url = bench.exec(ALL, &["sleep"]).await.unwrap();
        let session = client::remote(&url, protocol, ALL).await.unwrap();
        while bench.processes().await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(session);
        bench.execs_are_gone().await;
        let url = bench.attach(OUT).await.unwrap();
        drop(client::remote(&url, protocol, OUT).await.unwrap());
    }
    assert_eq!(bench.processes().await, 1);
}

#[tokio::test]
async fn an_attach_ends_with_its_container() {
    for protocol in PROTOCOLS {
        let bench = Bench::new().await;
        let url = bench.attach(OUT).await.unwrap();
        let (_input, mut output) = client::remote(&url, protocol, OUT).await.unwrap();
        let rest = tokio::spawn(async move { output.rest().await.unwrap() });
        let followed = format!("follow {}", bench.container);
        while !bench.node.world.events().contains(&followed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.node.world.end_container(&bench.container, 42);
        let (_, _, status) = rest.await.unwrap();
        assert_eq!(status, r#"{"metadata":{},"status":"Success"}"#);
    }
}

#[tokio::test]
async fn ports_are_forwarded() {
    let bench = Bench::new().await;
    for tunnel in [false, true] {
        let url = bench.port_forward(vec![]).await.unwrap();
        let (mut sender, mut receiver) = client::port_forward(&url, tunnel).await.unwrap();
        let (error, _) = client::open_pair(&mut sender, &mut receiver, 8, 0)
            .await
            .unwrap();
        let mut said = Vec::new();
        loop {
            match receiver.next().await.unwrap().unwrap() {
                Event::Data(id, bytes) if id == error => said.extend_from_slice(&bytes),
                Event::Ended(id) if id == error => break,
                _ => {}
            }
        }
        let said = String::from_utf8(said).unwrap();
        assert!(
            said.contains("refused") && said.contains(&bench.pod),
            "{said}"
        );
        let (_, data) = client::open_pair(&mut sender, &mut receiver, ECHO_PORT, 1)
            .await
            .unwrap();
        sender.send(data, b"there and back").await.unwrap();
        sender.finish(data).await.unwrap();
        let mut got = Vec::new();
        loop {
            match receiver.next().await.unwrap().unwrap() {
                Event::Data(id, bytes) if id == data => got.extend_from_slice(&bytes),
                Event::Ended(id) if id == data => break,
                _ => {}
            }
        }
        assert_eq!(got, b"there and back");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_code() {
    let bench = Bench::new().await;
    let none = Standard::default();
    let both = Standard { tty: true, ..OUT };
    for streams in [none, both] {
        let refused = bench.exec(streams, &["true"]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let refused = bench.attach(streams).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let refused = bench.exec(OUT, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for port in [0, -1, 65536] {
        let refused = bench.port_forward(vec![port]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let refused = bench.port_forward((1..100).collect()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let grace = Duration::ZERO;
    let stopped = bench.node.pods.stop_container(&bench.container, grace);
    stopped.await.unwrap();
    let refused = bench.exec(OUT, &["true"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = bench.attach(OUT).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    bench.node.pods.stop(&bench.pod).await.unwrap();
    let refused = bench.port_forward(vec![]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let absent = PortForwardRequest {
        pod_sandbox_id: "absent".to_owned(),
        port: vec![],
    };
    let refused = bench.clients.runtime.clone().port_forward(absent).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn urls_that_nobody_uses_are_bounded() {
    let bench = Bench::new().await;
    for _ in 0..bulkhead_streaming::OUTSTANDING_MAX {
        bench.attach(OUT).await.unwrap();
    }
    let refused = bench.attach(OUT).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_guest_that_dies_or_hangs_ends_its_sessions() {
    for protocol in PROTOCOLS {
        let bench = Bench::new().await;
        let url = bench.exec(ALL, &["sleep"]).await.unwrap();
        let late = bench.exec(ALL, &["sleep"]).await.unwrap();
        let (_input, mut output) = client::remote(&url, protocol, ALL).await.unwrap();
        while bench.processes().await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.node.world.hang_vm(&bench.pod);
        let (_kept, mut hung) = client::remote(&late, protocol, ALL).await.unwrap();
        let (_, _, status) = hung.rest().await.unwrap();
        assert!(status.contains("does not answer"), "{status}");
        bench
            .node
            .world
            .kill_vm(&bench.pod, "killed", "killed by a test");
        let (_, _, status) = output.rest().await.unwrap();
        assert!(status.contains("sandbox has ended"), "{status}");
    }
}

/// A thousand streams, killed from either end: nothing of them is left in the
/// daemon or in the guest. Descriptors and memory are counted where the server is
/// alone in its process.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_leave_no_task_and_no_process() {
    let bench = Bench::new().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let round = async |from: usize, to: usize| {
        for n in from..to {
            let protocol = PROTOCOLS[n % 2];
            match n % 4 {
                0 => {
                    let url = bench.port_forward(vec![]).await.unwrap();
                    let (mut sender, mut receiver) =
                        client::port_forward(&url, n % 8 == 0).await.unwrap();
                    client::open_pair(&mut sender, &mut receiver, ECHO_PORT, 0)
                        .await
                        .unwrap();
                    receiver.next().await.unwrap();
                }
                1 => {
                    // In this guest, the end of its stdin would end the container.
                    let url = bench.attach(OUT).await.unwrap();
                    drop(client::remote(&url, protocol, OUT).await.unwrap());
                }
                2 => {
                    let url = bench.exec(ALL, &["sleep"]).await.unwrap();
                    drop(client::remote(&url, protocol, ALL).await.unwrap());
                }
                _ => {
                    run(&bench, protocol, &["flood", "100000"]).await;
                }
            }
        }
    };
    round(0, 40).await;
    bench.execs_are_gone().await;
    // What the first sessions started is gone when the number stands still.
    let mut before = usize::MAX;
    while metrics.num_alive_tasks() < before {
        before = metrics.num_alive_tasks();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    round(0, 1000).await;
    bench.execs_are_gone().await;
    for _ in 0..3000 {
        if metrics.num_alive_tasks() <= before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = metrics.num_alive_tasks();
    panic!("{before} tasks before, {after} after");
}
