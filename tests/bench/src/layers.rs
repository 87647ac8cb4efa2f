//! The same content in images of few and of many layers: what each layer's disk costs.
//!
//! Each layer is a disk of its own in the guest, and overlayfs stacks them. An image of
//! one layer is what the guest would see if the layers were merged into one disk: the
//! difference to it is the most that merging could save.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_e2e::{
    image::{Archive, Compression, Layer, busybox},
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config},
};
use clap::Args;
use serde_json::json;

use crate::{report::Report, start::ours};

/// Of how many layers the images are.
const LAYERS: [usize; 3] = [1, 10, 60];
/// Their content besides a shell.
const FILES: usize = 1200;
const FILE_BYTES: usize = 16 << 10;

/// What is measured, and how often.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the programs under test are, side by side.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: PathBuf,
    /// Pods of each image, taken in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Memory of each guest, MiB.
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
}

pub(crate) async fn run(options: Options) -> Result<Report> {
    let programs = Programs::in_dir(&options.bin_dir)?;
    let memory_mib = options.memory_mib;
    let mut report = Report::new(format!(
        "{FILES} files of {} KiB, {} runs in turn, {memory_mib} MiB guests",
        FILE_BYTES >> 10,
        options.runs
    ));
    let _disk = Disk::mount()?;
    let extra = format!("memory_mib = {memory_mib}\n");
    let mut node = Node::new(&programs, "layers", &extra)?;
    node.start().await?;
    for layers in LAYERS {
        let archive = image(layers)?;
        node.import(&archive, "image.tar").await?;
    }
    for run in 0..options.runs {
        for layers in LAYERS {
            eprintln!("{layers} layers, run {}", run + 1);
            measure(&node, layers, run, memory_mib, &mut report).await?;
        }
    }
    node.stop().await?;
    Ok(report)
}

/// A file system for the node's state whose page cache can be dropped: the test host's own
/// are in memory.
struct Disk;

const STATE: &str = "/var/lib/bulkhead";
const DISK: &str = "/var/lib/bulkhead.ext4";
const DISK_BYTES: u64 = 2 << 30;

impl Disk {
    fn mount() -> Result<Self> {
        std::fs::create_dir_all(STATE)?;
        std::fs::File::create(DISK)?.set_len(DISK_BYTES)?;
        for command in [
            vec!["mkfs.ext4", "-q", DISK],
            vec!["mount", "-o", "loop", DISK, STATE],
        ] {
            let (program, arguments) = command.split_first().context("no command")?;
            let status = Command::new(program).args(arguments).status()?;
            ensure!(status.success(), "{command:?}: {status}");
        }
        Ok(Self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device of mount(8) ends with the mount.
        let _ = Command::new("umount").args(["--lazy", STATE]).status();
        let _ = std::fs::remove_file(DISK);
    }
}

fn reference(layers: usize) -> String {
    format!("localhost/layers:{layers}")
}

/// The files, dealt out to the layers; a shell in the first.
fn image(layers: usize) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for number in 0..layers {
        let mut layer = match number {
            0 => busybox()?,
            _ => Layer::default(),
        };
        layer = layer.dir("data", 0o755)?;
        for file in (number..FILES).step_by(layers) {
            // No two images share a layer, and no file's pages are another's.
            let content = format!("{layers} {file}\n").repeat(FILE_BYTES);
            let content = content.as_bytes().get(..FILE_BYTES).unwrap_or_default();
            layer = layer.file(&format!("data/{file}"), 0o644, content)?;
        }
        archive = archive.layer(&layer.finish()?, Compression::Plain)?;
    }
    let config = json!({ "Env": ["PATH=/bin"], "Entrypoint": ["/bin/sh", "-c"] });
    archive.finish(&reference(layers), config)
}

/// Two pods of one image after the other, so that the second finds what the first left
/// in the host's page cache.
async fn measure(
    node: &Node,
    layers: usize,
    run: u32,
    memory_mib: u64,
    report: &mut Report,
) -> Result<()> {
    let subject = match layers {
        1 => "1 layer".to_owned(),
        more => format!("{more} layers"),
    };
    let files = layer_files(node)?;
    // As after a boot: nothing of the images is in memory.
    drop_caches()?;
    let none = cached(&files)?;
    ensure!(none < 1024, "{none} KiB of layers are in memory still");
    let mut first = Sample::take(node, layers, &format!("a-{layers}-{run}"), memory_mib).await?;
    let one = cached(&files)?;
    let mut second = Sample::take(node, layers, &format!("b-{layers}-{run}"), memory_mib).await?;
    let two = cached(&files)?;
    let mut add = |what: &str, value: f64| report.add(&subject, what, value);
    for (pod, sample) in [("first pod", &first), ("second pod", &second)] {
        add(
            &format!("{pod}: create and start, ms"),
            milliseconds(sample.start),
        );
        add(
            &format!("{pod}: first read, ms"),
            milliseconds(sample.first_read),
        );
        add(
            &format!("{pod}: read again, ms"),
            milliseconds(sample.second_read),
        );
    }
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    {
        add("guest's kernel and processes, KiB", first.in_use as f64);
        add("VMM beside guest RAM, KiB", first.beside as f64);
        add(
            "host's page cache, first pod, KiB",
            one.saturating_sub(none) as f64,
        );
        add(
            "host's page cache, second pod, KiB",
            two.saturating_sub(one) as f64,
        );
    }
    first.pod.remove().await?;
    second.pod.remove().await.context("removing the second pod")
}

