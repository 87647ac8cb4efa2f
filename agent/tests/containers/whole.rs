//! Creates that fail, many at once, and what is left in the end.

use super::prelude::*;

pub async fn what_a_create_refuses(agent: &Agent) {
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

pub async fn many_at_once(agent: &Agent) {
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

/// Whoever asked for a container may be gone, and another removes what it was to be.
pub async fn removed_while_created(agent: &Agent) {
    let spec = spec("exec sleep 1000");
    for wait in [0, 5, 20, 50, 100] {
        let create = agent.create_container(agent.request("cut-off", &spec));
        let remove = async {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            agent.remove("cut-off").await;
        };
        let (created, ()) = tokio::join!(create, remove);
        created.unwrap();
        // The removal may have come before the create.
        agent.remove("cut-off").await;
        let left = agent.list_processes(ListProcessesRequest::new()).await;
        assert_eq!(left.unwrap().processes.len(), 0, "after {wait} ms");
    }
}

/// For the reader: no assertion, since machines differ.
pub async fn durations(agent: &Agent) {
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
    let request = agent.request("time", &spec(&script));
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

pub async fn nothing_is_left(agent: &Agent) {
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
