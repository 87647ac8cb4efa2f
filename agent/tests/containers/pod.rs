//! What containers of a pod have in common.

use super::prelude::*;

pub async fn configuring_twice(agent: &Agent) {
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

pub async fn the_pods_surroundings(agent: &Agent) {
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

pub async fn the_pods_network(agent: &Agent) {
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
pub async fn the_agents_doors(agent: &Agent) {
    if !agent.place.is_guest() {
        return;
    }
    let script = format!("exec vsock-probe {}", crate::common::place::CID);
    let text = agent.run_script("probe", &script).await.text();
    assert_eq!(text.lines().count(), 4, "{text}");
    for line in text.lines() {
        assert!(
            line.contains("refused") || line.contains("cut off"),
            "{text}"
        );
    }
}

pub async fn shared_pids(agent: &Agent) {
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

pub async fn shared_memory_of_the_pod(agent: &Agent) {
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

pub async fn figures(agent: &Agent) {
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
    assert!(
        stats.unix_ns > 1_600_000_000_000_000_000,
        "{}",
        stats.unix_ns
    );
    let processes = &one.process;
    assert!(
        processes.processes >= 1 && processes.processes <= one.pids,
        "{one:?}"
    );
    assert!(processes.file_descriptors >= 3, "{one:?}");
    assert!(
        processes.max_open_files.is_some_and(|files| files > 0),
        "{one:?}"
    );
    let cpu = &one.cpu;
    assert!(cpu.user_ns + cpu.system_ns > 0, "{one:?}");
    assert!(
        one.memory.cache_bytes > 0 && one.memory.peak_bytes > 0,
        "{one:?}"
    );
    assert!(
        guest.scratch.total_bytes > 0 && guest.scratch.free_inodes > 0,
        "{guest:?}"
    );
    agent.remove("fig").await;
}

/// Limits of a container that lives: seen inside, all or none.
pub async fn limits_change(agent: &Agent) {
    agent
        .launch(
            "limits",
            "head -c 20000000 /dev/zero | tr '\\0' x >/dev/shm/held; echo up; exec sleep 1000",
        )
        .await;
    let mut out = agent
        .place
        .open("limits", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    within(out.read_until("up")).await;
    let update = |resources: serde_json::Value| UpdateContainerRequest {
        container_id: "limits".into(),
        oci_resources: resources.to_string().into_bytes(),
        ..Default::default()
    };
    let wanted = json!({
        "cpu": {"shares": 2, "quota": 50_000, "period": 100_000},
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 50},
    });
    agent.update_container(update(wanted)).await.unwrap();
    let script = "cd /sys/fs/cgroup; cat memory.max cpu.max cpu.weight pids.max";
    let limits = async || {
        let ran = agent
            .run_exec("limits", "look", &["sh", "-c", script])
            .await;
        ran.unwrap().text()
    };
    assert_eq!(limits().await, "67108864\n50000 100000\n1\n50\n");

    // What is held in /dev/shm can't be reclaimed; nothing of the change is made.
    let small = json!({"cpu": {"shares": 262_144}, "memory": {"limit": 4 << 20}});
    refused(
        agent.update_container(update(small)).await,
        Code::FAILED_PRECONDITION,
        "cannot give back",
    );
    assert_eq!(limits().await, "67108864\n50000 100000\n1\n50\n");
    let none =
        json!({"cpu": {"quota": -1}, "memory": {"limit": -1}, "unified": {"memory.high": "max"}});
    agent.update_container(update(none)).await.unwrap();
    assert_eq!(limits().await, "max\nmax 100000\n1\n50\n");
    refused(
        agent
            .update_container(update(json!({"unified": {"cgroup.kill": "1"}})))
            .await,
        Code::INVALID_ARGUMENT,
        "cgroup.kill",
    );
    agent.remove("limits").await;
    let gone = agent.update_container(update(json!({}))).await;
    refused(gone, Code::NOT_FOUND, "limits");
}

pub async fn layers_in_use(agent: &Agent) {
    agent.launch("user", "exec sleep 1000").await;
    let serials = || ReleaseLayersRequest {
        serials: crate::common::image::LAYERS
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
pub async fn layers_come_and_go(agent: &Agent) {
    let serials: Vec<String> = crate::common::image::LAYERS
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

pub async fn the_machine(agent: &Agent) {
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
    let clock = async || agent.stats(StatsRequest::new()).await.unwrap().unix_ns;
    let before = clock().await;
    let mut request = SetClockRequest::new();
    request.step_ns = -3_600_000_000_000;
    agent.set_clock(request).await.unwrap();
    assert!(clock().await < before - 3_000_000_000_000);
    let mut request = SetClockRequest::new();
    request.slew_ns = 100_000_000;
    agent.set_clock(request).await.unwrap();
    let mut request = SetClockRequest::new();
    (request.step_ns, request.slew_ns) = (1, 1);
    refused(
        agent.set_clock(request).await,
        Code::INVALID_ARGUMENT,
        "one of",
    );
    let mut request = OnlineCpusRequest::new();
    request.count = 2;
    assert_eq!(agent.online_cpus(request).await.unwrap().online, 2);
}
