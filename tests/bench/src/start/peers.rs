//! Other VMMs, booting the same kernel with the same initramfs.
//!
//! The agent in the initramfs connects out to vsock port 2048 when it is ready, as
//! it does under our own VMM: one event, told apart from the VMMs' own notions.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bulkhead_agent_api::{READY_PORT, agent::Ready, ready};
use bulkhead_e2e::node::{PATIENCE, Programs};
use tokio::process::{Child, Command};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use super::{kvm, memory};
use crate::report::Report;

/// What every VMM boots.
pub(crate) struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
    memory_mib: u64,
    dir: PathBuf,
}

impl Guest {
    /// Writes the initramfs that the daemon would.
    pub(crate) fn prepare(programs: &Programs, memory_mib: u64) -> Result<Self> {
        let dir = PathBuf::from("/var/lib/bulkhead-bench");
        std::fs::create_dir_all(&dir)?;
        let agent = std::fs::read(&programs.agent)
            .with_context(|| format!("reading {}", programs.agent.display()))?;
        let initramfs = dir.join("initramfs");
        std::fs::write(&initramfs, bulkhead_sandbox::initramfs::build(&agent))?;
        Ok(Self {
            kernel: programs.kernel.clone(),
            initramfs,
            memory_mib,
            dir,
        })
    }

    fn cmdline(&self) -> String {
        bulkhead_sandbox::cmdline::build(&bulkhead_sandbox::cmdline::CmdlineOptions {
            boot_vcpus: 1,
            console: false,
            extra: "",
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Takes down the figures of a guest that has become ready.
fn record(
    subject: &str,
    child: &Child,
    took: Duration,
    ready: &Ready,
    guest: &Guest,
    report: &mut Report,
) -> Result<()> {
    let pid = child.id().context("the VMM has ended")?;
    let agent = Duration::from_nanos(ready.ready_ns.saturating_sub(ready.main_ns));
    report.add(subject, "exec to agent ready, ms", milliseconds(took));
    report.add(
        subject,
        "exec to init, ms",
        milliseconds(took.saturating_sub(agent)),
    );
    report.add(subject, "guest clock at init, ms", to_ms(ready.main_ns));
    let exits = kvm::exits(pid)?;
    report.add(subject, "exits until ready (KVM)", count(exits.all));
    report.add(subject, "exits to user space (KVM)", count(exits.to_user));
    let resident = memory::of_vmm(pid, guest.memory_mib << 20)?;
    report.add(
        subject,
        "VMM beside guest RAM, KiB",
        count(resident.beside >> 10),
    );
    report.add(
        subject,
        "guest pages touched, KiB",
        count(resident.guest >> 10),
    );
    Ok(())
}

fn to_ms(nanoseconds: u64) -> f64 {
    milliseconds(Duration::from_nanos(nanoseconds))
}

#[allow(clippy::cast_precision_loss)] // counts far below 2^53
fn count(value: u64) -> f64 {
    value as f64
}

async fn end(mut child: Child) -> Result<()> {
    child.start_kill()?;
    child.wait().await?;
    Ok(())
}

/// QEMU's microvm machine with a virtio-pci vsock device.
pub(crate) async fn qemu(qemu: &Path, guest: &Guest, report: &mut Report) -> Result<()> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, READY_PORT))
        .context("listening on vsock (is vhost_vsock loaded?)")?;
    let began = Instant::now();
    let child = Command::new(qemu)
        .args([
            "-M",
            "microvm,accel=kvm,pcie=on,pic=off,pit=off,rtc=off,isa-serial=off",
            // Its default firmware puts ACPI tables where the initramfs goes, and the
            // kernel hangs; this one is QEMU's own minimal one.
            "-bios",
            "qboot.rom",
        ])
        .args([
            "-cpu",
            "host",
            "-smp",
            "1",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(["-m", &guest.memory_mib.to_string()])
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initramfs)
        .args(["-append", &guest.cmdline()])
        .args([
            "-device",
            "vhost-vsock-pci,guest-cid=77",
            "-device",
            "virtio-rng-pci",
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", qemu.display()))?;
    let accept = async {
        let (mut stream, _) = listener.accept().await?;
        anyhow::Ok(ready::read(&mut stream).await?)
    };
    let notice = tokio::time::timeout(PATIENCE, accept)
        .await
        .context("QEMU's guest does not become ready")??;
    let took = began.elapsed();
    record("qemu microvm", &child, took, &notice, guest, report)?;
    end(child).await
}

/// Firecracker with its PCI transport and a vsock device.
pub(crate) async fn firecracker(
    firecracker: &Path,
    guest: &Guest,
    report: &mut Report,
) -> Result<()> {
    let vsock = guest.dir.join("fc.vsock");
    let listener_path = guest.dir.join(format!("fc.vsock_{READY_PORT}"));
    for path in [&vsock, &listener_path] {
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    let listener = tokio::net::UnixListener::bind(&listener_path)?;
    let config = guest.dir.join("fc.json");
    let text = serde_json::json!({
        "boot-source": {
            "kernel_image_path": guest.kernel, "initrd_path": guest.initramfs,
            "boot_args": guest.cmdline(),
        },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": guest.memory_mib },
        "vsock": { "guest_cid": 3, "uds_path": vsock },
        "entropy": {},
    });
    std::fs::write(&config, serde_json::to_vec(&text)?)?;
    let began = Instant::now();
    let child = Command::new(firecracker)
        .args(["--no-api", "--enable-pci", "--config-file"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", firecracker.display()))?;
    let accept = async {
        let (mut stream, _) = listener.accept().await?;
        anyhow::Ok(ready::read(&mut stream).await?)
    };
    let notice = tokio::time::timeout(PATIENCE, accept)
        .await
        .context("Firecracker's guest does not become ready")??;
    let took = began.elapsed();
    record("firecracker", &child, took, &notice, guest, report)?;
    end(child).await
}
