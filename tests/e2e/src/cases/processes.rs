//! Processes: how they end, what they print, what is asked of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{clean, look, node};
use bulkhead_e2e::{
    image::{Archive, Compression, busybox},
    node::{PATIENCE, Programs},
    pod::{Pod, container_config, payload},
};

/// Exit status, signals, out of memory, programs that do not exist.
pub(crate) async fn exit_codes(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "exits", "").await?;
    let mut pod = Pod::run(&node, "exits").await?;
    for (name, script, code, reason) in [
        ("zero", "true", 0, "Completed"),
        ("seven", "exit 7", 7, "Error"),
        // A child's: to the kernel, init itself cannot be killed from inside.
        ("child", "sh -c 'kill -9 $$'; exit $?", 137, "Error"),
    ] {
        let id = pod.sh(name, script).await?;
        let status = pod.exited(&id, PATIENCE).await?;
        ensure!(
            status.exit_code == code && status.reason == reason,
            "{name}: {status:?}"
        );
        ensure!(
            status.started_at <= status.finished_at,
            "{name}: {status:?}"
        );
    }

    let id = pod
        .sh("killed", "trap '' TERM; while :; do sleep 1; done")
        .await?;
    pod.stop_container(&id, 1).await?;
    let status = pod.status(&id).await?;
    ensure!(
        status.exit_code == 137 && status.created_at < status.finished_at,
        "a container that ignores SIGTERM: {status:?}"
    );

    // The second one's first process lives on, and passes its child's end on.
    for (name, script) in [
        ("hungry", "exec tail /dev/zero"),
        ("hungry-child", "tail /dev/zero; exit $?"),
    ] {
        let mut hungry = container_config(name, script);
        hungry.linux = Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                ..Default::default()
            }),
            ..Default::default()
        });
        let id = pod.create(hungry).await?;
        pod.start(&id).await?;
        let status = pod.exited(&id, PATIENCE).await?;
        ensure!(
            status.exit_code == 137 && status.reason == "OOMKilled",
            "{status:?}"
        );
    }

    let mut missing = container_config("missing", "");
    missing.command = vec!["/no/such/program".to_owned()];
    missing.args.clear();
    let id = pod.create(missing).await?;
    let error = pod.start(&id).await;
    ensure!(
        error
            .as_ref()
            .is_err_and(|e| e.message().contains("/no/such/program")),
        "{error:?}"
    );
    let status = pod.status(&id).await?;
    ensure!(
        status.state() == cri::ContainerState::ContainerExited && status.exit_code != 0,
        "{status:?}"
    );
    pod.remove().await?;
    clean(node, &world).await
}

/// What ExecSync gives back.
pub(crate) async fn exec_sync(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "exec", "").await?;
    let mut pod = Pod::run(&node, "exec").await?;
    let id = pod.sh("c", "exec sleep 100000").await?;
    let both = pod.exec(&id, "echo out; echo err >&2; exit 3").await?;
    ensure!(both.exit_code == 3, "{both:?}");
    ensure!(both.stdout.as_ref() == b"out\n", "{both:?}");
    ensure!(both.stderr.as_ref() == b"err\n", "{both:?}");
    let env = pod.exec(&id, "echo $GREETING; pwd").await?;
    ensure!(env.stdout.as_ref() == b"hello\n/www\n", "{env:?}");
    let large = pod
        .exec(
            &id,
            "dd if=/dev/zero bs=64k count=32 2>/dev/null; echo end >&2",
        )
        .await?;
    ensure!(
        large.stdout.len() == 32 << 16,
        "{} bytes",
        large.stdout.len()
    );
    ensure!(large.stderr.as_ref() == b"end\n");
    let count = pod.exec(&id, "ls /proc | grep -c '^[0-9]'").await?;
    ensure!(count.exit_code == 0, "{count:?}");
    pod.remove().await?;
    clean(node, &world).await
}

