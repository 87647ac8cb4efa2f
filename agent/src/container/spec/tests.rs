use super::*;
use proptest::prelude::*;

const SPEC: &str = r#"{
    "ociVersion": "1.1.0",
    "hostname": "web-0",
    "root": {"path": "rootfs"},
    "process": {"args": ["sh"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": false,
        "capabilities": {"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]}},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
        {"destination": "/etc/hosts", "type": "bind", "source": "/run/volumes/hosts", "options": ["bind"]}],
    "linux": {
        "cgroupsPath": "/somewhere/else",
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}],
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
}"#;

fn around() -> Surroundings<'static> {
    Surroundings {
        rootfs: Path::new("/run/c/rootfs"),
        cgroup: Path::new("/pod/c"),
        pid_namespace: None,
        etc: Path::new("/run/etc"),
        shm: Path::new("/run/shm"),
        readonly_rootfs: false,
        staging: None,
    }
}

fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> Result<Prepared> {
    let mut json: serde_json::Value = serde_json::from_str(SPEC).unwrap();
    edit(&mut json);
    prepare(json.to_string().as_bytes(), &around())
}

#[test]
fn the_guests_side_is_filled_in() {
    let prepared = edited(|_| {}).unwrap();
    let linux = prepared.spec.linux().as_ref().unwrap();
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/pod/c")));
    assert!(linux.seccomp().is_none() && prepared.seccomp.is_some());
    assert!(linux.resources().as_ref().unwrap().devices().is_none());
    let kinds: Vec<_> = linux
        .namespaces()
        .as_ref()
        .unwrap()
        .iter()
        .map(|n| n.typ())
        .collect();
    assert_eq!(
        kinds,
        [
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Cgroup,
            LinuxNamespaceType::Pid
        ]
    );
    // UTS is the pod's, and so is the name.
    assert!(prepared.spec.hostname().is_none());
    let root = prepared.spec.root().as_ref().unwrap();
    assert_eq!(root.path(), Path::new("/run/c/rootfs"));
    let mounts = prepared.spec.mounts().as_ref().unwrap();
    let source = |at: &str| {
        let found: Vec<_> = mounts
            .iter()
            .filter(|m| m.destination() == Path::new(at))
            .collect();
        assert_eq!(found.len(), 1, "{at}");
        found[0].source().clone().unwrap()
    };
    assert_eq!(source("/dev/shm"), Path::new("/run/shm"));
    assert_eq!(source("/etc/hosts"), Path::new("/run/volumes/hosts"));
    assert_eq!(
        source("/etc/resolv.conf"),
        Path::new("/run/etc/resolv.conf")
    );
}

#[test]
fn private_namespaces_keep_their_own_shm_and_name() {
    let prepared = edited(|json| {
        json["linux"]["namespaces"] = serde_json::json!([{"type": "ipc"}, {"type": "uts"}]);
    })
    .unwrap();
    assert_eq!(prepared.spec.hostname().as_deref(), Some("web-0"));
    let mounts = prepared.spec.mounts().as_ref().unwrap();
    let shm = mounts
        .iter()
        .find(|m| m.destination() == Path::new("/dev/shm"))
        .unwrap();
    assert_eq!(shm.typ().as_deref(), Some("tmpfs"));
}

#[test]
fn what_a_guest_cannot_honour_is_refused() {
    type Edit = fn(&mut serde_json::Value);
    let cases: [(Edit, ttrpc::Code); 12] = [
        (
            |j| j["hooks"] = serde_json::json!({"createContainer": [{"path": "/bin/x"}]}),
            ttrpc::Code::FAILED_PRECONDITION,
        ),
        (
            |j| j["process"]["apparmorProfile"] = "cri-default".into(),
            ttrpc::Code::FAILED_PRECONDITION,
        ),
        (
            |j| j["process"]["selinuxLabel"] = "system_u".into(),
            ttrpc::Code::FAILED_PRECONDITION,
        ),
        (
            |j| j["linux"]["mountLabel"] = "system_u".into(),
            ttrpc::Code::FAILED_PRECONDITION,
        ),
        (
            |j| j["linux"]["namespaces"] = serde_json::json!([{"type": "user"}]),
            ttrpc::Code::FAILED_PRECONDITION,
        ),
        (
            |j| {
                j["linux"]["namespaces"] =
                    serde_json::json!([{"type": "ipc", "path": "/proc/1/ns/ipc"}])
            },
            ttrpc::Code::INVALID_ARGUMENT,
        ),
        (
            |j| j["process"]["args"] = serde_json::json!([]),
            ttrpc::Code::INVALID_ARGUMENT,
        ),
        (
            |j| j["process"]["args"] = serde_json::json!(["a\0b"]),
            ttrpc::Code::INVALID_ARGUMENT,
        ),
        (
            |j| j["process"]["cwd"] = "relative".into(),
            ttrpc::Code::INVALID_ARGUMENT,
        ),
        (
            |j| j["ociVersion"] = "2.0.0".into(),
            ttrpc::Code::INVALID_ARGUMENT,
        ),
        (
            |j| j["mounts"][0]["destination"] = "proc".into(),
            ttrpc::Code::INVALID_ARGUMENT,
        ),
        (
            |j| j["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_NOTIFY".into(),
            ttrpc::Code::INVALID_ARGUMENT,
        ),
    ];
    for (index, (edit, code)) in cases.into_iter().enumerate() {
        let error = edited(edit).unwrap_err();
        assert_eq!(error.code(), code, "case {index}: {error}");
    }
}

#[test]
fn a_process_without_capabilities_has_none() {
    let prepared = edited(|json| {
        json["process"]
            .as_object_mut()
            .unwrap()
            .remove("capabilities");
    })
    .unwrap();
    let process = prepared.spec.process().as_ref().unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert!(capabilities.bounding().as_ref().unwrap().is_empty());
}

#[test]
fn sys_admin_is_lent_only_to_who_needs_it() {
    let mut process = edited(|_| {}).unwrap().spec.process().clone().unwrap();
    assert!(lend_sys_admin(&mut process));
    let lent = process.capabilities().clone().unwrap();
    assert!(
        lent.permitted()
            .as_ref()
            .unwrap()
            .contains(&Capability::SysAdmin)
    );
    assert!(
        !lent
            .bounding()
            .as_ref()
            .unwrap()
            .contains(&Capability::SysAdmin)
    );
    // Has it now: nothing to drop.
    assert!(!lend_sys_admin(&mut process));
    process.set_no_new_privileges(Some(true));
    assert!(!lend_sys_admin(&mut process));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = prepare(&bytes, &around());
    }

    #[test]
    fn arbitrary_values_never_panic(
        key in prop::sample::select(vec!["process", "root", "mounts", "linux", "hooks", "hostname"]),
        value in prop::sample::select(vec!["null", "[]", "{}", "1", "\"x\"", "[{}]", "[null]"]),
    ) {
        let _ = edited(|json| json[key] = serde_json::from_str(value).unwrap());
    }
}
