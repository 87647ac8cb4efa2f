//! The launcher and its sandboxes against a stand-in for VMM and agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test"
)]

mod bench;

use std::{fs, time::Duration};

use bench::{Bench, POD, exec, vmms};
use bulkhead_sandbox::{
    ClockChange, ErrorKind, Launcher as _, ProcessId, ProcessState, Sandbox, Stream,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc::Receiver,
    time::timeout,
};

/// Not a test: the process that the launcher starts.
#[test]
fn standin() {
    bench::standin();
}

async fn all(mut from: Receiver<Vec<u8>>) -> String {
    let mut bytes = Vec::new();
    while let Some(chunk) = from.recv().await {
        bytes.extend(chunk);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_leaves_nothing() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    assert_eq!(vmms(bench.dir.path()), [pod.record().pid]);
    assert_eq!(bench.launcher.leftovers().await.unwrap(), [POD]);
    let phases: Vec<String> = pod.timings().into_iter().map(|t| t.phase).collect();
    assert!(phases.contains(&"configure".to_owned()), "{phases:?}");

    let script = "echo one; echo two >&2; printf 'no newline'; exit 7";
    let created = pod
        .create_container(bench.container("c", script))
        .await
        .unwrap();
    assert_eq!((created.user.uid, created.user.gid), (1000, 100));
    assert_eq!(created.user.supplemental_groups, [7]);
    let stats = pod.stats().await.unwrap();
    assert_eq!(
        (
            stats.containers[0].container_id.as_str(),
            stats.containers[0].cpu.total_ns
        ),
        ("c", 5)
    );
    let ahead = stats.guest_unix_ns.unwrap() - stats.at_unix_ns;
    assert!(
        ahead.unsigned_abs() <= stats.round_trip_ns.div_ceil(2) + 50_000_000,
        "{stats:?}"
    );
    assert_eq!(stats.host, None, "there is no cgroup");
    let limit = |bytes: i64| {
        let limits = serde_json::json!({"memory": {"limit": bytes}});
        serde_json::from_value(limits).unwrap()
    };
    pod.update_container("c", &limit(8192)).await.unwrap();
    let refused = pod.update_container("c", &limit(4096)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    let absent = pod.update_container("d", &limit(8192)).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    pod.change_clock(ClockChange::Slew(-5)).await.unwrap();
    pod.change_clock(ClockChange::Step(5)).await.unwrap();
    let listed = pod.processes().await.unwrap();
    assert_eq!(listed[0].state, ProcessState::Created);
    pod.start_container("c").await.unwrap();
    let exit = pod.wait(&ProcessId::init("c")).await.unwrap();
    assert_eq!(exit.code, 7);
    let log = bench.log_text("c");
    for line in ["stdout F one\n", "stderr F two\n", "stdout P no newline\n"] {
        assert!(log.contains(line), "{log}");
    }

    let info = pod.info().await;
    assert_eq!(info["devices"].as_array().unwrap().len(), 3, "{info}");
    assert_eq!(info["exits"]["mmio"], 7);
    pod.remove_container("c").await.unwrap();
    pod.remove_container("c").await.unwrap();
    assert_eq!(pod.info().await["devices"].as_array().unwrap().len(), 1);

    pod.stop(Duration::from_secs(5)).await.unwrap();
    let end = pod.exited().borrow().clone().unwrap();
    assert_eq!(end.reason, "shutdown");
    drop(pod);
    bench.launcher.destroy(POD).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
    assert!(bench.launcher.leftovers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_stdin_has_one_writer_whoever_comes_and_goes() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    for (id, stdin_once) in [("many", false), ("once", true)] {
        let mut spec = bench.container(id, "cat");
        (spec.stdin, spec.stdin_once) = (true, stdin_once);
        pod.create_container(spec).await.unwrap();
        pod.start_container(id).await.unwrap();
    }
    let many = ProcessId::init("many");
    let first = pod.open_input(&many).await.unwrap();
    let second = pod.open_input(&many).await.unwrap();
    first.send(b"one\n".to_vec()).await.unwrap();
    second.send(b"two\n".to_vec()).await.unwrap();
    drop(second);
    first.send(b"three\n".to_vec()).await.unwrap();
    drop(first);
    // Behind what the others wrote, though some of it may still be on its way.
    let third = pod.open_input(&many).await.unwrap();
    third.send(b"four\n".to_vec()).await.unwrap();
    let written = async {
        while bench.log_text("many")
            != "stdout F one\nstdout F two\nstdout F three\nstdout F four\n"
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = timeout(Duration::from_secs(20), written).await;
    assert!(outcome.is_ok(), "{}", bench.log_text("many"));

    let once = ProcessId::init("once");
    let only = pod.open_input(&once).await.unwrap();
    only.send(b"all\n".to_vec()).await.unwrap();
    drop(only);
    let late = pod.open_input(&once).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::FailedPrecondition, "{late}");
    let ended = timeout(Duration::from_secs(20), pod.wait(&once)).await;
    assert_eq!(ended.unwrap().unwrap().code, 0);
    assert_eq!(bench.log_text("once"), "stdout F all\n");

    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_have_streams_and_exits_of_their_own() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    pod.create_container(bench.container("c", "sleep 60"))
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();

    let spec = exec("c", "e1", "cat; echo err >&2; exit 3");
    let process = spec.process.clone();
    pod.exec(spec).await.unwrap();
    let (out, err) = (
        pod.open_output(&process, Stream::Stdout).await.unwrap(),
        pod.open_output(&process, Stream::Stderr).await.unwrap(),
    );
    let second = pod.open_output(&process, Stream::Stdout).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    let input = pod.open_input(&process).await.unwrap();
    let big = "0123456789abcdef".repeat(50_000);
    let feed = big.clone();
    tokio::spawn(async move {
        for chunk in feed.as_bytes().chunks(10_000) {
            input.send(chunk.to_vec()).await.unwrap();
        }
    });
    let (out, err) = tokio::join!(all(out), all(err));
    assert!(out == big, "{} bytes", out.len());
    assert_eq!(err, "err\n");
    assert_eq!(pod.wait(&process).await.unwrap().code, 3);
    pod.forget_exec(&process).await.unwrap();
    assert!(pod.wait(&process).await.is_err());

    // A child in the background holds the pipe; the exec ends all the same.
    let spec = exec("c", "e2", "sleep 30 & echo done");
    let process = spec.process.clone();
    pod.exec(spec).await.unwrap();
    let out = pod.open_output(&process, Stream::Stdout).await.unwrap();
    assert_eq!(
        timeout(Duration::from_secs(5), all(out)).await.unwrap(),
        "done\n"
    );
    pod.forget_exec(&process).await.unwrap();

    let mut missing = exec("c", "e3", "");
    missing.args = vec!["/no/such/program".into()];
    assert_eq!(
        pod.exec(missing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );

    // Killed where it is forgotten while it runs.
    let spec = exec("c", "e4", "sleep 60");
    let process = spec.process.clone();
    pod.exec(spec).await.unwrap();
    timeout(Duration::from_secs(5), pod.forget_exec(&process))
        .await
        .unwrap()
        .unwrap();

    pod.stop(Duration::ZERO).await.unwrap();
    assert_eq!(pod.exited().borrow().clone().unwrap().reason, "stopped");
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_begins_when_nobody_waits_any_more_is_ended() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    pod.create_container(bench.container("c", "sleep 60"))
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let late = pod.exec(exec("c", "e", "# slow\nsleep 60"));
    let waited = timeout(Duration::from_millis(50), late).await;
    assert!(waited.is_err(), "it waits for a file");
    let vm = bench.dir.path().join("pods").join(POD).join("vm");
    fs::write(vm.join("go"), "").unwrap();
    while !vm.join("started").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while pod.processes().await.unwrap().len() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pod.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_in_the_pod_are_dialled() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let mut connection = pod.dial(7).await.unwrap();
    connection.write_all(b"there and back").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut got = String::new();
    connection.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "there and back");
    let refused = pod.dial(8).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.to_string().contains("refused"), "{refused}");
    pod.stop(Duration::ZERO).await.unwrap();
    let dead = pod.dial(7).await.unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::SandboxDead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_child_does_not_delay_an_exit_and_its_later_lines_are_logged() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let script = "(sleep 2; echo late) & printf tail; exit 0";
    pod.create_container(bench.container("c", script))
        .await
        .unwrap();
    let mut follower = pod
        .open_output(&ProcessId::init("c"), Stream::Stdout)
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let c = ProcessId::init("c");
    let wait = pod.wait(&c);
    timeout(Duration::from_millis(1500), wait)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bench.log_text("c"), "stdout P tail\n");
    assert_eq!(follower.recv().await.unwrap(), b"tail");
    // Who is connected to the container is told that it has ended.
    assert!(follower.recv().await.is_none());
    let logged = async {
        while bench.log_text("c") != "stdout P tail\nstdout F late\n" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = timeout(Duration::from_secs(20), logged).await;
    assert!(outcome.is_ok(), "{}", bench.log_text("c"));
    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
}

/// On a machine that is short of processor time, bytes come long after the exit.
#[tokio::test(flavor = "multi_thread")]
async fn output_that_comes_late_is_waited_for() {
    let bench = Bench::misbehaving("standin.late_output");
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    pod.create_container(bench.container("c", "echo log; exec sleep 1"))
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let spec = exec("c", "e", "echo out");
    let process = spec.process.clone();
    pod.exec(spec).await.unwrap();
    let out = pod.open_output(&process, Stream::Stdout).await.unwrap();
    assert_eq!(all(out).await, "out\n");
    assert_eq!(pod.wait(&ProcessId::init("c")).await.unwrap().code, 0);
    assert_eq!(bench.log_text("c"), "stdout F log\n");
    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_still_is_cut_off_and_the_log_goes_on() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let script = "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; \
                  i=$((i+1)); done";
    pod.create_container(bench.container("c", script))
        .await
        .unwrap();
    let stands_still = pod
        .open_output(&ProcessId::init("c"), Stream::Stdout)
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let c = ProcessId::init("c");
    let wait = pod.wait(&c);
    timeout(Duration::from_secs(20), wait)
        .await
        .unwrap()
        .unwrap();
    let log = bench.log_text("c");
    let content: usize = log.lines().map(|line| line.len() - "stdout F ".len()).sum();
    assert_eq!(content, 40 * 100_000);
    assert_eq!(log.matches("stdout F ").count(), 40);
    drop(stands_still);
    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_share_layers_and_a_failed_create_releases_its_own() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let layers = async |pod: &dyn Sandbox| pod.info().await["layers"].as_array().unwrap().len();
    pod.create_container(bench.container("a", "sleep 60"))
        .await
        .unwrap();
    assert_eq!(layers(&*pod).await, 2);
    pod.create_container(bench.container("b", "sleep 60"))
        .await
        .unwrap();
    assert_eq!(layers(&*pod).await, 3, "the base is shared");
    let again = pod.create_container(bench.container("b", "x")).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);

    // The agent refuses; the VMM refuses a disk; a layer is missing.
    let refused = bench.container_of("d", &["refuse"]);
    let e = pod.create_container(refused).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    let mut broken = bench.container("e", "true");
    broken.layers.push(bench.layer("broken"));
    let e = pod.create_container(broken).await.unwrap_err();
    assert!(e.to_string().contains("the disk is broken"), "{e}");
    let mut missing = bench.container("f", "true");
    missing.layers.push("/no/such/blob".into());
    let e = pod.create_container(missing).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let mut outside = bench.container("g", "true");
    outside.log.path = "../escape".into();
    let e = pod.create_container(outside).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    assert_eq!(layers(&*pod).await, 3);
    assert_eq!(pod.processes().await.unwrap().len(), 2);

    pod.remove_container("a").await.unwrap();
    assert_eq!(layers(&*pod).await, 2);
    pod.remove_container("b").await.unwrap();
    assert_eq!(layers(&*pod).await, 0);
    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    for (how, kind, words) in [
        ("standin.kvm", ErrorKind::Internal, "cannot open /dev/kvm"),
        (
            "standin.panic",
            ErrorKind::Internal,
            "Kernel panic - not syncing: stand-in",
        ),
        (
            "standin.unconfigurable",
            ErrorKind::Internal,
            "no such sysctl",
        ),
    ] {
        let bench = Bench::misbehaving(how);
        let e = bench.launcher.launch(bench.spec()).await.err().unwrap();
        assert_eq!(e.kind(), kind, "{how}: {e}");
        assert!(e.to_string().contains(words), "{how}: {e}");
        bench.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_room_is_said_so_and_nothing_is_left() {
    let bench = Bench::misbehaving("bench.full");
    let e = bench.launcher.launch(bench.spec()).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::ResourceExhausted, "{e}");
    bench.assert_nothing_left();

    // A cgroup that cannot be made: the root is no cgroup file system.
    let bench = Bench::configured(|config| config.cgroup_root = Some("/proc/self/no".into()));
    let e = bench.launcher.launch(bench.spec()).await.err().unwrap();
    assert!(e.to_string().contains("cgroup"), "{e}");
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_answers_is_given_up() {
    let bench = Bench::configured(|config| {
        config.extra_cmdline = "standin.silent".into();
        config.ready_timeout = Duration::from_secs(2);
    });
    let e = bench.launcher.launch(bench.spec()).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::DeadlineExceeded);
    assert!(e.to_string().contains("waiting for init"), "{e}");
    bench.assert_nothing_left();

    let bench = Bench::configured(|config| config.vmm = "/bin/false".into());
    let e = bench.launcher.launch(bench.spec()).await.err().unwrap();
    assert!(
        e.to_string().contains("ended before its agent was ready"),
        "{e}"
    );
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    for change in [
        (|spec| spec.pod_id = "../x".into()) as fn(&mut bulkhead_sandbox::SandboxSpec),
        |spec| spec.boot_vcpus = 0,
        |spec| spec.boot_vcpus = 3,
        |spec| spec.memory_bytes = 1,
    ] {
        let mut spec = bench.spec();
        change(&mut spec);
        let e = bench.launcher.launch(spec).await.err().unwrap();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    }
    bench.assert_nothing_left();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let e = bench.launcher.launch(bench.spec()).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
    assert!(pod.exited().borrow().is_none(), "the first one lives on");
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vmm_fails_every_call_under_way() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    pod.create_container(bench.container("c", "echo hello; sleep 60"))
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let waiting = {
        let pod = std::sync::Arc::clone(&pod);
        tokio::spawn(async move { pod.wait(&ProcessId::init("c")).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pid = rustix::process::Pid::from_raw(pod.record().pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let result = timeout(Duration::from_secs(5), waiting)
        .await
        .unwrap()
        .unwrap();
    let e = result.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::SandboxDead);
    assert!(e.to_string().contains("signal 9"), "{e}");
    assert_eq!(
        pod.processes().await.unwrap_err().kind(),
        ErrorKind::SandboxDead
    );
    assert_eq!(pod.exited().borrow().clone().unwrap().reason, "killed");
    assert_eq!(bench.log_text("c"), "stdout F hello\n");
    pod.remove_container("c").await.unwrap();
    pod.stop(Duration::from_secs(1)).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_stop_is_stopped() {
    let bench = Bench::misbehaving("standin.stubborn");
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let stop = pod.stop(Duration::from_millis(100));
    timeout(Duration::from_secs(8), stop)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pod.exited().borrow().clone().unwrap().reason, "stopped");
    bench.launcher.destroy(POD).await.unwrap();
    bench.assert_nothing_left();
}

/// The daemon dies at some moment while a container logs, another takes over: the
/// log has every line once, and the exit code is known.
#[test]
fn a_daemon_that_dies_while_a_container_logs_costs_no_line() {
    let bench = Bench::new();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let record = first.block_on(async {
        let pod = bench.launcher.launch(bench.spec()).await.unwrap();
        let script = "i=0; while [ $i -lt 120000 ]; do echo line $i; i=$((i+1)); \
                      [ $((i % 7)) = 0 ] && echo err $i >&2; done; exit 5";
        pod.create_container(bench.container("c", script))
            .await
            .unwrap();
        pod.create_container(bench.container("idle", "sleep 60"))
            .await
            .unwrap();
        pod.start_container("c").await.unwrap();
        pod.start_container("idle").await.unwrap();
        pod.exec(exec("idle", "orphan", "while sleep 0.1; do echo x; done"))
            .await
            .unwrap();
        pod.record()
    });
    // Writes that are under way end before the next daemon begins, as they do when a
    // process dies: nothing writes on for a dead one.
    let die = |daemon: tokio::runtime::Runtime| daemon.shutdown_timeout(Duration::from_secs(60));
    let mut runtimes = vec![first];
    for pause in [20, 35, 50, 80, 130] {
        std::thread::sleep(Duration::from_millis(pause));
        die(runtimes.pop().unwrap());
        let next = runtime();
        println!(
            "cut off with {} lines logged",
            bench.log_text("c").lines().count()
        );
        next.block_on(async {
            let pod = bench.restarted().adopt(&record).await.unwrap();
            pod.resume_container("c", bench.log("c")).await.unwrap();
            // Keeps draining after its last user: the daemon holds it.
            tokio::spawn(async move {
                let _ = pod.wait(&ProcessId::init("c")).await;
            });
        });
        runtimes.push(next);
    }
    std::thread::sleep(Duration::from_millis(20));
    die(runtimes.pop().unwrap());
    let last = runtime();
    last.block_on(async {
        let launcher = bench.restarted();
        let pod = launcher.adopt(&record).await.unwrap();
        pod.resume_container("c", bench.log("c")).await.unwrap();
        let c = ProcessId::init("c");
        let wait = pod.wait(&c);
        let exit = timeout(Duration::from_secs(60), wait)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(exit.code, 5);
        let log = bench.log_text("c");
        let lines = log
            .lines()
            .filter_map(|line| line.strip_prefix("stdout F line "));
        for (n, line) in lines.clone().enumerate() {
            assert_eq!(line, n.to_string());
        }
        assert_eq!(lines.count(), 120_000);
        assert_eq!(log.matches("stderr F err ").count(), 120_000 / 7);
        assert_eq!(log.lines().count(), 120_000 + 120_000 / 7);

        pod.remove_container("c").await.unwrap();
        pod.stop(Duration::ZERO).await.unwrap();
        launcher.destroy(POD).await.unwrap();
        let again = launcher.adopt(&record).await;
        assert_eq!(again.err().unwrap().kind(), ErrorKind::NotFound);
    });
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_start_is_swept() {
    // What each step leaves, made by hand: the sweep needs no more than that.
    let bench = Bench::new();
    let pods = bench.dir.path().join("pods");
    for step in 0..4 {
        fs::create_dir(pods.join(POD)).unwrap();
        if step > 0 {
            fs::create_dir(pods.join(POD).join("vm")).unwrap();
        }
        if step > 1 {
            fs::write(
                bench
                    .dir
                    .path()
                    .join("scratch")
                    .join(format!("{POD}.scratch")),
                "x",
            )
            .unwrap();
        }
        if step > 2 {
            fs::write(pods.join(POD).join("state.json"), "half a fi").unwrap();
        }
        assert_eq!(bench.launcher.leftovers().await.unwrap(), [POD]);
        bench.launcher.destroy(POD).await.unwrap();
        bench.assert_nothing_left();
    }
}
