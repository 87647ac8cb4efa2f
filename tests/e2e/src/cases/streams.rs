//! Exec, attach and port-forward over the streaming server, in a real guest.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;
use bulkhead_streaming::{
    Standard,
    client::{self, Input, Output, Protocol, Said},
    spdy::connection::Event,
};
use sha2::{Digest as _, Sha256};

use super::{clean, node};
use bulkhead_e2e::{
    node::{Node, Programs},
    pod::{Pod, container_config},
};

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
const TTY: Standard = Standard {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

/// Runs a shell script in a container, connected.
async fn exec(
    node: &Node,
    id: &str,
    script: &str,
    protocol: Protocol,
    streams: Standard,
) -> Result<(Input, Output)> {
    let request = cri::ExecRequest {
        container_id: id.to_owned(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let answer = node.runtime().exec(request).await.context("Exec")?;
    Ok(client::remote(&answer.into_inner().url, protocol, streams).await?)
}

/// Output until it contains `wanted`.
async fn until(output: &mut Output, wanted: &str) -> Result<String> {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match output.next().await? {
            Some(Said::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => anyhow::bail!("{other:?} after {seen:?}, before {wanted:?}"),
        }
    }
    Ok(seen)
}

/// Output, exit status, terminals with their sizes, and clients that go.
pub(crate) async fn exec_streams(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "exec-streams", "").await?;
    let mut pod = Pod::run(&node, "exec-streams").await?;
    let id = pod.sh("c", "exec sleep 100000").await?;
    for protocol in PROTOCOLS {
        let script = "echo out; echo err >&2; exit 3";
        let (_input, mut output) = exec(&node, &id, script, protocol, OUT).await?;
        let (stdout, stderr, status) = output.rest().await?;
        ensure!(
            stdout == b"out\n" && stderr == b"err\n",
            "{stdout:?} {stderr:?}"
        );
        ensure!(status.contains(r#""message":"3""#), "{status}");

        let (mut input, mut output) = exec(&node, &id, "wc -c", protocol, ALL).await?;
        input.stdin(&[b'x'; 100_000]).await?;
        input.end().await?;
        let (stdout, _, status) = output.rest().await?;
        ensure!(
            stdout == b"100000\n" && status.contains("Success"),
            "{status}"
        );

        let (mut input, mut output) = exec(&node, &id, "exec sh", protocol, TTY).await?;
        input.resize(132, 43).await?;
        // The size is set beside the input: asked for until it is there.
        let ask = "until stty size | grep -q '43 132'; do sleep 0.1; done; echo si''zed; tty\n";
        input.stdin(ask.as_bytes()).await?;
        let seen = until(&mut output, "/dev/pts/").await?;
        ensure!(seen.contains("sized"), "{seen}");
        input.stdin(b"exit 5\n").await?;
        let (_, _, status) = output.rest().await?;
        ensure!(status.contains(r#""message":"5""#), "{status}");

        let script = "trap '' HUP; echo begun; sleep 6543 & sleep 6543";
        let (input, mut output) = exec(&node, &id, script, protocol, ALL).await?;
        until(&mut output, "begun").await?;
        drop((input, output));
        let wait = "for i in $(seq 50); do ps | grep -q '[6]543' || exit 0; sleep 0.2; done; ps";
        let left = pod.exec(&id, wait).await?;
        ensure!(left.stdout.is_empty(), "its processes live on: {left:?}");

        let (_input, mut output) = exec(&node, &id, "exec /no/such/program", protocol, OUT).await?;
        let (_, _, status) = output.rest().await?;
        ensure!(status.contains(r#""message":"127""#), "{status}");
    }
    pod.remove().await?;
    clean(node, &world).await
}

/// A container's own streams: several clients see the same, and leaving harms nobody.
pub(crate) async fn attach_streams(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "attach-streams", "").await?;
    let mut pod = Pod::run(&node, "attach-streams").await?;
    let script = "while read line; do echo \"got $line\"; [ \"$line\" = end ] && exit 4; done";
    let mut config = container_config("c", script);
    config.stdin = true;
    let id = pod.create(config).await?;
    pod.start(&id).await?;
    let attach = async |protocol| {
        let request = cri::AttachRequest {
            container_id: id.clone(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let answer = node.runtime().attach(request).await.context("Attach")?;
        anyhow::Ok(client::remote(&answer.into_inner().url, protocol, ALL).await?)
    };
    let (mut input, mut output) = attach(PROTOCOLS[0]).await?;
    input.stdin(b"one\n").await?;
    until(&mut output, "got one\n").await?;
    let (mut second_input, mut second) = attach(PROTOCOLS[1]).await?;
    second_input.stdin(b"two\n").await?;
    until(&mut output, "got two\n").await?;
    until(&mut second, "got two\n").await?;
    drop((second_input, second));
    input.stdin(b"end\n").await?;
    let (stdout, _, status) = output.rest().await?;
    ensure!(
        stdout == b"got end\n" && status.contains("Success"),
        "{status}"
    );
    ensure!(pod.exited(&id, Duration::from_secs(60)).await?.exit_code == 4);
    pod.remove().await?;
    clean(node, &world).await
}

/// A server on the pod's own 127.0.0.1, several connections, one of them refused.
pub(crate) async fn port_forward(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "forward", "").await?;
    let mut pod = Pod::run(&node, "forward").await?;
    let serve = "mkdir /tmp/w; echo found > /tmp/w/it; exec httpd -f -p 127.0.0.1:8080 -h /tmp/w";
    let id = pod.sh("c", serve).await?;
    pod.exec(
        &id,
        "until netstat -ltn | grep -q :8080; do sleep 0.1; done",
    )
    .await?;
    for tunnel in [false, true] {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: vec![],
        };
        let answer = node.runtime().port_forward(request).await?;
        let url = answer.into_inner().url;
        let (mut sender, mut receiver) = client::port_forward(&url, tunnel).await?;
        for n in 0..3 {
            // Nobody listens there; the next connection is not concerned.
            let (error, _) = client::open_pair(&mut sender, &mut receiver, 81, 2 * n).await?;
            let mut said = Vec::new();
            loop {
                match receiver.next().await?.context("the connection ended")? {
                    Event::Data(it, bytes) if it == error => said.extend_from_slice(&bytes),
                    Event::Ended(it) if it == error => break,
                    _ => {}
                }
            }
            let said = String::from_utf8_lossy(&said).into_owned();
            ensure!(said.contains("refused"), "{said:?}");
            let (_, data) = client::open_pair(&mut sender, &mut receiver, 8080, 2 * n + 1).await?;
            sender.send(data, b"GET /it HTTP/1.0\r\n\r\n").await?;
            let mut got = Vec::new();
            loop {
                match receiver.next().await?.context("the connection ended")? {
                    Event::Data(it, bytes) if it == data => got.extend_from_slice(&bytes),
                    Event::Ended(it) | Event::Reset(it) if it == data => break,
                    _ => {}
                }
            }
            let got = String::from_utf8_lossy(&got).into_owned();
            ensure!(got.ends_with("\r\n\r\nfound\n"), "{got:?}");
        }
    }
    pod.remove().await?;
    clean(node, &world).await
}

/// A page of a server in a pod, by the address that PortForward gave.
pub(super) async fn forwarded_page(url: &str, port: u16) -> Result<String> {
    let (mut sender, mut receiver) = client::port_forward(url, false).await?;
    let (_, data) = client::open_pair(&mut sender, &mut receiver, port, 0).await?;
    sender.send(data, b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut got = Vec::new();
    loop {
        match receiver.next().await?.context("the connection ended")? {
            Event::Data(it, bytes) if it == data => got.extend_from_slice(&bytes),
            Event::Ended(it) | Event::Reset(it) if it == data => break,
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&got).into_owned())
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect()
}

/// Every byte arrives once and in order, each way.
pub(crate) async fn bytes_are_exact(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "exact", "").await?;
    let mut pod = Pod::run(&node, "exact").await?;
    every_byte(&node, &mut pod, 64).await?;
    pod.remove().await?;
    clean(node, &world).await
}

/// Sends so many mebibytes of random bytes, or `BULKHEAD_STREAM_MIB`, through execs in a
/// pod, each way by each protocol.
#[allow(clippy::print_stdout)] // figures for the reader
pub(super) async fn every_byte(node: &Node, pod: &mut Pod, mebibytes: usize) -> Result<()> {
    const MIB: usize = 1 << 20;
    let id = pod.sh("c", "exec sleep 100000").await?;
    let named = std::env::var("BULKHEAD_STREAM_MIB").ok();
    let count = named.and_then(|it| it.parse().ok()).unwrap_or(mebibytes);
    // Random, so that no two pieces are alike.
    let made = pod
        .exec(
            &id,
            "head -c 1048576 /dev/urandom > /tmp/piece; cat /tmp/piece",
        )
        .await?
        .stdout;
    ensure!(made.len() == MIB, "{} bytes", made.len());
    for protocol in PROTOCOLS {
        let began = Instant::now();
        let script = format!("for i in $(seq {count}); do echo $i; cat /tmp/piece; done");
        let (_input, mut output) = exec(node, &id, &script, protocol, OUT).await?;
        let (mut got, mut bytes) = (Sha256::new(), 0);
        while let Some(said) = output.next().await? {
            if let Said::Stdout(piece) = said {
                got.update(&piece);
                bytes += piece.len();
            }
        }
        let out = began.elapsed();
        let mut wanted = Sha256::new();
        for n in 1..=count {
            wanted.update(format!("{n}\n"));
            wanted.update(&made);
        }
        let wanted = hex(wanted);
        ensure!(hex(got) == wanted, "{bytes} bytes came out wrong");

        let began = Instant::now();
        let (mut input, mut output) = exec(node, &id, "sha256sum", protocol, ALL).await?;
        for n in 1..=count {
            input.stdin(format!("{n}\n").as_bytes()).await?;
            for piece in made.chunks(64 << 10) {
                input.stdin(piece).await?;
            }
        }
        input.end().await?;
        let (stdout, stderr, status) = output.rest().await?;
        let got = String::from_utf8_lossy(&stdout).into_owned();
        ensure!(
            got.starts_with(&wanted),
            "{got:?} instead of {wanted}: {status} {:?}",
            String::from_utf8_lossy(&stderr)
        );
        println!(
            "  {protocol:?}: {count} MiB out in {out:.1?}, in in {:.1?}",
            began.elapsed()
        );
    }
    Ok(())
}
