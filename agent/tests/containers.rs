//! The agent, whole: real containers through its real sockets.
//!
//! Needs a machine it may use; see `common/place.rs` for how to say so. All
//! scenarios share one agent, because booting one takes longer than any of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed unwrap is a failed test

#[allow(unreachable_pub)] // a module of a test has no public
mod common;

use std::{panic::AssertUnwindSafe, time::Duration};

use bulkhead_agent_api::agent::{stdio_hello::Stream, *};
use common::{Agent, Rpc, place::within, spec};
use futures::{FutureExt as _, future::LocalBoxFuture};
use serde_json::json;
use ttrpc::Code;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        vec![$((stringify!($name), |agent: &Agent| $name(agent).boxed_local())),*]
    };
}
type Scenario = (
    &'static str,
    for<'a> fn(&'a Agent) -> LocalBoxFuture<'a, ()>,
);

#[tokio::test]
async fn containers() {
    let Some(agent) = common::place::agent().await else {
        return;
    };
    let ready = &agent.place.ready;
    eprintln!(
        "ready after {:?}; kernel {}, main at {} ms, ready {} us later",
        agent.place.ready_after,
        ready.kernel_release,
        ready.main_ns / 1_000_000,
        (ready.ready_ns - ready.main_ns) / 1000,
    );
    before_anything(&agent).await;
    agent.prepare().await;
    let all: Vec<Scenario> = scenarios![
        configuring_twice,
        output_and_exit,
        the_pods_surroundings,
        the_pods_network,
        the_agents_doors,
        missing_programs,
        users_and_groups,
        execs,
        failed_execs,
        background_of_an_exec,
        stdin_half_close,
        terminals,
        signals,
        big_output_over_lost_connections,
        seccomp_profiles,
        capabilities_and_no_new_privileges,
        devices,
        out_of_memory,
        shared_pids,
        shared_memory_of_the_pod,
        readonly_root,
        figures,
        what_a_create_refuses,
        layers_in_use,
        layers_come_and_go,
        many_at_once,
        processes_are_listed,
        the_machine,
        durations,
        nothing_is_left,
    ];
    let only = std::env::var("BULKHEAD_AGENT_TEST_ONLY").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, scenario) in all {
        if !name.contains(&only) {
            continue;
        }
        let began = std::time::Instant::now();
        let limited = tokio::time::timeout(Duration::from_secs(120), scenario(&agent));
        match AssertUnwindSafe(limited).catch_unwind().await {
            Ok(Ok(())) => eprintln!("ok      {name} ({:?})", began.elapsed()),
            Ok(Err(_)) => {
                eprintln!("TIMEOUT {name}");
                failed.push(name);
            }
            Err(_) => {
                eprintln!("FAILED  {name}");
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    shut_down(&agent).await;
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Rpc<T>, code: Code, text: &str) {
    let (got, what) = result.unwrap_err();
    assert_eq!(got, code, "{what}");
    assert!(what.contains(text), "{what:?} lacks {text:?}");
}

async fn before_anything(agent: &Agent) {
    let info = agent.info(InfoRequest::new()).await.unwrap();
    assert!(!info.configured);
    assert_eq!(info.kernel_release, agent.place.ready.kernel_release);
    assert!(info.online_cpus >= 1 && info.mem_total_bytes > 0);
    let early = agent
        .create_container(agent.request("early", &spec("true")))
        .await;
    refused(early, Code::FAILED_PRECONDITION, "ConfigureSandbox");
}

async fn configuring_twice(agent: &Agent) {
    agent
        .configure_sandbox(agent.place.sandbox())
        .await
        .unwrap();
    let mut other = agent.place.sandbox();
    other.hostname = "another".into();
    refused(
        agent.configure_sandbox(other).await,
        Code::FAILED_PRECONDITION,
        "differently",
    );
    assert!(agent.info(InfoRequest::new()).await.unwrap().configured);
}

async fn output_and_exit(agent: &Agent) {
    let ran = agent
        .run_script("hello", "echo out; echo err >&2; cat /etc/version; exit 3")
        .await;
    assert_eq!(ran.text(), "out\nupper\n");
    assert_eq!(ran.stderr, b"err\n");
    assert_eq!((ran.exit.exit_code, ran.exit.signal), (3, 0));
    assert!(ran.exit.finished_unix_ns > 0 && !ran.exit.oom_killed);
}

async fn the_pods_surroundings(agent: &Agent) {
    let ran = agent
        .run_script(
            "around",
            "cat /etc/hostname /etc/resolv.conf; tail -n 1 /etc/hosts; echo $HOME; readlink /proc/self/ns/pid; \
             echo $$; umask; cat /proc/self/oom_score_adj; ls /; ls /proc/self/fd | wc -l; echo x >/tmp/y && cat /tmp/y; \
             test -e /sys/fs/cgroup/cgroup.procs && cat /proc/self/cgroup; yes | head -n 1",
        )
        .await;
    let text = ran.text();
    for part in [
        "test-pod\n",
        "nameserver 10.96.0.10\nsearch cluster.local\n",
        "10.0.0.2\tdb\n/root\n",
        "\n1\n0022\n0\n",
        "\nx\n",
        "0::/\n", // a cgroup namespace
        "\ny\n",
    ] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert_eq!(ran.exit.exit_code, 0, "{ran:?}");
}

async fn the_pods_network(agent: &Agent) {
    if !agent.place.is_guest() {
        return;
    }
    let script = "ip addr; ip route; ip -6 route; ip neigh; cat /etc/hosts";
    let text = agent.run_script("net", script).await.text();
    for part in [
        "lo: <LOOPBACK,UP,LOWER_UP>",
        "eth7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400",
        "inet 10.88.0.5/16 brd 10.88.255.255",
        "inet6 fd00::5/64 scope global flags 02", // nodad, and not tentative
        "default via 10.88.0.1 dev eth7",
        "192.0.2.0/24 via 169.254.1.1 dev eth7 onlink",
        "default via fd00::1 dev eth7",
        "10.88.0.1 dev eth7 lladdr 02:00:00:00:00:01",
        "10.88.0.5\ttest-pod\n",
    ] {
        assert!(text.contains(part), "lacks {part:?}:\n{text}");
    }
}

/// A container is no host: it does not get to the agent over vsock.
async fn the_agents_doors(agent: &Agent) {
    if !agent.place.is_guest() {
        return;
    }
    let script = format!("exec vsock-probe {}", common::place::CID);
    let text = agent.run_script("probe", &script).await.text();
    assert_eq!(text.lines().count(), 4, "{text}");
    for line in text.lines() {
        assert!(
            line.contains("refused") || line.contains("cut off"),
            "{text}"
        );
    }
}

async fn missing_programs(agent: &Agent) {
    let cases = [
        (
            "no-such-program",
            Code::NOT_FOUND,
            "exec: \"no-such-program\": executable file not found in $PATH",
        ),
        (
            "/no/such/program",
            Code::NOT_FOUND,
            "no such file or directory",
        ),
        (
            "/bin/not-executable",
            Code::PERMISSION_DENIED,
            "permission denied",
        ),
        (
            "/bin/not-a-program",
            Code::INVALID_ARGUMENT,
            "exec format error",
        ),
        ("/bin/no-interpreter", Code::NOT_FOUND, "interpreter"),
        ("/etc", Code::PERMISSION_DENIED, "permission denied"),
    ];
    for (program, code, text) in cases {
        let mut spec = spec("");
        spec["process"]["args"] = json!([program]);
        agent
            .create_container(agent.request("missing", &spec))
            .await
            .unwrap();
        refused(agent.start("missing").await, code, text);
        let exit = agent.wait("missing", "").await;
        assert!(matches!(exit.exit_code, 126 | 127), "{program}: {exit:?}");
        agent.remove("missing").await;
    }
}

async fn users_and_groups(agent: &Agent) {
    let user = |spec: &str| User {
        spec: spec.into(),
        ..Default::default()
    };
    let mut request = agent.request("user", &spec("id; echo $HOME; cat /proc/self/status"));
    request.user = Some(User {
        supplemental_groups: vec![4242],
        ..user("web")
    })
    .into();
    let made = agent.create_container(request).await.unwrap();
    assert_eq!((made.uid, made.gid), (33, 33));
    assert_eq!(made.supplemental_groups, [33, 60, 4242]);
    agent.start("user").await.unwrap();
    let text = String::from_utf8(agent.place.read_all("user", "", Stream::STDOUT).await).unwrap();
    assert!(
        text.contains("uid=33(web) gid=33(www) groups=33(www),60(extra),4242"),
        "{text}"
    );
    assert!(text.contains("\n/home/web\n"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    agent.remove("user").await;

    let mut request = agent.request("user", &spec("id"));
    request.user = Some(User {
        strict_groups: true,
        ..user("33:60")
    })
    .into();
    let ran = agent.run("user", request).await;
    assert!(
        ran.text()
            .contains("uid=33(web) gid=60(extra) groups=60(extra)\n"),
        "{}",
        ran.text()
    );

    let mut request = agent.request("user", &spec("id"));
    request.user = Some(user("nobody-knows")).into();
    refused(
        agent.create_container(request).await,
        Code::INVALID_ARGUMENT,
        "unable to find user",
    );
    // Nothing of the failed one is in the way.
    assert_eq!(agent.run_script("user", "exit 0").await.exit.exit_code, 0);
}

async fn execs(agent: &Agent) {
    agent.launch("main", "exec sleep 1000").await;
    let ran = agent
        .run_exec(
            "main",
            "one",
            &[
                "sh",
                "-c",
                "echo $$; ps -o pid,args; echo e >&2; pwd; exit 7",
            ],
        )
        .await
        .unwrap();
    assert!(ran.text().contains("1 sleep 1000"), "{}", ran.text());
    assert_eq!(ran.stderr, b"e\n");
    assert_eq!(ran.exit.exit_code, 7);
    // Its id is free again.
    let ran = agent
        .run_exec("main", "one", &["cat", "/proc/self/cgroup"])
        .await
        .unwrap();
    assert_eq!(ran.text(), "0::/exec-one\n");

    let mut request = Agent::exec_request("main", "two", &["sh", "-c", "id -u; echo $HOME"]);
    request.user = Some(User {
        spec: "web".into(),
        ..Default::default()
    })
    .into();
    agent.exec(request).await.unwrap();
    let out = agent.place.read_all("main", "two", Stream::STDOUT).await;
    assert_eq!(out, b"33\n/home/web\n");
    agent.wait("main", "two").await;
    let again = agent
        .exec(Agent::exec_request("main", "two", &["true"]))
        .await;
    refused(again, Code::ALREADY_EXISTS, "two");
    agent.forget("main", "two").await;
    agent.remove("main").await;
}

async fn failed_execs(agent: &Agent) {
    agent.launch("main", "exec sleep 1000").await;
    let try_one =
        |args: &'static [&'static str]| agent.exec(Agent::exec_request("main", "bad", args));
    let missing = "exec: \"foo\": executable file not found in $PATH";
    refused(try_one(&["foo"]).await, Code::NOT_FOUND, missing);
    refused(
        try_one(&["/bin/not-executable"]).await,
        Code::PERMISSION_DENIED,
        "permission denied",
    );
    refused(
        try_one(&["/bin/not-a-program"]).await,
        Code::INVALID_ARGUMENT,
        "exec format error",
    );
    let mut nowhere = Agent::exec_request("main", "bad", &["true"]);
    nowhere.oci_process =
        json!({"args": ["true"], "cwd": "/nowhere", "user": {"uid": 0, "gid": 0}})
            .to_string()
            .into_bytes();
    assert!(agent.exec(nowhere).await.is_err());
    refused(
        agent
            .exec(Agent::exec_request("gone", "bad", &["true"]))
            .await,
        Code::NOT_FOUND,
        "gone",
    );
    // The container is none the worse for it.
    assert_eq!(
        agent
            .run_exec("main", "bad", &["true"])
            .await
            .unwrap()
            .exit
            .exit_code,
        0
    );
    agent.signal("main", "", 9, false).await.unwrap();
    agent.wait("main", "").await;
    let late = agent
        .exec(Agent::exec_request("main", "late", &["true"]))
        .await;
    refused(late, Code::FAILED_PRECONDITION, "does not run");
    agent.remove("main").await;
}

/// An exec's exit is waitpid's, not the end of its output.
async fn background_of_an_exec(agent: &Agent) {
    agent.launch("main", "exec sleep 1000").await;
    let script = "sleep 1000 & echo started";
    agent
        .exec(Agent::exec_request("main", "bg", &["sh", "-c", script]))
        .await
        .unwrap();
    let exit = within(agent.wait("main", "bg")).await;
    assert_eq!(exit.exit_code, 0);
    let mut stdout = agent
        .place
        .open("main", "bg", Stream::STDOUT, 0)
        .await
        .unwrap();
    assert_eq!(stdout.read_until("started").await, "started\n");
    let more = tokio::time::timeout(Duration::from_millis(300), stdout.read()).await;
    assert!(more.is_err(), "the output ended while somebody holds it");
    // Its tree can be ended on its own, and then the output ends.
    agent.signal("main", "bg", 9, true).await.unwrap();
    assert_eq!(within(stdout.read()).await, None);
    agent.forget("main", "bg").await;
    assert_eq!(
        agent
            .run_exec("main", "still", &["true"])
            .await
            .unwrap()
            .exit
            .exit_code,
        0
    );
    agent.remove("main").await;
}

async fn stdin_half_close(agent: &Agent) {
    let mut request = agent.request("cat", &spec("md5sum; echo done"));
    request.stdin = true;
    agent.create_container(request).await.unwrap();
    agent.start("cat").await.unwrap();
    let data: Vec<u8> = (0..3_000_000)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut stdin = agent.place.open("cat", "", Stream::STDIN, 0).await.unwrap();
    stdin.write(&data[..1_000_000]).await;
    drop(stdin);
    // A new connection goes on where the first got to.
    let mut stdin = agent.place.open("cat", "", Stream::STDIN, 0).await.unwrap();
    assert_eq!(stdin.offset, 1_000_000);
    stdin.write(&data[1_000_000..]).await;
    stdin.end().await;
    assert_eq!(within(agent.wait("cat", "")).await.exit_code, 0);
    let out = agent.place.read_all("cat", "", Stream::STDOUT).await;
    // md5 of the same bytes, by the same program on this side.
    let sum = md5_here(&data);
    assert_eq!(String::from_utf8_lossy(&out), format!("{sum}  -\ndone\n"));
    agent.remove("cat").await;

    // Without stdin there is none, and it is empty.
    assert_eq!(agent.run_script("cat", "wc -c").await.text(), "0\n");

    // stdin_once: the end of the first connection is the end of the input.
    let mut request = agent.request("cat", &spec("cat"));
    (request.stdin, request.stdin_once) = (true, true);
    agent.create_container(request).await.unwrap();
    agent.start("cat").await.unwrap();
    let mut stdin = agent.place.open("cat", "", Stream::STDIN, 0).await.unwrap();
    stdin.write(b"once").await;
    drop(stdin);
    assert_eq!(within(agent.wait("cat", "")).await.exit_code, 0);
    assert_eq!(
        agent.place.read_all("cat", "", Stream::STDOUT).await,
        b"once"
    );
    agent.remove("cat").await;
}

fn md5_here(data: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("/bin/busybox")
        .arg("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(data).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    String::from_utf8(out).unwrap()[..32].to_owned()
}

async fn terminals(agent: &Agent) {
    let mut spec = spec(
        "tty; stty size; read line; stty size; echo got $line; test -c /dev/console && echo console",
    );
    spec["process"]["terminal"] = json!(true);
    let mut request = agent.request("tty", &spec);
    request.stdin = true;
    request.window = Some(WindowSize {
        rows: 40,
        columns: 120,
        ..Default::default()
    })
    .into();
    agent.create_container(request).await.unwrap();
    agent.start("tty").await.unwrap();
    let mut out = agent
        .place
        .open("tty", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    let got = within(out.read_until("40 120")).await;
    assert!(got.contains("/dev/pts/0"), "{got:?}");
    agent
        .resize_pty(ResizePtyRequest {
            container_id: "tty".into(),
            window: Some(WindowSize {
                rows: 50,
                columns: 200,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut stdin = agent.place.open("tty", "", Stream::STDIN, 0).await.unwrap();
    stdin.write(b"typed\n").await;
    let got = within(out.read_until("console")).await;
    assert!(
        got.contains("50 200") && got.contains("got typed"),
        "{got:?}"
    );
    let stderr = agent.place.open("tty", "", Stream::STDERR, 0).await;
    assert!(stderr.err().unwrap().contains("no stderr"));
    assert_eq!(within(agent.wait("tty", "")).await.exit_code, 0);
    // EIO from the master is the end.
    while within(out.read()).await.is_some() {}
    agent.remove("tty").await;

    // An exec's terminal has its size from the first instruction on.
    agent.launch("main", "exec sleep 1000").await;
    let mut exec = Agent::exec_request("main", "tty", &[]);
    exec.oci_process = json!({
        "terminal": true, "args": ["sh", "-c", "stty size; tty"], "cwd": "/",
        "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}
    })
    .to_string()
    .into_bytes();
    exec.window = Some(WindowSize {
        rows: 11,
        columns: 22,
        ..Default::default()
    })
    .into();
    agent.exec(exec).await.unwrap();
    let out = agent.place.read_all("main", "tty", Stream::STDOUT).await;
    assert_eq!(String::from_utf8_lossy(&out), "11 22\r\n/dev/pts/0\r\n");
    let piped = agent
        .resize_pty(ResizePtyRequest {
            container_id: "main".into(),
            ..Default::default()
        })
        .await;
    refused(piped, Code::FAILED_PRECONDITION, "no terminal");
    agent.remove("main").await;
}

async fn signals(agent: &Agent) {
    agent
        .launch(
            "sig",
            "trap 'echo caught; exit 5' TERM; echo up; while :; do sleep 0.1; done",
        )
        .await;
    let mut out = agent
        .place
        .open("sig", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    within(out.read_until("up")).await;
    agent.signal("sig", "", 15, false).await.unwrap();
    let exit = within(agent.wait("sig", "")).await;
    assert_eq!((exit.exit_code, exit.signal), (5, 0));
    refused(
        agent.signal("sig", "", 15, false).await,
        Code::NOT_FOUND,
        "ended",
    );
    refused(
        agent.signal("sig", "", 999, false).await,
        Code::INVALID_ARGUMENT,
        "999",
    );
    agent.remove("sig").await;

    agent.launch("sig", "sleep 1000 & sleep 1000 & wait").await;
    agent.signal("sig", "", 9, true).await.unwrap();
    let exit = within(agent.wait("sig", "")).await;
    assert_eq!((exit.exit_code, exit.signal), (137, 9));
    assert!(!exit.oom_killed);
    agent.remove("sig").await;
    // Idempotent, and unknown ones are nobody's.
    agent.remove("sig").await;
    refused(
        agent.signal("sig", "", 9, false).await,
        Code::NOT_FOUND,
        "sig",
    );
}

async fn big_output_over_lost_connections(agent: &Agent) {
    // Ten times the buffer: back-pressure, and every byte exactly once.
    let mut request = agent.request("big", &spec("seq 1 200000"));
    request.output_buffer_bytes = 128 << 10;
    agent.create_container(request).await.unwrap();
    agent.start("big").await.unwrap();
    let mut file = Vec::new();
    let mut ended = false;
    let mut turn = 0;
    while !ended {
        turn += 1;
        let at = file.len() as u64;
        let mut out = agent
            .place
            .open("big", "", Stream::STDOUT, at)
            .await
            .unwrap();
        for _ in 0..turn {
            match within(out.read()).await {
                Some(bytes) => file.extend(bytes),
                None => {
                    ended = true;
                    break;
                }
            }
            out.acknowledge().await;
        }
        // Some of what was received is lost with the daemon.
        if !ended && turn % 3 == 0 {
            let mut lost = agent
                .place
                .open("big", "", Stream::STDOUT, file.len() as u64)
                .await
                .unwrap();
            within(lost.read()).await;
        }
    }
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(file.len(), expected.len());
    assert!(file == expected.as_bytes(), "the bytes differ");
    assert!(turn > 3);
    assert_eq!(agent.wait("big", "").await.exit_code, 0);
    agent.remove("big").await;
}

async fn seccomp_profiles(agent: &Agent) {
    let status = "grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status";
    let ran = agent.run_script("sec", status).await;
    assert!(ran.text().contains("Seccomp:\t0\n"), "{}", ran.text());

    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]}
        ]
    });
    // Both as root and as a user, with and without no_new_privs.
    for (user, no_new_privileges) in [("0", false), ("0", true), ("33", false), ("33", true)] {
        let mut spec = spec(&format!(
            "{status}; mkdir /tmp/x; echo $?; touch /tmp/ok && echo fine"
        ));
        spec["linux"]["seccomp"] = profile.clone();
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let mut request = agent.request("sec", &spec);
        request.user = Some(User {
            spec: user.into(),
            ..Default::default()
        })
        .into();
        agent.create_container(request).await.unwrap();
        agent.start("sec").await.unwrap();
        let text = agent.place.read_all("sec", "", Stream::STDOUT).await;
        let text = String::from_utf8(text).unwrap();
        let case = format!("user {user}, no_new_privs {no_new_privileges}: {text}");
        assert!(text.contains("Seccomp:\t2\n"), "{case}");
        let flag = format!("NoNewPrivs:\t{}\n", u8::from(no_new_privileges));
        assert!(text.contains(&flag), "{case}");
        assert!(text.contains("\n1\n"), "mkdir was let through: {case}");
        let stderr = agent.place.read_all("sec", "", Stream::STDERR).await;
        assert!(
            String::from_utf8(stderr)
                .unwrap()
                .contains("Read-only file system"),
            "{case}"
        );
        // CAP_SYS_ADMIN was only lent: 0xa80425fb is the default set.
        let capabilities = if user == "0" {
            "CapEff:\t00000000a80425fb"
        } else {
            "CapEff:\t0000000000000000"
        };
        assert!(text.contains(capabilities), "{case}");
        agent.remove("sec").await;
    }

    // Execs are confined like their container.
    let mut spec = spec("exec sleep 1000");
    spec["linux"]["seccomp"] = profile;
    agent
        .create_container(agent.request("sec", &spec))
        .await
        .unwrap();
    agent.start("sec").await.unwrap();
    let ran = agent
        .run_exec(
            "sec",
            "e",
            &["sh", "-c", &format!("{status}; mkdir /tmp/x")],
        )
        .await
        .unwrap();
    assert!(ran.text().contains("Seccomp:\t2\n"), "{}", ran.text());
    assert_ne!(ran.exit.exit_code, 0);
    agent.remove("sec").await;

    let mut spec = common::spec("true");
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    refused(
        agent.create_container(agent.request("sec", &spec)).await,
        Code::INVALID_ARGUMENT,
        "SCMP_ACT_NOTIFY",
    );
}

async fn capabilities_and_no_new_privileges(agent: &Agent) {
    let mut spec = spec("grep Cap /proc/self/status");
    spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]
    });
    let text = agent.run("cap", agent.request("cap", &spec)).await.text();
    assert!(text.contains("CapBnd:\t0000000000000001"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000001"), "{text}");
    spec["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    let text = agent.run("cap", agent.request("cap", &spec)).await.text();
    assert!(text.contains("CapBnd:\t0000000000000000"), "{text}");
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]);
    spec["process"]["args"] = json!([
        "sh",
        "-c",
        "ulimit -n; ulimit -Hn; cat /proc/sys/kernel/hostname; echo x > /proc/sys/kernel/hostname"
    ]);
    let ran = agent.run("cap", agent.request("cap", &spec)).await;
    assert!(ran.text().starts_with("77\n99\n"), "{}", ran.text());
    assert_ne!(ran.exit.exit_code, 0, "/proc/sys can be written");
}

async fn devices(agent: &Agent) {
    let script = "echo x >/dev/null && head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
        mknod /dev/disk b 254 0 && echo made; head -c 1 /dev/disk; mknod /dev/mem c 1 1; head -c 1 /dev/mem; \
        mknod /tmp/null c 1 3; echo x > /tmp/null || echo nodev";
    let ran = agent.run_script("dev", script).await;
    assert_eq!(ran.text(), "4\n4\nmade\nnodev\n", "{ran:?}");
    let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(
        errors.matches("Operation not permitted").count(),
        2,
        "{errors}"
    );
}

async fn out_of_memory(agent: &Agent) {
    let mut spec = spec("tail -c 100000000 /dev/zero");
    spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    agent
        .create_container(agent.request("oom", &spec))
        .await
        .unwrap();
    agent.start("oom").await.unwrap();
    let exit = within(agent.wait("oom", "")).await;
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true), "{exit:?}");
    let stats = agent
        .stats(StatsRequest {
            container_id: "oom".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(stats.containers[0].memory_limit_bytes, 16 << 20);
    assert!(stats.containers[0].oom_kills >= 1);
    agent.remove("oom").await;
}

async fn shared_pids(agent: &Agent) {
    let mut request = agent.request("one", &spec("exec sleep 1001"));
    request.share_pid_with_pod = true;
    agent.create_container(request).await.unwrap();
    agent.start("one").await.unwrap();
    let mut request = agent.request("two", &spec("ps -o pid,args; exec sleep 1002"));
    request.share_pid_with_pod = true;
    agent.create_container(request).await.unwrap();
    agent.start("two").await.unwrap();
    let mut out = agent
        .place
        .open("two", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    let seen = within(out.read_until("ps -o")).await;
    assert!(
        seen.contains("1 pause\n") && seen.contains("sleep 1001"),
        "{seen}"
    );

    // An ephemeral container that looks into one.
    agent.launch("own", "exec sleep 1003").await;
    let mut request = agent.request("debug", &spec("ps -o pid,args"));
    request.share_pid_with = "own".into();
    let seen = agent.run("debug", request).await.text();
    assert!(
        seen.contains("1 sleep 1003") && !seen.contains("1001"),
        "{seen}"
    );

    // The end of an init is the end of its container, shared namespace or not.
    agent.signal("two", "", 9, false).await.unwrap();
    within(agent.wait("two", "")).await;
    for id in ["one", "two", "own"] {
        agent.remove(id).await;
    }
}

async fn shared_memory_of_the_pod(agent: &Agent) {
    agent
        .launch("writer", "echo shared > /dev/shm/x; exec sleep 1000")
        .await;
    let read = agent
        .run_script("reader", "for i in $(seq 50); do test -s /dev/shm/x && break; sleep 0.1; done; cat /dev/shm/x; grep ' /dev/shm ' /proc/self/mounts")
        .await;
    assert!(read.text().starts_with("shared\n"), "{read:?}");
    assert!(
        read.text().contains("nosuid,nodev,noexec"),
        "{}",
        read.text()
    );
    // Root file systems are each container's own.
    assert_eq!(
        agent
            .run_script("reader", "echo 1 > /tmp/mine; ls /tmp")
            .await
            .text(),
        "mine\n"
    );
    assert_eq!(agent.run_script("reader", "ls /tmp").await.text(), "");
    agent.remove("writer").await;
}

async fn readonly_root(agent: &Agent) {
    let mut request = agent.request(
        "ro",
        &spec("touch /x; touch /etc/hosts; touch /dev/shm/ok && echo $?"),
    );
    request.readonly_rootfs = true;
    let ran = agent.run("ro", request).await;
    let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(
        errors.matches("Read-only file system").count(),
        2,
        "{errors}"
    );
    assert_eq!(ran.text(), "0\n");
}

async fn figures(agent: &Agent) {
    agent
        .launch(
            "fig",
            "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; echo up; exec sleep 1000",
        )
        .await;
    let mut out = agent
        .place
        .open("fig", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    within(out.read_until("up")).await;
    let stats = agent.stats(StatsRequest::new()).await.unwrap();
    let one = stats
        .containers
        .iter()
        .find(|c| c.container_id == "fig")
        .unwrap();
    assert!(
        one.cpu_usage_ns > 0 && one.memory_usage_bytes > 0 && one.pids >= 1,
        "{one:?}"
    );
    assert!(
        one.upper_bytes >= 3 << 20 && one.upper_inodes >= 1,
        "{one:?}"
    );
    assert!(one.memory_working_set_bytes <= one.memory_usage_bytes);
    let guest = stats.guest.unwrap();
    assert!(guest.mem_total_bytes > 0 && guest.cpu_usage_ns > 0 && guest.processes > 0);
    agent.remove("fig").await;
}

async fn what_a_create_refuses(agent: &Agent) {
    agent.launch("taken", "exec sleep 1000").await;
    let again = agent
        .create_container(agent.request("taken", &spec("true")))
        .await;
    refused(again, Code::ALREADY_EXISTS, "taken");
    refused(
        agent.start("taken").await,
        Code::FAILED_PRECONDITION,
        "before",
    );
    agent.remove("taken").await;

    let refuse = |id: &str, edit: fn(&mut CreateContainerRequest)| {
        let mut request = agent.request(id, &spec("true"));
        edit(&mut request);
        agent.create_container(request)
    };
    refused(refuse("../x", |_| {}).await, Code::INVALID_ARGUMENT, "id");
    refused(
        refuse("x", |r| r.layer_serials = vec!["layer-9999".into()]).await,
        Code::FAILED_PRECONDITION,
        "AttachLayers",
    );
    refused(
        refuse("x", |r| r.layer_serials.clear()).await,
        Code::INVALID_ARGUMENT,
        "layers",
    );
    refused(
        refuse("x", |r| r.oci_spec = b"{".to_vec()).await,
        Code::INVALID_ARGUMENT,
        "parse",
    );

    // Late failures, deep inside the helper.
    for edit in [
        |s: &mut serde_json::Value| s["process"]["cwd"] = json!("/bin/sh"),
        |s: &mut serde_json::Value| {
            s["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/x", "type": "bind", "source": "/no/such/file", "options": ["bind"]}))
        },
        |s: &mut serde_json::Value| s["linux"]["resources"]["memory"] = json!({"limit": -7}),
    ] {
        let mut spec = spec("true");
        edit(&mut spec);
        let failed = agent.create_container(agent.request("late", &spec)).await;
        let (_, what) = failed.unwrap_err();
        assert!(what.contains("create container late"), "{what}");
        assert_eq!(
            agent.run_script("late", "exit 9").await.exit.exit_code,
            9,
            "after {what}"
        );
    }
}

async fn layers_in_use(agent: &Agent) {
    agent.launch("user", "exec sleep 1000").await;
    let serials = || ReleaseLayersRequest {
        serials: common::image::LAYERS
            .iter()
            .map(|s| (*s).to_owned())
            .collect(),
        ..Default::default()
    };
    refused(
        agent.release_layers(serials()).await,
        Code::FAILED_PRECONDITION,
        "in use",
    );
    let mut missing = AttachLayersRequest::new();
    missing.serials = vec!["layer-9999".into()];
    refused(
        agent.attach_layers(missing).await,
        Code::NOT_FOUND,
        "layer-9999",
    );
    agent.remove("user").await;
    let unknown = ReleaseLayersRequest {
        serials: vec!["layer-9999".into()],
        ..Default::default()
    };
    agent.release_layers(unknown).await.unwrap();
}

/// A released disk is off the bus; a rescan finds it again.
async fn layers_come_and_go(agent: &Agent) {
    let serials: Vec<String> = common::image::LAYERS
        .iter()
        .map(|s| (*s).to_owned())
        .collect();
    for _ in 0..2 {
        agent
            .release_layers(ReleaseLayersRequest {
                serials: serials.clone(),
                ..Default::default()
            })
            .await
            .unwrap();
        let without = agent
            .create_container(agent.request("come", &spec("true")))
            .await;
        refused(without, Code::FAILED_PRECONDITION, "not attached");
        agent
            .attach_layers(AttachLayersRequest {
                serials: serials.clone(),
                ..Default::default()
            })
            .await
            .unwrap();
        let ran = agent.run_script("come", "cat /etc/version").await;
        assert_eq!(ran.text(), "upper\n");
    }
}

async fn many_at_once(agent: &Agent) {
    let ids: Vec<String> = (0..8).map(|n| format!("many-{n}")).collect();
    let runs = ids.iter().map(|id| async move {
        let ran = agent
            .run_script(id, &format!("echo {id}; exit {}", id.len()))
            .await;
        assert_eq!(ran.text(), format!("{id}\n"));
        assert_eq!(ran.exit.exit_code, 6);
    });
    futures::future::join_all(runs).await;
}

async fn processes_are_listed(agent: &Agent) {
    agent
        .create_container(agent.request("list", &spec("exec sleep 1000")))
        .await
        .unwrap();
    let state = || async {
        let list = agent
            .list_processes(ListProcessesRequest::new())
            .await
            .unwrap();
        let mut of: Vec<_> = list
            .processes
            .iter()
            .filter(|p| p.container_id == "list")
            .map(|p| (p.exec_id.clone(), p.state.enum_value().unwrap()))
            .collect();
        of.sort_by(|a, b| a.0.cmp(&b.0));
        of
    };
    use process::State::{CREATED, EXITED, RUNNING};
    assert_eq!(state().await, [(String::new(), CREATED)]);
    agent.start("list").await.unwrap();
    agent
        .exec(Agent::exec_request("list", "e", &["true"]))
        .await
        .unwrap();
    agent.wait("list", "e").await;
    assert_eq!(
        state().await,
        [(String::new(), RUNNING), ("e".to_owned(), EXITED)]
    );
    agent.forget("list", "e").await;
    assert_eq!(state().await, [(String::new(), RUNNING)]);
    agent.remove("list").await;
    assert_eq!(state().await, []);
}

async fn the_machine(agent: &Agent) {
    let seed = || ReseedRandomRequest {
        seed: vec![7; 32],
        ..Default::default()
    };
    if !agent.place.is_guest() {
        refused(
            agent.reseed_random(seed()).await,
            Code::FAILED_PRECONDITION,
            "host pods",
        );
        return;
    }
    agent.reseed_random(seed()).await.unwrap();
    let mut request = SetClockRequest::new();
    request.unix_ns = 1_900_000_000_000_000_000;
    agent.set_clock(request).await.unwrap();
    let text = agent.run_script("clock", "touch /tmp/x; stat -c %Y /tmp/x; uname -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await.text();
    assert!(text.starts_with("19000000"), "{text}");
    assert!(text.ends_with("test-pod\n0\n"), "{text}");
    let mut request = OnlineCpusRequest::new();
    request.count = 2;
    assert_eq!(agent.online_cpus(request).await.unwrap().online, 2);
}

/// For the reader: no assertion, since machines differ.
async fn durations(agent: &Agent) {
    const ROUNDS: u32 = 5;
    let mut spent = [Duration::ZERO; 4];
    for _ in 0..ROUNDS {
        let mut at = std::time::Instant::now();
        let mut lap = |slot: usize| {
            spent[slot] += at.elapsed();
            at = std::time::Instant::now();
        };
        agent
            .create_container(agent.request("time", &spec("exec sleep 1000")))
            .await
            .unwrap();
        lap(0);
        agent.start("time").await.unwrap();
        lap(1);
        agent.run_exec("time", "e", &["true"]).await.unwrap();
        lap(2);
        agent.remove("time").await;
        lap(3);
    }
    const BULK: u32 = 200 << 20;
    let script = format!("dd if=/dev/zero bs=65536 count={} 2>/dev/null", BULK >> 16);
    let at = std::time::Instant::now();
    let request = agent.request("time", &common::spec(&script));
    agent.create_container(request).await.unwrap();
    agent.start("time").await.unwrap();
    let mut out = agent
        .place
        .open("time", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    let mut acknowledged = 0;
    while within(out.read()).await.is_some() {
        if out.offset - acknowledged >= 256 << 10 {
            acknowledged = out.offset;
            out.acknowledge().await;
        }
    }
    assert_eq!(out.offset, u64::from(BULK));
    let rate = f64::from(BULK) / at.elapsed().as_secs_f64() / 1e6;
    eprintln!("stdout {rate:.0} MB/s");
    agent.remove("time").await;
    let [create, start, exec, remove] = spent.map(|total| total / ROUNDS);
    eprintln!("create {create:?}, start {start:?}, exec of true {exec:?}, remove {remove:?}");
}

async fn nothing_is_left(agent: &Agent) {
    assert_eq!(
        agent
            .list_processes(ListProcessesRequest::new())
            .await
            .unwrap()
            .processes
            .len(),
        0
    );
    let Some(dir) = agent.place.host_dir() else {
        return;
    };
    for left in ["run/containers", "scratch"] {
        let count = std::fs::read_dir(dir.join(left)).unwrap().count();
        assert_eq!(count, 0, "{left} is not empty");
    }
    let cgroup = format!("/sys/fs/cgroup/bulkhead-agent-{}", agent.place.agent_pid());
    let below = std::fs::read_dir(&cgroup)
        .unwrap()
        .flatten()
        .filter(|e| e.path().is_dir())
        .count();
    assert_eq!(below, 0, "{cgroup} has children");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    // Sockets, pipes, the runtime's own: a fixed number however much has been run.
    let fds = std::fs::read_dir(format!("/proc/{}/fd", agent.place.agent_pid()))
        .unwrap()
        .count();
    assert!(fds < 32, "{fds} descriptors are open");
}

async fn shut_down(agent: &Agent) {
    agent
        .launch("last", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
        .await;
    let mut request = ShutdownRequest::new();
    request.grace_ms = 5000;
    agent.shutdown(request).await.unwrap();
    agent.place.powers_off().await;
}
