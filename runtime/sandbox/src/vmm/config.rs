//! A VMM's configuration: the message, and the descriptors that it names.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use bulkhead_agent_api::GUEST_CID;
use bulkhead_vmm_api::{MAX_CONFIG_LEN, vmm};
use protobuf::Message as _;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::paths::VSOCK_PREFIX;

/// Everything a VMM is started with; each descriptor is close-on-exec here and
/// is inherited under the same number.
#[derive(Debug)]
pub struct VmmInputs {
    /// The pod.
    pub pod_id: String,
    /// CPUs online at boot.
    pub boot_vcpus: u32,
    /// CPUs described.
    pub max_vcpus: u32,
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// vmlinux.
    pub kernel: OwnedFd,
    /// cpio archive.
    pub initramfs: OwnedFd,
    /// Kernel command line.
    pub cmdline: String,
    /// The scratch disk, read-write, under this serial.
    pub scratch: (String, OwnedFd),
    /// Taps with the guest's MAC address and MTU.
    pub taps: Vec<(OwnedFd, [u8; 6], u32)>,
    /// Whether the guest has a console.
    pub console: bool,
    /// Listening sockets: control, handover, vsock.
    pub control: OwnedFd,
    /// See `control`.
    pub handover: OwnedFd,
    /// See `control`.
    pub vsock: OwnedFd,
    /// The VMM's directory, absolute.
    pub run_dir: PathBuf,
    /// `Some(uid)`: confined under this uid and gid.
    pub confine: Option<u32>,
    /// CLOCK_MONOTONIC at the beginning of the start, ns.
    pub spawn_monotonic_ns: u64,
}

/// The message for `inputs`, and the descriptors to inherit.
///
/// # Errors
/// When a descriptor number is 0 to 2 (the daemon was started without stdio), or
/// the directory's path is not UTF-8.
pub fn build(inputs: VmmInputs) -> io::Result<(vmm::VmConfig, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut pass = |fd: OwnedFd| -> io::Result<u32> {
        let number = u32::try_from(fd.as_raw_fd()).unwrap_or(0);
        if number <= 2 {
            return Err(io::Error::other(
                "the daemon runs without stdin, stdout or stderr open",
            ));
        }
        fds.push(fd);
        Ok(number)
    };
    let run_dir = inputs
        .run_dir
        .to_str()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "run directory is not UTF-8"))?;
    let mut config = vmm::VmConfig {
        pod_id: inputs.pod_id,
        boot_vcpus: inputs.boot_vcpus,
        max_vcpus: inputs.max_vcpus,
        memory_bytes: inputs.memory_bytes,
        kernel_fd: pass(inputs.kernel)?,
        initramfs_fd: pass(inputs.initramfs)?,
        cmdline: inputs.cmdline,
        rng: true,
        console: inputs.console,
        control_fd: pass(inputs.control)?,
        handover_fd: pass(inputs.handover)?,
        run_dir: run_dir.to_owned(),
        spawn_monotonic_ns: inputs.spawn_monotonic_ns,
        ..Default::default()
    };
    config.disks.push(vmm::Disk {
        serial: inputs.scratch.0,
        fd: pass(inputs.scratch.1)?,
        read_only: false,
        // It has no name any more: nobody reads it after the VM.
        ephemeral: true,
        ..Default::default()
    });
    for (tap, mac, mtu) in inputs.taps {
        config.nets.push(vmm::Net {
            tap_fd: pass(tap)?,
            mac: mac_text(mac),
            mtu,
            ..Default::default()
        });
    }
    config.vsock = Some(vmm::Vsock {
        guest_cid: GUEST_CID,
        listen_fd: pass(inputs.vsock)?,
        uds_prefix: VSOCK_PREFIX.to_owned(),
        ..Default::default()
    })
    .into();
    config.confinement = Some(vmm::Confinement {
        enabled: inputs.confine.is_some(),
        uid: inputs.confine.unwrap_or(0),
        gid: inputs.confine.unwrap_or(0),
        ..Default::default()
    })
    .into();
    // No cgroup_procs_fd: the child is in its cgroup before it execs the VMM.
    Ok((config, fds))
}

/// The configuration in a sealed memfd, at its beginning.
///
/// # Errors
/// When it is larger than [`MAX_CONFIG_LEN`], or memory is short.
pub fn into_memfd(config: &vmm::VmConfig) -> io::Result<OwnedFd> {
    let bytes = config.write_to_bytes().map_err(io::Error::other)?;
    if bytes.len() as u64 > MAX_CONFIG_LEN {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the VM's configuration is larger than 1 MiB",
        ));
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("vm-config", flags)?);
    file.write_all(&bytes)?;
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// `aa:bb:cc:dd:ee:ff`.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn every_descriptor_that_is_named_is_passed_and_no_other() {
        let inputs = VmmInputs {
            pod_id: "p1".into(),
            boot_vcpus: 1,
            max_vcpus: 4,
            memory_bytes: 128 << 20,
            kernel: null(),
            initramfs: null(),
            cmdline: "quiet".into(),
            scratch: ("scratch".into(), null()),
            taps: vec![(null(), [2, 0, 0, 0, 0, 0xab], 1500)],
            console: false,
            control: null(),
            handover: null(),
            vsock: null(),
            run_dir: "/run/bulkhead/pods/p1/vm".into(),
            confine: Some(70_000),
            spawn_monotonic_ns: 1,
        };
        let (config, fds) = build(inputs).unwrap();
        let mut named = vec![
            config.kernel_fd,
            config.initramfs_fd,
            config.control_fd,
            config.handover_fd,
            config.vsock.listen_fd,
            config.disks[0].fd,
            config.nets[0].tap_fd,
        ];
        named.sort_unstable();
        let mut passed: Vec<u32> = fds
            .iter()
            .map(|fd| u32::try_from(fd.as_raw_fd()).unwrap())
            .collect();
        passed.sort_unstable();
        assert_eq!(named, passed);
        assert_eq!(config.nets[0].mac, "02:00:00:00:00:ab");
        assert!(config.confinement.enabled);

        let mut file = File::from(into_memfd(&config).unwrap());
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(vmm::VmConfig::parse_from_bytes(&bytes).unwrap(), config);
        assert!(file.write_all(b"x").is_err(), "sealed");
    }
}
