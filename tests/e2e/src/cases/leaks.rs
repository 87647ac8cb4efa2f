//! Streams that come and go, by the thousand, leave the daemon as it was.
//!
//! On a node without virtual machines: what is looked at is the daemon, and a guest
//! of its own would only take the time of ten thousand more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;
use bulkhead_streaming::{
    Standard,
    client::{self, Input, Output, Protocol, Said},
    spdy::connection::Event,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{clean, node};
use bulkhead_e2e::{
    node::{Node, Programs},
    pod::{Pod, container_config},
};

/// Streams that are not counted: what is allocated once is allocated by then.
const FIRST: u32 = 200;
const STREAMS: u32 = 1000;
/// At the same time.
const AT_ONCE: u32 = 4;
/// Memory that a thousand streams may leave in the allocator's hands.
const SLACK: u64 = 4 << 20;
/// What the node has for those who watch it.
const MONITOR: &str = "127.0.0.1:9464";
/// The port on which the stand-in echoes.
const ECHO: u16 = 7;

const ALL: Standard = Standard {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// Who ends a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The client's connection is gone, without a word.
    Client,
    /// The process, or the server behind the port.
    Guest,
    /// The process is killed.
    Killed,
}

/// What the daemon has.
#[derive(Clone, Copy, Debug)]
struct Has {
    files: usize,
    tasks: u64,
    resident: u64,
}

pub(crate) async fn a_thousand_streams(programs: &Programs) -> Result<()> {
    let monitoring = format!("[monitoring]\nlisten = \"{MONITOR}\"\n");
    let (node, world) = node(&programs.without_vms(), "leaks", &monitoring).await?;
    let mut pod = Pod::run(&node, "leaks").await?;
    let mut config = container_config("c", "exec cat");
    config.stdin = true;
    let id = pod.create(config).await?;
    pod.start(&id).await?;

    let bench = Bench {
        node: &node,
        pod: &pod.id,
        container: &id,
    };
    bench.streams(0, FIRST).await?;
    let before = settled(&node, None).await?;
    bench.streams(FIRST, STREAMS).await?;
    let after = settled(&node, Some(before)).await?;
    println!("    before {before:?}\n    after  {after:?}");
    ensure!(
        after.resident <= before.resident + SLACK,
        "memory grew from {before:?} to {after:?}"
    );
    pod.remove().await?;
    clean(node, &world).await
}

struct Bench<'a> {
    node: &'a Node,
    pod: &'a str,
    container: &'a str,
}

impl Bench<'_> {
    /// `count` streams, from number `first` on.
    async fn streams(&self, first: u32, count: u32) -> Result<()> {
        for group in (first..first + count).step_by(AT_ONCE as usize) {
            let one = |n| async move {
                let stream = self.stream(n);
                let done = tokio::time::timeout(Duration::from_secs(60), stream).await;
                done.map_err(anyhow::Error::from)
                    .flatten()
                    .with_context(|| format!("stream {n}"))
            };
            tokio::try_join!(one(group), one(group + 1), one(group + 2), one(group + 3))?;
        }
        Ok(())
    }

    async fn stream(&self, n: u32) -> Result<()> {
        let protocol = match n / 9 % 2 {
            0 => Protocol::Spdy("v4.channel.k8s.io"),
            _ => Protocol::WebSocket("v5.channel.k8s.io"),
        };
        let end = match n / 3 % 3 {
            0 => End::Client,
            1 => End::Guest,
            _ => End::Killed,
        };
        match n % 3 {
            0 => self.exec(protocol, end).await,
            1 => self.attach(protocol, end).await,
            _ => self.forward(n / 9 % 2 == 1, end).await,
        }
    }

    async fn exec(&self, protocol: Protocol, end: End) -> Result<()> {
        let script = match end {
            End::Client => "exec cat",
            End::Guest => "cat; exit 3",
            End::Killed => "read line; echo $line; kill -9 $$",
        };
        let request = cri::ExecRequest {
            container_id: self.container.to_owned(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            tty: false,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        let answer = self.node.runtime().exec(request).await.context("Exec")?;
        let url = answer.into_inner().url;
        let (mut input, mut output) = client::remote(&url, protocol, ALL).await?;
        echoed(&mut input, &mut output).await?;
        if end == End::Guest {
            input.end().await?;
        }
        if end != End::Client {
            let (_, _, status) = output.rest().await?;
            let code = if end == End::Guest { "3" } else { "137" };
            ensure!(
                status.contains(&format!(r#""message":"{code}""#)),
                "{status}"
            );
        }
        Ok(())
    }

    async fn attach(&self, protocol: Protocol, end: End) -> Result<()> {
        let request = cri::AttachRequest {
            container_id: self.container.to_owned(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let answer = self
            .node
            .runtime()
            .attach(request)
            .await
            .context("Attach")?;
        let url = answer.into_inner().url;
        let (mut input, mut output) = client::remote(&url, protocol, ALL).await?;
        // The container lives on, whoever ends this.
        echoed(&mut input, &mut output).await?;
        if end != End::Client {
            input.end().await?;
        }
        Ok(())
    }

    async fn forward(&self, tunnel: bool, end: End) -> Result<()> {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: self.pod.to_owned(),
            port: vec![],
        };
        let answer = self.node.runtime().port_forward(request).await?;
        let (mut sender, mut receiver) =
            client::port_forward(&answer.into_inner().url, tunnel).await?;
        let port = if end == End::Guest { 81 } else { ECHO };
        let (error, data) = client::open_pair(&mut sender, &mut receiver, port, 0).await?;
        if end == End::Guest {
            // Nobody listens there.
            while let Some(event) = receiver.next().await? {
                if matches!(event, Event::Ended(it) if it == error) {
                    break;
                }
            }
            return Ok(());
        }
        sender.send(data, b"there and back\n").await?;
        while let Some(event) = receiver.next().await? {
            if matches!(event, Event::Data(it, _) if it == data) {
                break;
            }
        }
        if end == End::Killed {
            sender.reset(data).await?;
        }
        Ok(())
    }
}

/// Sends a line and waits for it to come back.
async fn echoed(input: &mut Input, output: &mut Output) -> Result<()> {
    input.stdin(b"line\n").await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"line\n") {
        match output.next().await? {
            Some(Said::Stdout(bytes)) => seen.extend(bytes),
            other => anyhow::bail!("{other:?} in place of an echo"),
        }
    }
    Ok(())
}

/// What the daemon has when it has come to rest: as much as before, or when nothing
/// has changed for a while.
async fn settled(node: &Node, before: Option<Has>) -> Result<Has> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = look(node).await?;
    let mut same = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = look(node).await?;
        match before {
            Some(before) if now.files <= before.files && now.tasks <= before.tasks => {
                return Ok(now);
            }
            None if same == 5 => return Ok(now),
            _ => {}
        }
        same = if (now.files, now.tasks) == (last.files, last.tasks) {
            same + 1
        } else {
            0
        };
        last = now;
        ensure!(
            Instant::now() < deadline,
            "does not come to rest: {now:?}, {before:?} before"
        );
    }
}

async fn look(node: &Node) -> Result<Has> {
    let pid = node.daemon_pid()?;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let resident = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"))
        .context("no Rss")?;
    let mut stream = tokio::net::TcpStream::connect(MONITOR).await?;
    let request = "GET /debug/state HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let (_, body) = reply.split_once("\r\n\r\n").context("no body")?;
    let state: serde_json::Value = serde_json::from_str(body)?;
    Ok(Has {
        files: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        tasks: state["tasks"].as_u64().context("no tasks")?,
        resident: resident.parse::<u64>()? << 10,
    })
}
