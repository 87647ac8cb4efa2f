//! Layers made to do harm: each is refused or contained, and takes little memory.
//!
//! Each is pulled in a process of its own, this very test started again, and what that
//! takes beside the layer itself, which it has in memory, is looked at.

// Tests say what they expect by unwrapping it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout)] // its figures are its purpose

use std::{
    collections::HashMap,
    io::{self, Cursor, Read, Write as _},
    process::Command,
    sync::Arc,
};

use bulkhead_erofs::{
    read::Image as Erofs,
    tar::EntryKind,
    testing::{Archive, Item},
};
use bulkhead_image::{Digest, Error, Limits, PullOptions, Reference, Repository, Result, Store};
use serde_json::json;

/// What conversion of a layer may take.
const PEAK_MAX: u64 = 64 << 20;
/// Says which layer a child process is to pull.
const VARIABLE: &str = "BULKHEAD_HOSTILE_LAYER";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

type Content = Box<dyn Read + Send>;

/// A layer, and what must come of it.
struct Case {
    name: &'static str,
    /// Of the media type: its compression.
    suffix: &'static str,
    /// Bytes, or what makes them.
    content: fn() -> Made,
    /// A part of the error, or what the layer holds then.
    outcome: Outcome,
}

enum Made {
    Bytes(Vec<u8>),
    /// So many bytes, whose digest nobody will ask for.
    Stream(u64, Content),
}

enum Outcome {
    Refused(&'static str),
    Contained(&'static [&'static str]),
}

use Outcome::{Contained, Refused};

const CASES: &[Case] = &[
    Case {
        name: "traversal",
        suffix: "",
        content: || {
            tar([
                Item::file("../../../etc/passwd", "x"),
                Item::file("/../abs", "y"),
                Item::dir("a/../.."),
                Item::file("b/../../c", "z"),
            ])
        },
        outcome: Contained(&["abs", "c", "etc"]),
    },
    Case {
        name: "links-out",
        suffix: "+gzip",
        content: || {
            tar_gzip([
                Item::symlink("out", "../../../.."),
                Item::file("out/etc/shadow", "x"),
                Item::symlink("host", "/proc/1/root"),
                Item::file("host/x", "y"),
            ])
        },
        outcome: Contained(&["etc", "host", "out", "proc"]),
    },
    Case {
        name: "hard-link-out",
        suffix: "",
        content: || tar([Item::hard_link("x", "../../../../etc/shadow")]),
        outcome: Refused("neither this layer nor one beneath"),
    },
    Case {
        name: "cyclic-hard-links",
        suffix: "",
        content: || {
            tar([
                Item::hard_link("a", "b"),
                Item::hard_link("b", "c"),
                Item::hard_link("c", "a"),
            ])
        },
        outcome: Refused("symbolic links"),
    },
    Case {
        name: "cyclic-symbolic-links",
        suffix: "",
        content: || {
            tar([
                Item::symlink("a", "b"),
                Item::symlink("b", "a"),
                Item::file("a/x", "y"),
            ])
        },
        outcome: Refused("symbolic links"),
    },
    Case {
        name: "devices",
        suffix: "",
        content: || {
            tar([
                Item::new(EntryKind::BlockDevice, "disk").device(8, 0),
                Item::new(EntryKind::CharDevice, "mem").device(1, 1),
            ])
        },
        // Devices of the guest: nothing on the host has them.
        outcome: Contained(&["disk", "mem"]),
    },
    Case {
        name: "names-of-255-bytes",
        suffix: "",
        content: || tar([Item::file("n".repeat(255), "")]),
        outcome: Contained(&[LONGEST]),
    },
    Case {
        name: "names-of-256-bytes",
        suffix: "",
        content: || tar([Item::file("n".repeat(256), "")]),
        outcome: Refused("255 bytes"),
    },
    Case {
        name: "names-that-are-no-text",
        suffix: "",
        content: || tar([Item::file(b"\xff\xfe\x80", "")]),
        outcome: Contained(&["\\xff\\xfe\\x80"]),
    },
    Case {
        name: "endless-path",
        suffix: "",
        content: || tar([Item::file("d/".repeat(3000), "")]),
        outcome: Refused("longer than"),
    },
    Case {
        name: "deep-directories",
        suffix: "",
        content: || tar([Item::dir("d/".repeat(2000))]),
        outcome: Refused("depth"),
    },
    Case {
        name: "ten-million-entries",
        suffix: "",
        content: || Made::Stream(10_000_000 * 512, Box::new(Entries::new(10_000_000))),
        outcome: Refused("limit"),
    },
    Case {
        name: "many-entries-of-one-name",
        suffix: "",
        content: || Made::Stream(5_000_000 * 512, Box::new(Entries::of_one_name(5_000_000))),
        outcome: Refused("limit"),
    },
    Case {
        name: "attributes-without-end",
        suffix: "",
        content: || {
            let attributes = (0..600).map(|n| {
                Item::file(format!("{n}"), "").xattr("user.x", format!("{n:060000}").repeat(2))
            });
            tar(attributes.map(|item| item.xattr("user.y", vec![7; 5000])))
        },
        outcome: Refused("is too long"),
    },
    Case {
        name: "bomb-in-gzip",
        suffix: "+gzip",
        content: || bomb(gzip),
        outcome: Refused("limit"),
    },
    Case {
        name: "bomb-in-zstd",
        suffix: "+zstd",
        content: || bomb(|bytes| zstd::encode_all(bytes, 19).unwrap()),
        outcome: Refused("limit"),
    },
    Case {
        name: "window-of-zstd",
        suffix: "+zstd",
        // A frame (RFC 8878, section 3.1.1) with a window of 2 GiB.
        content: || Made::Bytes(vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]),
        outcome: Refused("memory"),
    },
    Case {
        name: "cut-off",
        suffix: "+gzip",
        content: || {
            let Made::Bytes(mut bytes) = tar_gzip([Item::file("a", vec![1; 100_000])]) else {
                panic!()
            };
            bytes.truncate(bytes.len() / 2);
            Made::Bytes(bytes)
        },
        outcome: Refused("cannot be decompressed"),
    },
    Case {
        name: "size-without-content",
        suffix: "",
        content: || {
            let mut item = Item::file("a", "short");
            item.size = Some(1 << 40);
            tar([item])
        },
        outcome: Refused(""),
    },
    Case {
        name: "sparse-without-end",
        suffix: "",
        content: || {
            let item = Item::file("f", "x")
                .pax("GNU.sparse.map", "0,1")
                .pax("GNU.sparse.size", (1u64 << 60).to_string());
            tar([item])
        },
        outcome: Refused(""),
    },
];

