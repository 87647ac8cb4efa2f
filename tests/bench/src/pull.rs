//! Pulls: from a registry on the loopback to an image that containers can be of.
//!
//! Each runtime pulls the same images by the CRI, in turn. What it takes is looked at
//! from outside: its answer's time, its processor time and that of programs that it ran,
//! its peak of memory, what its disk holds more afterwards. Every run has images of its
//! own, so that nothing is there before.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result};
use bulkhead_cri_api::v1::{self as cri, image_service_client::ImageServiceClient};
use bulkhead_e2e::{
    image::{Archive, Built, Compression, Layer, MANIFEST},
    node::channel,
};
use bulkhead_test_registry::{Content, Server};
use clap::Args;
use serde_json::json;

use crate::{
    cri::Address,
    neighbours::Neighbours,
    report::{Report, mib},
};

/// What is pulled, and by whom.
#[derive(Args)]
pub(crate) struct Options {
    /// Where containerd is unpacked (tests/bench/peers.sh).
    #[arg(long, value_name = "DIR")]
    beside: PathBuf,
    /// Where Bulkhead's programs are.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: PathBuf,
    /// Pulls of each image.
    #[arg(long, default_value_t = 3)]
    runs: u32,
}

/// A kind of image: its name, and of each layer how many files of how many bytes.
const KINDS: [(&str, u32, u32, usize); 4] = [
    ("1 layer of 4 x 8 MiB", 1, 4, 8 << 20),
    ("1 layer of 2000 x 4 KiB", 1, 2000, 4 << 10),
    ("10 layers of 200 x 4 KiB", 10, 200, 4 << 10),
    ("60 layers of 20 x 4 KiB", 60, 20, 4 << 10),
];

pub(crate) async fn run(options: Options) -> Result<Report> {
    let conditions = format!("{} pulls of each image in turn", options.runs);
    let mut report = Report::new(conditions);
    let content: Arc<Mutex<Content>> = Arc::default();
    let served = Arc::clone(&content);
    let server = Server::plain(move |asked| {
        let content = served.lock().unwrap_or_else(PoisonError::into_inner);
        content.answer(asked)
    })
    .await;
    let hosts = format!("[host.\"http://{}\"]\n", server.address);
    let neighbours = Neighbours::start_for_pulls(&options.beside, &options.bin_dir, &hosts).await?;
    let measured = pulls(&options, &neighbours, &content, &mut report).await;
    neighbours.stop().await?;
    measured?;
    Ok(report)
}

async fn pulls(
    options: &Options,
    neighbours: &Neighbours,
    content: &Mutex<Content>,
    report: &mut Report,
) -> Result<()> {
    let daemons = neighbours.daemons()?;
    for run in 0..options.runs {
        for (number, (kind, layers, files, bytes)) in KINDS.into_iter().enumerate() {
            eprintln!("{kind}, run {}", run + 1);
            let image = image(run, layers, files, bytes)?;
            let path = format!("bench/image-{number}");
            offer(content, &path, &image);
            for (address, pid, directory) in &daemons {
                let name = format!("registry.example/{path}:1");
                let before = Looked::at(*pid, directory)?;
                let began = Instant::now();
                pull(address, &name).await?;
                let took = began.elapsed();
                let after = Looked::at(*pid, directory)?;
                let mut add = |what: &str, value: f64| {
                    report.add(&address.name, &format!("{kind}: {what}"), value);
                };
                add("ms", took.as_secs_f64() * 1e3);
                add("CPU, ms", after.cpu_ms - before.cpu_ms);
                add("peak memory, MiB", peak(*pid)?);
                add("on disk, MiB", after.disk_mib - before.disk_mib);
            }
        }
    }
    Ok(())
}

/// Makes an image be there, in the place of the one before.
fn offer(content: &Mutex<Content>, path: &str, image: &Built) {
    let mut content = content.lock().unwrap_or_else(PoisonError::into_inner);
    let mut new = Content::default();
    for name in ["1", &image.manifest_digest()] {
        new = new.manifest(path, name, MANIFEST, &image.manifest);
    }
    for (digest, bytes) in &image.blobs {
        new = new.blob(path, &format!("sha256:{digest}"), bytes);
    }
    *content = new;
}

fn image(run: u32, layers: u32, files: u32, bytes: usize) -> Result<Built> {
    let mut archive = Archive::default();
    for number in 0..layers {
        let tar = layer(u64::from(run) << 32 | u64::from(number), files, bytes)?;
        archive = archive.layer(&tar, Compression::Gzip)?;
    }
    archive.build(json!({ "Cmd": ["/bin/true"] }))
}

/// A layer of files that compress to about a half, as programs do.
pub(crate) fn layer(seed: u64, files: u32, bytes: usize) -> Result<Vec<u8>> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut layer = Layer::default().dir("files", 0o755)?;
    for file in 0..files {
        let mut content = Vec::with_capacity(bytes);
        while content.len() < bytes {
            // A linear congruential generator (Knuth's MMIX); four of eight bytes.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            content.extend_from_slice(&(state >> 32).to_le_bytes());
        }
        content.truncate(bytes);
        layer = layer.file(&format!("files/{seed}-{file}"), 0o644, &content)?;
    }
    layer.finish()
}

async fn pull(address: &Address, name: &str) -> Result<()> {
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: name.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut images = ImageServiceClient::new(channel(address.socket.clone()));
    let pulled = images.pull_image(request).await;
    pulled.with_context(|| format!("{}: pull {name}", address.name))?;
    Ok(())
}

/// What a daemon has used so far.
struct Looked {
    cpu_ms: f64,
    disk_mib: f64,
}

impl Looked {
    /// Looks, and begins to measure the peak of memory anew (proc(5), clear_refs).
    fn at(pid: u32, directory: &Path) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name, which may hold anything, in parentheses.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // utime, stime, and those of children that were waited for, in ticks of 10 ms.
        let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<f64>().ok());
        let ticks: f64 = (11..15).filter_map(ticks).sum();
        let disk_mib = mib(used(directory)?);
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Self {
            cpu_ms: ticks * 10.0,
            disk_mib,
        })
    }
}

fn peak(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .context("no VmHWM")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(mib(kib << 10))
}

/// Bytes that files in a directory take.
fn used(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        // What is there may vanish while it is looked at.
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(bytes)
}
