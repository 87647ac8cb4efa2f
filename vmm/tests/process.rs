//! The process as the daemon sees it, as far as that goes without a VM: what it says
//! and leaves behind when it cannot start one.

#![allow(clippy::unwrap_used, reason = "tests may assert by unwrapping")]

use std::{
    fs::{self, File},
    io::{Seek, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::{Command, Output},
};

use bulkhead_vmm_api::{CONFIG_FD_FLAG, EXIT_REPORT, ExitReason, ExitReport, vmm::VmConfig};
use protobuf::Message;

/// Descriptors that the child inherits, and a configuration that names them.
struct Setup {
    dir: tempfile::TempDir,
    kept: Vec<OwnedFd>,
    config: VmConfig,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = Self {
            config: VmConfig::new(),
            kept: Vec::new(),
            dir,
        };
        let socket = UnixListener::bind(setup.dir.path().join("control.sock")).unwrap();
        setup.config.pod_id = "test".into();
        setup.config.boot_vcpus = 1;
        setup.config.memory_bytes = 64 << 20;
        setup.config.run_dir = setup.dir.path().to_string_lossy().into_owned();
        setup.config.control_fd = setup.inherit(socket);
        let kernel = setup.file(&kernel());
        setup.config.kernel_fd = setup.inherit(kernel);
        setup
    }

    fn file(&self, content: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(self.dir.path()).unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn inherit(&mut self, fd: impl Into<OwnedFd>) -> u32 {
        let fd = fd.into();
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
        let number = u32::try_from(fd.as_raw_fd()).unwrap();
        self.kept.push(fd);
        number
    }

    fn run(mut self) -> (Output, Option<ExitReport>) {
        let bytes = self.config.write_to_bytes().unwrap();
        let config = self.file(&bytes);
        let number = self.inherit(config);
        let output = vmm(&[CONFIG_FD_FLAG, &number.to_string()]);
        (output, report(self.dir.path()))
    }
}

fn vmm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulkhead-vmm"))
        .args(arguments)
        .output()
        .unwrap()
}

fn report(dir: &Path) -> Option<ExitReport> {
    serde_json::from_slice(&fs::read(dir.join(EXIT_REPORT)).ok()?).ok()
}

/// An ELF64 program for x86-64 with one segment at 16 MiB.
fn kernel() -> Vec<u8> {
    let mut elf = vec![0u8; 4096];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16..20].copy_from_slice(&[2, 0, 62, 0]);
    elf[24..32].copy_from_slice(&(16u64 << 20).to_le_bytes());
    elf[32..40].copy_from_slice(&64u64.to_le_bytes());
    elf[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
    elf[64..72].copy_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
    let fields = [0, 16 << 20, 16 << 20, 4096, 4096, 4096u64];
    for (at, value) in (72..).step_by(8).zip(fields) {
        elf[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    elf
}

fn status(output: &Output) -> Option<ExitReason> {
    output.status.code().and_then(ExitReason::from_status)
}

#[test]
fn it_is_not_for_use_by_hand() {
    let output = vmm(&[]);
    assert_eq!(status(&output), Some(ExitReason::BadConfig));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"));
    assert_eq!(vmm(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_configuration_that_is_none_is_told_apart() {
    let output = vmm(&[CONFIG_FD_FLAG, "999"]);
    assert_eq!(status(&output), Some(ExitReason::BadConfig));
    assert!(String::from_utf8_lossy(&output.stderr).contains("descriptor 999 is not open"));
    let mut setup = Setup::new();
    let garbage = setup.file(&[0xff; 100]);
    let number = setup.inherit(garbage).to_string();
    let output = vmm(&[CONFIG_FD_FLAG, &number]);
    assert_eq!(status(&output), Some(ExitReason::BadConfig));
    assert!(String::from_utf8_lossy(&output.stderr).contains("VmConfig"));
}

#[test]
fn bad_kernels_and_initramfs_are_reported() {
    let mut setup = Setup::new();
    let bzimage = setup.file(&[b'M'; 4096]);
    setup.config.kernel_fd = setup.inherit(bzimage);
    let (output, report) = setup.run();
    assert_eq!(status(&output), Some(ExitReason::BadConfig));
    let report = report.unwrap();
    assert_eq!(report.reason, "bad-config");
    assert!(report.message.contains("vmlinux"), "{}", report.message);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&report.message));

    let mut setup = Setup::new();
    let huge = setup.file(&[]);
    huge.set_len(1 << 30).unwrap();
    setup.config.initramfs_fd = setup.inherit(huge);
    let (output, report) = setup.run();
    assert_eq!(status(&output), Some(ExitReason::BadConfig));
    assert!(report.unwrap().message.contains("initramfs"));
}

#[test]
fn a_descriptor_that_was_not_passed_is_named() {
    let mut setup = Setup::new();
    setup.config.initramfs_fd = 900;
    let (output, _) = setup.run();
    assert_eq!(status(&output), Some(ExitReason::BadConfig));
    assert!(String::from_utf8_lossy(&output.stderr).contains("descriptor 900"));
}

/// Where the processor cannot run guests: a node that was set up wrongly.
#[test]
fn an_unusable_kvm_is_its_own_status() {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    let capable = flags
        .split_whitespace()
        .any(|flag| matches!(flag, "vmx" | "svm"));
    if capable && Path::new("/dev/kvm").exists() {
        return;
    }
    let (output, report) = Setup::new().run();
    assert_eq!(status(&output), Some(ExitReason::KvmUnusable));
    let report = report.unwrap();
    assert_eq!(report.reason, "kvm-unusable");
    assert!(!report.message.is_empty());
}
