//! What a container may not do.

use super::prelude::*;

pub async fn seccomp_profiles(agent: &Agent) {
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

    let mut spec = crate::common::spec("true");
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    refused(
        agent.create_container(agent.request("sec", &spec)).await,
        Code::INVALID_ARGUMENT,
        "SCMP_ACT_NOTIFY",
    );
}

pub async fn capabilities_and_no_new_privileges(agent: &Agent) {
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

pub async fn devices(agent: &Agent) {
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

pub async fn out_of_memory(agent: &Agent) {
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

pub async fn readonly_root(agent: &Agent) {
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