const LONGEST: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

fn tar(items: impl IntoIterator<Item = Item>) -> Made {
    Made::Bytes(items.into_iter().collect::<Archive>().finish())
}

fn tar_gzip(items: impl IntoIterator<Item = Item>) -> Made {
    Made::Bytes(gzip(&items.into_iter().collect::<Archive>().finish()))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// 2 GiB of zeros in a file, in 64 compressed pieces of equal content.
fn bomb(compress: impl Fn(&[u8]) -> Vec<u8>) -> Made {
    let mut item = Item::file("zeros", "");
    item.size = Some(2 << 30);
    let mut head = Archive::new();
    head.add(item);
    // Without the end of the archive.
    let head = head.finish().into_iter().take(512).collect::<Vec<_>>();
    let piece = compress(&vec![0; 32 << 20]);
    let mut bytes = compress(&head);
    for _ in 0..64 {
        bytes.extend_from_slice(&piece);
    }
    Made::Bytes(bytes)
}

/// An archive of empty files, made as it is read.
struct Entries {
    left: u32,
    distinct: bool,
    header: Cursor<Vec<u8>>,
}

impl Entries {
    fn new(count: u32) -> Self {
        Self {
            left: count,
            distinct: true,
            header: Cursor::default(),
        }
    }

    fn of_one_name(count: u32) -> Self {
        Self {
            distinct: false,
            ..Self::new(count)
        }
    }
}

impl Read for Entries {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.header.read(buf)?;
        if n > 0 || self.left == 0 {
            return Ok(n);
        }
        let number = if self.distinct { self.left } else { 0 };
        let mut one = Archive::new();
        one.add(Item::file(format!("{number}"), ""));
        let mut header = one.finish();
        header.truncate(512);
        self.header = Cursor::new(header);
        self.left -= 1;
        self.header.read(buf)
    }
}

/// An image of one layer.
struct Memory {
    manifest: Vec<u8>,
    blobs: HashMap<Digest, Arc<[u8]>>,
    stream: std::sync::Mutex<Option<Content>>,
}

