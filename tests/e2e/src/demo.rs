//! The main job once, for eyes: a two-container pod in its own microVM.

use std::{io::Read as _, io::Write as _, net::TcpStream, time::Duration, time::Instant};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

use bulkhead_e2e::{
    image,
    node::{Node, PATIENCE, Programs},
    pod::Pod,
    world::World,
};

/// Prints each step with the time it took.
struct Steps {
    began: Instant,
    rows: Vec<(String, Duration)>,
}

impl Steps {
    fn done(&mut self, step: &str) {
        let took = self.began.elapsed();
        println!("[{:>7.3} s] {step}", took.as_secs_f64());
        self.rows.push((step.to_owned(), took));
        self.began = Instant::now();
    }
}

/// Runs the demonstration.
pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let mut node = Node::new(programs, "demo", "")?;
    let mut steps = Steps {
        began: Instant::now(),
        rows: Vec::new(),
    };
    node.start().await?;
    steps.done("daemon started");
    let mut runtime = node.runtime();
    let version = runtime.version(cri::VersionRequest::default()).await?;
    let version = version.into_inner();
    println!(
        "            {} {} speaks CRI {}",
        version.runtime_name, version.runtime_version, version.runtime_api_version
    );

    node.import(image::demo()?, "demo.tar").await?;
    steps.done("image of three layers (gzip, plain, zstd) imported");
    let roots = [node.state_dir(), node.run_dir()];
    let roots: Vec<&std::path::Path> = roots.iter().map(std::path::PathBuf::as_path).collect();
    let before = World::look(node.daemon_pid()?, &roots)?;
    steps.began = Instant::now();

    let mut pod = Pod::run(&node, "demo").await?;
    steps.done("RunPodSandbox: its microVM is up, its agent ready");
    println!(
        "{}",
        node.cli(&["ps", "--timings", &pod.id])
            .await
            .unwrap_or_default()
    );

    let server = pod
        .sh(
            "server",
            "echo serving on $(hostname); exec httpd -f -p 80 -h /www",
        )
        .await?;
    steps.done("container \"server\" created and started");
    let client = pod
        .sh(
            "client",
            "echo kernel inside: $(uname -r); echo client asks 127.0.0.1: \
             $(until wget -q -O - http://127.0.0.1/; do sleep 0.2; done); \
             echo a warning >&2; exec sleep 3600",
        )
        .await?;
    steps.done("container \"client\" created and started");

    let inside = pod.exec(&client, "uname -r").await?;
    let inside = String::from_utf8_lossy(&inside.stdout).trim().to_owned();
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let host = host.trim();
    steps.done("ExecSync");
    println!("            kernel: {inside} in the pod, {host} on the host");
    ensure!(inside.starts_with("6.12"), "the pod's kernel is {inside}");
    ensure!(inside != host, "the pod runs on the host's kernel");

    let address = pod.address().await?;
    println!("            pod address: {address}");
    let reply = http_get((address, 80).into())?;
    steps.done("the host asked the pod's server over the network");
    println!("            reply: {}", reply.trim_end());
    ensure!(
        reply.contains("hello from a pod"),
        "unexpected reply {reply:?}"
    );

    let listing = pod
        .exec(&server, "id; ls -l /www; cat /etc/resolv.conf")
        .await?;
    steps.done("ExecSync: id; ls -l /www; cat /etc/resolv.conf");
    for line in String::from_utf8_lossy(&listing.stdout).lines() {
        println!("            | {line}");
    }
    ensure!(listing.exit_code == 0, "exit code {}", listing.exit_code);

    let deadline = Instant::now() + PATIENCE;
    while !pod.output("client", "stderr")?.contains("a warning") {
        ensure!(Instant::now() < deadline, "the client's log stays short");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for name in ["server", "client"] {
        println!("            {}:", pod.log_path(name).display());
        for line in pod.log(name)?.lines() {
            println!("            | {line}");
        }
    }
    ensure!(
        pod.output("client", "stdout")?
            .contains("client asks 127.0.0.1: hello from a pod"),
        "the containers do not share their network"
    );
    steps.began = Instant::now();

    pod.stop_container(&client, 1).await?;
    steps.done("StopContainer \"client\" (1 s of grace)");
    pod.remove().await?;
    steps.done("StopPodSandbox, RemovePodSandbox");
    let after = World::look(node.daemon_pid()?, &roots)?;
    let differences = before.differences(&after);
    ensure!(differences.is_empty(), "left behind: {differences:#?}");
    println!("            processes, interfaces, cgroups, mounts, rules, files: as before");
    node.stop().await?;
    steps.done("daemon stopped");

    println!("\n{:<60} {:>9}", "step", "seconds");
    for (step, took) in &steps.rows {
        println!("{step:<60} {:>9.3}", took.as_secs_f64());
    }
    Ok(())
}

/// GET /: the body.
pub(crate) fn http_get(address: std::net::SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (_, body) = reply.split_once("\r\n\r\n").context("not an HTTP reply")?;
    Ok(body.to_owned())
}