/// Missing programs, timeouts, children that keep the output open, dead containers.
pub(crate) async fn exec_never_hangs(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "hang", "").await?;
    let mut pod = Pod::run(&node, "hang").await?;
    let id = pod.sh("c", "exec sleep 100000").await?;

    let missing = pod.exec_within(&id, &["/no/such/program"], 60).await;
    match &missing {
        Ok(reply) => ensure!(reply.exit_code != 0, "{reply:?}"),
        Err(status) => ensure!(
            status.code() != tonic::Code::DeadlineExceeded
                && status.message().contains("/no/such/program"),
            "{status:?}"
        ),
    }

    let slow = pod.exec_within(&id, &["/bin/sleep", "9999"], 2).await;
    ensure!(
        slow.as_ref()
            .is_err_and(|s| s.code() == tonic::Code::DeadlineExceeded),
        "{slow:?}"
    );
    let tree = pod
        .exec_within(&id, &["/bin/sh", "-c", "sleep 8888 & sleep 8888"], 2)
        .await;
    ensure!(tree.is_err(), "{tree:?}");
    let left = pod
        .exec(&id, "ps | grep -v grep | grep -c -e 9999 -e 8888")
        .await?;
    ensure!(
        left.stdout.as_ref() == b"0\n",
        "a timed-out exec lives on: {left:?}"
    );

    let background = pod.exec(&id, "sleep 7777 & echo started");
    let background = tokio::time::timeout(PATIENCE, background).await??;
    ensure!(background.stdout.as_ref() == b"started\n", "{background:?}");

    pod.stop_container(&id, 1).await?;
    let dead = pod.exec_within(&id, &["/bin/true"], 10).await;
    ensure!(dead.is_err(), "exec in a dead container: {dead:?}");
    pod.remove().await?;
    clean(node, &world).await
}

/// The format, long lines, a last line without its end, both streams.
pub(crate) async fn logs_are_exact(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "logs", "").await?;
    let mut pod = Pod::run(&node, "logs").await?;
    let id = pod
        .sh(
            "c",
            "echo one; echo two >&2; echo; echo '  spaces  kept '; printf 'cr\\r\\n'; \
             head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no newline'",
        )
        .await?;
    ensure!(pod.exited(&id, PATIENCE).await?.exit_code == 0);
    // EXITED is reported after the last byte: no waiting here.
    let log = pod.log("c")?;
    let long = "x".repeat(40_000);
    let wanted = format!("one\n\n  spaces  kept \ncr\r\n{long}\nno newline");
    ensure!(pod.output("c", "stderr")? == "two\n", "{log}");
    let mut got = String::new();
    for line in log.split_terminator('\n') {
        // `str::lines` would take the carriage return, which is content.
        let content = line.splitn(4, ' ').nth(3).unwrap_or_default();
        ensure!(
            content.len() <= 16 << 10,
            "a line of {} bytes",
            content.len()
        );
        let mut fields = line.split(' ').skip(1);
        match fields.next() {
            Some("stdout") => got.push_str(content),
            Some("stderr") => continue,
            other => anyhow::bail!("stream {other:?} in {line:?}"),
        }
        if fields.next() == Some("F") {
            got.push('\n');
        }
    }
    ensure!(got == wanted, "{got:?}");
    ensure!(payload(&log, "stdout").is_ok());
    pod.remove().await?;
    clean(node, &world).await
}

/// A program that is asked to end before it can hear of it hears of it when it can.
pub(crate) async fn early_stop(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "early", "").await?;
    let mut pod = Pod::run(&node, "early").await?;
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; \
                  trap 'exit 9' TERM; while :; do sleep 0.1; done";
    let id = pod.sh("c", script).await?;
    pod.stop_container(&id, 300).await?;
    let status = pod.exited(&id, PATIENCE).await?;
    ensure!(status.exit_code == 9, "{status:?}");
    pod.remove().await?;
    clean(node, &world).await
}

/// A program that awaits SIGTERM ends by it, whenever the signal comes: before the
/// program is executed, before it has blocked the signal, while it waits for it.
pub(crate) async fn early_stop_of_who_awaits_it(programs: &Programs) -> Result<()> {
    let (node, _) = node(programs, "awaits", "").await?;
    let testbox = std::fs::read(&programs.testbox)?;
    let layer = busybox()?.file("bin/top", 0o755, &testbox)?.finish()?;
    let archive = Archive::default()
        .layer(&layer, Compression::Gzip)?
        .finish("docker.io/library/awaits:1", serde_json::json!({}))?;
    node.import(&archive, "awaits.tar").await?;
    let world = look(&node)?;
    let mut pod = Pod::run(&node, "awaits").await?;
    for wait in [0, 1, 2, 4, 8, 16, 32, 64] {
        let name = format!("c{wait}");
        let config = cri::ContainerConfig {
            image: Some(cri::ImageSpec {
                image: "docker.io/library/awaits:1".to_owned(),
                ..Default::default()
            }),
            command: vec!["top".to_owned()],
            ..container_config(&name, "")
        };
        let id = pod.create(config).await?;
        pod.start(&id).await?;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        pod.stop_container(&id, 60).await?;
        let status = pod.exited(&id, PATIENCE).await?;
        ensure!(status.exit_code == 0, "after {wait} ms: {status:?}");
    }
    pod.remove().await?;
    clean(node, &world).await
}
