use bulkhead_cri_api::v1::{
    Capability, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    Mount as CriMount, NamespaceOption, SecurityProfile,
};

use super::*;
use crate::{
    Kind,
    store::ContainerPhase,
    testing::{image, records},
};

fn built(change: impl FnOnce(&mut ContainerConfig)) -> Result<ContainerSpec> {
    let mut record = records::container("c", "p", ContainerPhase::Creating);
    record.config.command.clear();
    change(&mut record.config);
    container_spec(
        &records::pod_config("p", 0),
        &record,
        &image(),
        PlaceKind::MicroVm,
    )
}

fn with_security(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Result<ContainerSpec> {
    built(|config| {
        let mut security = LinuxContainerSecurityContext::default();
        change(&mut security);
        config.linux = Some(LinuxContainerConfig {
            security_context: Some(security),
            ..Default::default()
        });
    })
}

fn args(spec: &ContainerSpec) -> Vec<String> {
    spec.oci.process().as_ref().unwrap().args().clone().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn command_and_arguments_merge_as_kubernetes_documents() {
    // The table of "Define a Command and Arguments for a Container".
    let merged = |entrypoint: &str, cmd: &str, command: &str, arguments: &str| {
        let mut image = image();
        image.config.entrypoint = words(entrypoint);
        image.config.cmd = words(cmd);
        let mut record = records::container("c", "p", ContainerPhase::Creating);
        record.config.command = words(command);
        record.config.args = words(arguments);
        let spec = container_spec(
            &records::pod_config("p", 0),
            &record,
            &image,
            PlaceKind::MicroVm,
        )?;
        Ok::<_, Error>(args(&spec).join(" "))
    };
    assert_eq!(merged("/ep-1", "foo bar", "", "").unwrap(), "/ep-1 foo bar");
    assert_eq!(merged("/ep-1", "foo bar", "/ep-2", "").unwrap(), "/ep-2");
    assert_eq!(
        merged("/ep-1", "foo bar", "", "zoo boo").unwrap(),
        "/ep-1 zoo boo"
    );
    assert_eq!(
        merged("/ep-1", "foo bar", "/ep-2", "zoo boo").unwrap(),
        "/ep-2 zoo boo"
    );
    assert_eq!(merged("", "", "", "zoo").unwrap(), "zoo");
    assert_eq!(
        merged("", "", "", "").unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[test]
fn later_variables_replace_earlier_ones_in_place() {
    let env = |pairs: &[(&str, &[u8])]| {
        built(|config| {
            config.envs = pairs
                .iter()
                .map(|(key, value)| KeyValue {
                    key: (*key).to_owned(),
                    value: value.to_vec().into(),
                })
                .collect();
        })
        .map(|spec| spec.oci.process().as_ref().unwrap().env().clone().unwrap())
    };
    let found = env(&[
        ("LANG", b"C.UTF-8"),
        ("A", b"1=2"),
        ("A", b"3"),
        ("PATH", b"/x"),
    ])
    .unwrap();
    assert_eq!(found, ["PATH=/x", "HOSTNAME=p", "LANG=C.UTF-8", "A=3"]);
    assert_eq!(
        env(&[("A=B", b"")]).unwrap_err().kind(),
        Kind::InvalidArgument
    );
    assert_eq!(env(&[("", b"")]).unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(
        env(&[("A", b"a\0b")]).unwrap_err().kind(),
        Kind::InvalidArgument
    );
    // What is no text travels beside the specification, which is JSON.
    let text = env(&[("A", b"\xff")]).unwrap();
    assert!(text.iter().all(|it| !it.starts_with("A=")));
}

#[test]
fn a_terminal_gets_its_type() {
    let spec = built(|config| config.tty = true).unwrap();
    let process = spec.oci.process().as_ref().unwrap();
    assert_eq!(process.terminal(), Some(true));
    assert!(
        process
            .env()
            .as_ref()
            .unwrap()
            .contains(&"TERM=xterm".to_owned())
    );
}

#[test]
fn the_directory_is_absolute_whoever_names_it() {
    let cwd = |wanted: &str| {
        built(|config| config.working_dir = wanted.to_owned()).map(|spec| {
            spec.oci
                .process()
                .as_ref()
                .unwrap()
                .cwd()
                .display()
                .to_string()
        })
    };
    assert_eq!(cwd("").unwrap(), "/");
    assert_eq!(cwd("/srv").unwrap(), "/srv");
    assert_eq!(cwd("srv").unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn users_come_from_the_client_or_the_image() {
    assert_eq!(built(|_| {}).unwrap().user, "1000");
    let spec = with_security(|it| {
        it.run_as_user = Some(Int64Value { value: 0 });
        it.run_as_group = Some(Int64Value { value: 5 });
        it.supplemental_groups = vec![7, 8];
        it.supplemental_groups_policy = 1;
    })
    .unwrap();
    assert_eq!((spec.user.as_str(), spec.gid), ("0", Some(5)));
    assert_eq!(
        (spec.supplemental_groups, spec.strict_groups),
        (vec![7, 8], true)
    );
}

#[test]
fn limits_reach_the_cgroup_and_the_hosts_cpus_do_not() {
    let spec = built(|config| {
        config.linux = Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 512,
                memory_limit_in_bytes: 64 << 20,
                oom_score_adj: -997,
                cpuset_cpus: "0-63".into(),
                unified: [("memory.high".to_owned(), "50000000".to_owned())].into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    })
    .unwrap();
    let linux = spec.oci.linux().as_ref().unwrap();
    let resources = linux.resources().as_ref().unwrap();
    let cpu = resources.cpu().as_ref().unwrap();
    assert_eq!(
        (cpu.period(), cpu.quota(), cpu.shares()),
        (Some(100_000), Some(50_000), Some(512))
    );
    assert_eq!(cpu.cpus(), &None);
    assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(64 << 20));
    assert_eq!(
        resources.unified().as_ref().unwrap()["memory.high"],
        "50000000"
    );
    assert_eq!(
        spec.oci.process().as_ref().unwrap().oom_score_adj(),
        Some(-997)
    );
    for file in ["../../x", "memory", "a/b.c", ""] {
        let refused = built(|config| {
            let unified = [(file.to_owned(), String::new())].into();
            let resources = LinuxContainerResources {
                unified,
                ..Default::default()
            };
            config.linux = Some(LinuxContainerConfig {
                resources: Some(resources),
                ..Default::default()
            });
        });
        assert_eq!(
            refused.unwrap_err().kind(),
            Kind::InvalidArgument,
            "{file:?}"
        );
    }
}

#[test]
fn what_comes_later_is_refused_with_what_to_do() {
    let mount = |mount: CriMount| built(|config| config.mounts = vec![mount]).unwrap_err();
    let error = mount(CriMount {
        host_path: "/etc/hosts".into(),
        container_path: "/etc/hosts".into(),
        ..Default::default()
    });
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains("/etc/hosts"), "{error}");
    let error = built(|config| config.devices = vec![Default::default()]).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    for change in [
        |it: &mut NamespaceOption| it.set_network(NamespaceMode::Node),
        |it: &mut NamespaceOption| it.set_pid(NamespaceMode::Node),
        |it: &mut NamespaceOption| it.set_ipc(NamespaceMode::Node),
    ] {
        let error = with_security(|it| change(it.namespace_options.get_or_insert_default()));
        assert_eq!(error.unwrap_err().kind(), Kind::FailedPrecondition);
    }
    let error = with_security(|it| {
        it.apparmor = Some(SecurityProfile {
            profile_type: 2,
            localhost_ref: "x".into(),
        });
    });
    assert_eq!(error.unwrap_err().kind(), Kind::FailedPrecondition);
}

#[test]
fn pid_namespaces_are_the_containers_the_pods_or_anothers() {
    let of = |pid: NamespaceMode, target: &str| {
        with_security(|it| {
            let options = it.namespace_options.get_or_insert_default();
            options.set_pid(pid);
            options.target_id = target.to_owned();
        })
        .map(|spec| (spec.share_pid_with_pod, spec.share_pid_with))
    };
    assert_eq!(of(NamespaceMode::Pod, "").unwrap(), (true, None));
    assert_eq!(of(NamespaceMode::Container, "").unwrap(), (false, None));
    assert_eq!(
        of(NamespaceMode::Target, "abc").unwrap(),
        (false, Some("abc".into()))
    );
    assert_eq!(
        of(NamespaceMode::Target, "").unwrap_err().kind(),
        Kind::InvalidArgument
    );
    let silent = built(|_| {}).unwrap();
    assert_eq!(
        (silent.share_pid_with_pod, silent.share_pid_with),
        (false, None)
    );
}

#[test]
fn an_ipc_namespace_of_its_own_has_its_own_shared_memory() {
    let shm = |spec: &ContainerSpec| {
        let mounts = spec.oci.mounts().clone().unwrap();
        mounts
            .iter()
            .any(|mount| mount.destination() == Path::new("/dev/shm"))
    };
    assert!(!shm(&built(|_| {}).unwrap()));
    let own = with_security(|it| {
        it.namespace_options
            .get_or_insert_default()
            .set_ipc(NamespaceMode::Container);
    });
    assert!(shm(&own.unwrap()));
}

#[test]
fn a_privileged_container_has_all_of_its_guest() {
    let spec = with_security(|it| {
        it.privileged = true;
        it.seccomp = Some(SecurityProfile::default());
    })
    .unwrap();
    let linux = spec.oci.linux().as_ref().unwrap();
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    assert!(linux.seccomp().is_none());
    let process = spec.oci.process().as_ref().unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 41);
}

#[test]
fn profiles_and_paths() {
    let spec = built(|_| {}).unwrap();
    let linux = spec.oci.linux().as_ref().unwrap();
    assert!(
        linux
            .masked_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/kcore".to_owned())
    );
    assert!(
        linux
            .readonly_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/sys".to_owned())
    );
    assert!(linux.seccomp().is_none(), "absent means unconfined");

    let seccomp = |kind: i32, path: &str| {
        with_security(|it| {
            it.seccomp = Some(SecurityProfile {
                profile_type: kind,
                localhost_ref: path.to_owned(),
            });
            it.masked_paths = vec!["/proc/x".into()];
        })
        .map(|spec| spec.oci.linux().as_ref().unwrap().seccomp().clone())
    };
    assert!(seccomp(0, "").unwrap().is_some());
    assert!(seccomp(1, "").unwrap().is_none());
    assert_eq!(seccomp(9, "").unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(
        seccomp(2, "relative").unwrap_err().kind(),
        Kind::InvalidArgument
    );
    assert_eq!(
        seccomp(2, "/nonexistent").unwrap_err().kind(),
        Kind::InvalidArgument
    );
    assert_eq!(
        seccomp(2, "/dev/zero").unwrap_err().kind(),
        Kind::InvalidArgument
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("profile.json");
    std::fs::write(
        &path,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let found = seccomp(2, path.to_str().unwrap()).unwrap().unwrap();
    assert_eq!(found.syscalls().as_ref().unwrap()[0].names(), &["mkdir"]);
    std::fs::write(&path, vec![b' '; 2 * 1024 * 1024]).unwrap();
    assert!(
        seccomp(2, path.to_str().unwrap())
            .unwrap_err()
            .to_string()
            .contains("larger")
    );
    std::fs::write(&path, "{").unwrap();
    assert_eq!(
        seccomp(2, path.to_str().unwrap()).unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[test]
fn capabilities_are_the_clients_choice() {
    let spec = with_security(|it| {
        it.capabilities = Some(Capability {
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
        it.no_new_privs = true;
        it.readonly_rootfs = true;
    })
    .unwrap();
    let process = spec.oci.process().as_ref().unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.effective().as_ref().unwrap().len(), 1);
    assert_eq!(process.no_new_privileges(), Some(true));
    assert!(spec.readonly_rootfs);
}

#[test]
fn log_paths_stay_beneath_the_log_directory() {
    let target = |directory: &str, path: &str| {
        let mut pod = records::pod_config("p", 0);
        pod.log_directory = directory.to_owned();
        let config = ContainerConfig {
            log_path: path.to_owned(),
            ..Default::default()
        };
        log_target(&pod, &config)
    };
    let found = target("/var/log/pods/x", "c/0.log").unwrap();
    assert_eq!(
        found.directory.join(found.path),
        Path::new("/var/log/pods/x/c/0.log")
    );
    for (directory, path) in [
        ("/var/log", "../etc/passwd"),
        ("/var/log", "/etc/passwd"),
        ("/var/log", "a/../../b"),
        ("/var/log", "./a"),
        ("/var/log", "a/"),
        ("/var/../etc", "a"),
        ("relative", "a"),
    ] {
        assert!(target(directory, path).is_err(), "{directory} {path}");
    }
    assert_eq!(target("", "a").unwrap().path, Path::new(""));
    assert_eq!(target("/var/log", "").unwrap().directory, Path::new(""));
}

#[test]
fn stop_signals() {
    let signal = |cri: i32, image_signal: Option<&str>| {
        let config = ContainerConfig {
            stop_signal: cri,
            ..Default::default()
        };
        let image = ImageConfig {
            stop_signal: image_signal.map(str::to_owned),
            ..ImageConfig::default()
        };
        stop_signal(&config, &image)
    };
    assert_eq!(signal(0, None).unwrap(), 15);
    assert_eq!(signal(0, Some("SIGINT")).unwrap(), 2);
    assert_eq!(
        signal(18, Some("SIGINT")).unwrap(),
        3,
        "SIGQUIT of the client"
    );
    assert_eq!(
        signal(0, Some("SIGNONE")).unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[test]
fn a_host_pods_container_has_what_it_asks_of_the_host() {
    let built_in = |modes: [NamespaceMode; 2], change: &dyn Fn(&mut ContainerConfig)| {
        let options = |mode| {
            let mut options = NamespaceOption::default();
            options.set_pid(mode);
            options
        };
        let mut pod = records::pod_config("p", 0);
        let linux = pod.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options = Some(options(modes[0]));
        let mut record = records::container("c", "p", ContainerPhase::Creating);
        record.config.linux = Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpuset_cpus: "0".to_owned(),
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(options(modes[1])),
                ..Default::default()
            }),
        });
        change(&mut record.config);
        container_spec(&pod, &record, &image(), PlaceKind::Host)
    };
    let (node, own) = (NamespaceMode::Node, NamespaceMode::Pod);
    let spec = built_in([node, node], &|config| {
        let mount = |host_path: &str, inside: &str| CriMount {
            host_path: host_path.to_owned(),
            container_path: inside.to_owned(),
            ..Default::default()
        };
        config.mounts = vec![
            mount("/etc", "/a/b"),
            mount("/sys", "/sys"),
            mount("/", "/a"),
        ];
        config.devices = vec![bulkhead_cri_api::v1::Device {
            host_path: "/dev/null".to_owned(),
            container_path: "/dev/x".to_owned(),
            permissions: "r".to_owned(),
        }];
    })
    .unwrap();
    assert!(spec.share_pid_with_host && !spec.share_pid_with_pod);
    let mounts = spec.oci.mounts().clone().unwrap();
    let place = |path: &str| {
        let found = mounts
            .iter()
            .position(|it| it.destination() == Path::new(path));
        found.unwrap_or_else(|| panic!("no mount on {path}"))
    };
    assert!(place("/a") < place("/a/b") && place("/sys") < place("/sys/fs/cgroup"));
    assert_eq!(mounts[place("/sys")].typ().as_deref(), Some("bind"));
    let linux = spec.oci.linux().clone().unwrap();
    assert_eq!(linux.devices().as_ref().unwrap().len(), 1);
    let resources = linux.resources().clone().unwrap();
    let rule = resources
        .devices()
        .as_ref()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(rule.access().as_deref(), Some("r"));
    assert_eq!(
        resources.cpu().as_ref().unwrap().cpus().as_deref(),
        Some("0")
    );

    let error = built_in([own, own], &|config| {
        config.mounts = vec![CriMount {
            host_path: "/etc".to_owned(),
            container_path: "/dev/sub".to_owned(),
            ..Default::default()
        }];
        config.devices = vec![bulkhead_cri_api::v1::Device {
            host_path: "/dev/null".to_owned(),
            container_path: "/dev/sub/x".to_owned(),
            ..Default::default()
        }];
    })
    .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("mounted on /dev/sub"), "{error}");

    // POD is the pod's, which is the host's here.
    assert!(built_in([node, own], &|_| {}).unwrap().share_pid_with_host);
    assert!(built_in([own, own], &|_| {}).unwrap().share_pid_with_pod);
    let error = built_in([own, node], &|_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}