impl Memory {
    fn new(case: &Case) -> Self {
        let mut blobs: HashMap<Digest, Arc<[u8]>> = HashMap::new();
        let (digest, size, stream) = match (case.content)() {
            Made::Bytes(bytes) => {
                let digest = Digest::of(&bytes);
                let size = bytes.len() as u64;
                blobs.insert(digest, bytes.into());
                (digest, size, None)
            }
            Made::Stream(size, content) => (Digest::of(b"nobody asks"), size, Some(content)),
        };
        let diff_id = match (case.suffix, blobs.get(&digest)) {
            ("", Some(bytes)) => Digest::of(bytes),
            ("+gzip", Some(bytes)) => {
                let mut plain = Vec::new();
                let mut decoder = flate2::read::MultiGzDecoder::new(&bytes[..]).take(1 << 20);
                let _ = decoder.read_to_end(&mut plain);
                Digest::of(&plain)
            }
            _ => digest,
        };
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": CONFIG, "size": config.len(),
                "digest": Digest::of(&config).to_string(),
            },
            "layers": [{
                "mediaType": format!("{LAYER}{}", case.suffix), "size": size,
                "digest": digest.to_string(),
            }],
        });
        blobs.insert(Digest::of(&config), config.into());
        Self {
            manifest: manifest.to_string().into_bytes(),
            blobs,
            stream: std::sync::Mutex::new(stream),
        }
    }
}

// One stream, and one thread that reads it.
struct Once<'a>(&'a Memory);

impl Repository for Once<'_> {
    fn tagged(&self, _tag: &str, _limit: u64) -> Result<(Digest, Vec<u8>)> {
        Ok((Digest::of(&self.0.manifest), self.0.manifest.clone()))
    }

    fn by_digest(&self, _digest: &Digest, _limit: u64) -> Result<Vec<u8>> {
        Ok(self.0.manifest.clone())
    }

    fn blob(&self, digest: &Digest, _size: u64) -> Result<Box<dyn Read>> {
        match self.0.blobs.get(digest) {
            Some(bytes) => Ok(Box::new(Cursor::new(Arc::clone(bytes)))),
            None => Ok(self.0.stream.lock().unwrap().take().unwrap()),
        }
    }
}

fn pull(case: &Case) -> std::result::Result<Vec<String>, Error> {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits {
        layer_bytes: 1 << 33,
        erofs: bulkhead_erofs::Limits {
            data_bytes: 1 << 30,
            ..bulkhead_erofs::Limits::default()
        },
        ..Limits::default()
    };
    let store = Store::open_with(directory.path(), limits).unwrap();
    let memory = Memory::new(case);
    // The peak from here on (proc(5), clear_refs).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let reference = Reference::parse("registry.test/hostile:1").unwrap();
    let pulled = store.pull(&reference, &Once(&memory), PullOptions::default(), &|_| {});
    println!("PEAK {}", status("VmHWM:").saturating_sub(before));
    let count = |sub: &str| {
        std::fs::read_dir(directory.path().join(sub))
            .unwrap()
            .count()
    };
    match pulled {
        Ok(report) => {
            let layer = &report.images[0].layers[0];
            let image = Erofs::open(std::fs::File::open(&layer.erofs_path).unwrap()).unwrap();
            let mut names = Vec::new();
            image
                .each(&image.root().unwrap(), |name, _| {
                    if name != b"." && name != b".." {
                        names.push(name.escape_ascii().to_string());
                    }
                    Ok(true)
                })
                .unwrap();
            Ok(names)
        }
        Err(error) => {
            assert_eq!(
                (count("tmp"), count("layers"), count("blobs/sha256")),
                (0, 0, 0)
            );
            Err(error)
        }
    }
}

/// Of this process, in bytes (proc(5)): what it has of memory, or had at most.
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// What a child process does; nothing where there is no layer named.
#[test]
fn child() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    match (pull(case), &case.outcome) {
        (Ok(names), Contained(expected)) => assert_eq!(names, *expected),
        (Err(error), Refused(words)) => {
            assert!(error.to_string().contains(words), "{error}");
        }
        (Ok(names), Refused(_)) => panic!("it was taken: {names:?}"),
        (Err(error), Contained(_)) => panic!("it was refused: {error}"),
    }
}

#[test]
fn each_is_refused_or_contained() {
    for case in CASES {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(VARIABLE, case.name)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}{errors}", case.name);
        let peak = said.lines().find_map(|line| line.split_once("PEAK "));
        let peak: u64 = peak.unwrap().1.parse().unwrap();
        println!("{}: {} KiB", case.name, peak >> 10);
        assert!(peak < PEAK_MAX, "{}: {peak} bytes", case.name);
    }
}
