//! Programs, users, execs, signals, exits.

use super::prelude::*;

pub async fn output_and_exit(agent: &Agent) {
    let ran = agent
        .run_script("hello", "echo out; echo err >&2; cat /etc/version; exit 3")
        .await;
    assert_eq!(ran.text(), "out\nupper\n");
    assert_eq!(ran.stderr, b"err\n");
    assert_eq!((ran.exit.exit_code, ran.exit.signal), (3, 0));
    assert!(ran.exit.finished_unix_ns > 0 && !ran.exit.oom_killed);
}

pub async fn missing_programs(agent: &Agent) {
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

pub async fn users_and_groups(agent: &Agent) {
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

pub async fn execs(agent: &Agent) {
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

pub async fn failed_execs(agent: &Agent) {
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
pub async fn background_of_an_exec(agent: &Agent) {
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

pub async fn signals(agent: &Agent) {
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

pub async fn processes_are_listed(agent: &Agent) {
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