/// One pod of an image.
struct Sample {
    pod: Pod,
    start: Duration,
    first_read: Duration,
    second_read: Duration,
    /// What is neither free nor page cache in the guest, KiB.
    in_use: u64,
    /// Of the VMM, KiB.
    beside: u64,
}

impl Sample {
    async fn take(node: &Node, layers: usize, name: &str, memory_mib: u64) -> Result<Self> {
        let mut pod = Pod::run(node, name).await?;
        let mut config = container_config("c", "echo up; exec sleep 100000");
        if let Some(image) = &mut config.image {
            image.image = reference(layers);
        }
        let began = Instant::now();
        let id = pod.create(config).await?;
        pod.start(&id).await?;
        while pod.log("c").unwrap_or_default().is_empty() {
            ensure!(began.elapsed() < PATIENCE, "the container prints nothing");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = began.elapsed();
        let meminfo = pod.exec(&id, "cat /proc/meminfo").await?.stdout;
        let in_use = in_use(&String::from_utf8_lossy(&meminfo))?;
        let first_read = read(&mut pod, &id).await?;
        let second_read = read(&mut pod, &id).await?;
        let resident = ours::resident(node, &pod.id, memory_mib).await?;
        Ok(Self {
            pod,
            start,
            first_read,
            second_read,
            in_use,
            beside: resident.beside >> 10,
        })
    }
}

/// How long it takes to read every file.
async fn read(pod: &mut Pod, container: &str) -> Result<Duration> {
    let began = Instant::now();
    let answer = pod.exec(container, "cat /data/* | wc -c").await?;
    let took = began.elapsed();
    let bytes = String::from_utf8_lossy(&answer.stdout)
        .trim()
        .parse::<usize>();
    ensure!(bytes == Ok(FILES * FILE_BYTES), "{answer:?}");
    Ok(took)
}

/// From the guest's `/proc/meminfo`, KiB.
fn in_use(meminfo: &str) -> Result<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|it| it.trim().strip_suffix("kB"));
        value
            .and_then(|it| it.trim().parse::<u64>().ok())
            .with_context(|| format!("no {name} in the guest's meminfo"))
    };
    let rest = field("MemFree:")? + field("Buffers:")? + field("Cached:")?;
    Ok(field("MemTotal:")?.saturating_sub(rest))
}

fn layer_files(node: &Node) -> Result<Vec<PathBuf>> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, found)?;
            } else if path.extension().is_some_and(|it| it == "erofs") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(&node.state_dir(), &mut found)?;
    ensure!(
        found.len() == LAYERS.iter().sum::<usize>(),
        "{} layers are stored",
        found.len()
    );
    Ok(found)
}

fn drop_caches() -> Result<()> {
    // What isn't on the disk yet would stay.
    let synced = Command::new("sync").status()?;
    ensure!(synced.success(), "sync: {synced}");
    std::fs::write("/proc/sys/vm/drop_caches", "1").context("dropping the page cache")
}

/// How much of these files is in the host's page cache, KiB, as fincore(1) has it.
fn cached(files: &[PathBuf]) -> Result<u64> {
    let output = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .args(files)
        .output()
        .context("running fincore (Debian package util-linux-extra)")?;
    ensure!(output.status.success(), "fincore: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let mut bytes = 0;
    for line in text.lines() {
        bytes += line.trim().parse::<u64>()?;
    }
    Ok(bytes >> 10)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::in_use;

    #[test]
    fn what_is_in_use_is_neither_free_nor_cache() {
        let meminfo = "MemTotal: 1000 kB\nMemFree:  400 kB\nBuffers: 10 kB\nCached: 90 kB\n";
        assert_eq!(in_use(meminfo).unwrap(), 500);
        assert!(in_use("MemTotal: 1000 kB\n").is_err());
    }
}
