//! Holds our definition of the CRI to Kubernetes', as Debian packages it.
//!
//! Everything in Debian's `golang-k8s-cri-api-dev` must be in ours: messages with
//! field names, numbers, types and labels, enums with names and numbers, RPCs with
//! their types and directions. Ours may have more (the package lags behind).
//!
//! The file is looked for at `$CRI_API_PROTO`, where the package installs it, and
//! where `fetch-debian-proto.sh` puts it. If it is nowhere the test fails and says
//! so: a comparison that silently doesn't happen is worth nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
};

const PACKAGED: &str = "/usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto";

fn debian_proto() -> PathBuf {
    if let Some(path) = env::var_os("CRI_API_PROTO") {
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "CRI_API_PROTO={} is not a file",
            path.display()
        );
        return path;
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let fetched = cache.map(|cache| cache.join("bulkhead/cri-api/api.proto"));
    [Some(PathBuf::from(PACKAGED)), fetched]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "Debian's copy of the CRI definition is not on this machine.\n\
             Fetch it (79 KB, no root) with:  {}/fetch-debian-proto.sh\n\
             or set CRI_API_PROTO to the path of an api.proto.",
                env!("CARGO_MANIFEST_DIR")
            )
        })
}

fn pool(path: &str, text: &str) -> DescriptorPool {
    // Tests run at the same time, and more than one looks at our own.
    static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let call = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("bulkhead-cri-api-{}-{path}-{call}", std::process::id());
    let dir = env::temp_dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("api.proto"), text).unwrap();
    let set = protox::compile(["api.proto"], [&dir]).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

fn ours() -> DescriptorPool {
    pool("ours", include_str!("../proto/runtime/v1/api.proto"))
}

/// A field's place on the wire and its type, as text.
fn field(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    };
    let (label, kind) = if field.is_map() {
        ("map", "string to string".to_owned())
    } else if field.is_list() {
        ("repeated", kind)
    } else {
        ("", kind)
    };
    format!("= {} {label} {kind}", field.number())
}

fn fields(message: &MessageDescriptor) -> BTreeMap<String, String> {
    message
        .fields()
        .map(|it| (it.name().to_owned(), field(&it)))
        .collect()
}

/// Enum values by number. Kubernetes 1.37 prefixed the signals with `SIGNAL_`:
/// names are compared without it.
fn values(kind: &EnumDescriptor) -> BTreeMap<i32, String> {
    let plain = |name: &str| name.strip_prefix("SIGNAL_").unwrap_or(name).to_owned();
    kind.values()
        .map(|it| (it.number(), plain(it.name())))
        .collect()
}

fn rpcs(service: &ServiceDescriptor) -> BTreeMap<String, String> {
    service
        .methods()
        .map(|it| {
            let text = format!(
                "{}{} -> {}{}",
                if it.is_client_streaming() {
                    "stream "
                } else {
                    ""
                },
                it.input().full_name(),
                if it.is_server_streaming() {
                    "stream "
                } else {
                    ""
                },
                it.output().full_name()
            );
            (it.name().to_owned(), text)
        })
        .collect()
}

/// Every entry of `theirs` that is missing in `ours` or differs there.
fn compare<K: Ord + std::fmt::Debug>(
    place: &str,
    ours: &BTreeMap<K, String>,
    theirs: &BTreeMap<K, String>,
    differences: &mut Vec<String>,
) {
    for (name, wanted) in theirs {
        match ours.get(name) {
            None => differences.push(format!("{place}: {name:?} {wanted} is missing")),
            Some(have) if have != wanted => {
                differences.push(format!("{place}: {name:?} is {have}, Debian has {wanted}"));
            }
            Some(_) => {}
        }
    }
}

#[test]
fn everything_in_debians_copy_is_in_ours() {
    let path = debian_proto();
    let theirs = pool("debian", &fs::read_to_string(&path).unwrap());
    let ours = ours();
    let mut differences = Vec::new();
    let mut compared = 0;

    for message in theirs.all_messages().filter(|it| !it.is_map_entry()) {
        let name = message.full_name();
        compared += 1;
        match ours.get_message_by_name(name) {
            None => differences.push(format!("message {name} is missing")),
            Some(own) => compare(name, &fields(&own), &fields(&message), &mut differences),
        }
    }
    for kind in theirs.all_enums() {
        let name = kind.full_name();
        compared += 1;
        match ours.get_enum_by_name(name) {
            None => differences.push(format!("enum {name} is missing")),
            Some(own) => compare(name, &values(&own), &values(&kind), &mut differences),
        }
    }
    for service in theirs.services() {
        let name = service.full_name();
        compared += 1;
        match ours.get_service_by_name(name) {
            None => differences.push(format!("service {name} is missing")),
            Some(own) => compare(name, &rpcs(&own), &rpcs(&service), &mut differences),
        }
    }

    assert!(
        compared > 150,
        "{} is no whole definition: {compared} items",
        path.display()
    );
    assert!(
        differences.is_empty(),
        "against {}:\n{}",
        path.display(),
        differences.join("\n")
    );
}

#[test]
fn ours_has_what_the_1_37_line_added() {
    let ours = ours();
    let runtime = ours
        .get_service_by_name("runtime.v1.RuntimeService")
        .unwrap();
    let images = ours.get_service_by_name("runtime.v1.ImageService").unwrap();
    assert_eq!((runtime.methods().len(), images.methods().len()), (37, 6));
    for name in ["CheckpointPod", "RestorePod"] {
        assert!(
            runtime.methods().any(|method| method.name() == name),
            "{name}"
        );
    }
    let number = |message: &str, field: &str| {
        ours.get_message_by_name(message)
            .unwrap()
            .get_field_by_name(field)
            .unwrap()
            .number()
    };
    assert_eq!(number("runtime.v1.Mount", "mount_options"), 11);
    assert_eq!(number("runtime.v1.RuntimeFeatures", "mount_options"), 3);
    assert_eq!(number("runtime.v1.ImageSpec", "image_ref"), 20);
    assert_eq!(
        number("runtime.v1.RestorePodRequest", "container_configs"),
        5
    );
}
