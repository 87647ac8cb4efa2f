//! Bodies of the fuzz targets: arbitrary bytes in, no panic out, and what comes out
//! keeps its promises.

use std::path::Path;

use bulkhead_agent_api::agent;
use oci_spec::runtime::LinuxSeccomp;
use protobuf::Message as _;

use crate::{
    container::{
        seccomp,
        spec::{self, Surroundings},
        update,
        users::{self, UserRequest},
    },
    net::parse::InterfacePlan,
    stats::parse,
};

/// `bytes` up to the next zero byte, which is dropped from the rest.
fn field<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let first = parts.next().unwrap_or_default();
    *bytes = parts.next().unwrap_or_default();
    first
}

/// A user as the pod or the image asks for it, and the image's passwd and group
/// files, with a zero byte between them.
pub fn users(mut bytes: &[u8]) {
    let spec = String::from_utf8_lossy(field(&mut bytes)).into_owned();
    let passwd = field(&mut bytes);
    for strict in [false, true] {
        let request = UserRequest {
            spec: spec.clone(),
            strict,
            ..UserRequest::default()
        };
        if let Ok(identity) = users::resolve(&request, passwd, bytes) {
            assert_eq!(identity.groups.first(), Some(&identity.gid));
            assert!(identity.home.starts_with('/'));
            // Digits are a number, whatever names the image's files define.
            let name = spec.split(':').next().unwrap_or_default();
            if let Ok(uid) = name.parse::<u32>() {
                assert!(name.starts_with('+') || identity.uid == uid);
            }
        }
    }
}

/// An OCI specification, with its seccomp profile and device rules.
pub fn oci_spec(bytes: &[u8]) {
    let around = Surroundings {
        rootfs: Path::new("/run/c/rootfs"),
        cgroup: Path::new("/pod/c"),
        pid_namespace: None,
        etc: Path::new("/run/etc"),
        shm: Path::new("/run/shm"),
        readonly_rootfs: false,
        staging: None,
    };
    if let Ok(prepared) = spec::prepare(bytes, &around) {
        assert!(prepared.spec.hooks().is_none());
        let linux = prepared.spec.linux().as_ref();
        assert!(linux.is_some_and(|linux| linux.seccomp().is_none()));
    }
}

/// Limits that a container is changed to: files of its cgroup and of nothing else.
pub fn limits(bytes: &[u8]) {
    for setting in update::parse(bytes).unwrap_or_default() {
        assert!(!setting.file.contains('/') && !setting.file.starts_with("cgroup."));
        assert!(!setting.value.contains('\0'));
    }
}

/// A seccomp profile by itself.
pub fn seccomp_profile(bytes: &[u8]) {
    if let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) {
        let _ = seccomp::compile(&profile);
    }
}

/// Text files of a kernel, and of the containers' cgroups.
pub fn statistics(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = (
        parse::number(&text),
        parse::keyed(&text, "anon"),
        parse::cpu_busy_ns(&text),
        parse::processes(&text),
        parse::net_dev(&text),
        parse::io_stat(&text),
        parse::pressure(&text, "some"),
        parse::max_open_files(&text),
    );
    assert!(parse::cpu_list(&text, 100).len() <= 100);
}

/// What the daemon says about an interface.
pub fn interface(bytes: &[u8]) {
    if let Ok(interface) = agent::Interface::parse_from_bytes(bytes) {
        let _ = InterfacePlan::parse(&interface);
    }
}
