//! The configuration: from [`VmConfig`] bytes to checked values.
//!
//! Parsing is pure. Descriptors are still numbers here ([`Fd`]); `descriptors` turns
//! them into owned ones.

use std::{collections::BTreeSet, path::PathBuf};

use bulkhead_vmm_api::vmm::VmConfig;
use protobuf::Message;

use crate::layout;

/// Longest virtio-blk serial, in bytes (virtio 1.3, section 5.2.6).
pub const MAX_SERIAL: usize = 20;
/// Most devices of one VM: all functions of PCI devices 1 to 31.
pub const MAX_DEVICES: usize = 31 * 8;
/// Most queues of one disk.
pub const MAX_DISK_QUEUES: u32 = 8;
/// Longest pod id, in bytes.
const MAX_POD_ID: usize = 128;

/// The number of an inherited descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fd(pub i32);

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a serialised `VmConfig`.
    #[error("the configuration is not a VmConfig: {0}")]
    Decode(#[from] protobuf::Error),
    /// One field is wrong.
    #[error("configuration field {field}: {reason}")]
    Field {
        /// The field's name in vmm.proto.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For logs only.
    pub pod_id: String,
    /// vCPUs that the guest brings up itself.
    pub boot_vcpus: u32,
    /// vCPUs that are described to the guest.
    pub max_vcpus: u32,
    /// RAM, in bytes: whole pages, between the layout's bounds.
    pub memory_bytes: u64,
    /// The vmlinux.
    pub kernel: Fd,
    /// The initramfs.
    pub initramfs: Option<Fd>,
    /// The kernel's command line as given.
    pub cmdline: String,
    /// Disks, in order.
    pub disks: Vec<Disk>,
    /// Network cards, in order.
    pub nets: Vec<Net>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Whether there is a console.
    pub console: bool,
    /// Whether port 0x3f8 takes debug output.
    pub debug_serial: bool,
    /// Listening socket of the control service.
    pub control: Fd,
    /// Listening socket on which descriptors are handed over.
    pub handover: Option<Fd>,
    /// The process's new root, where the exit report goes.
    pub run_dir: PathBuf,
    /// Whom to become; `None` runs unconfined.
    pub confinement: Option<Confinement>,
    /// cgroup.procs of the pod's cgroup.
    pub cgroup_procs: Option<Fd>,
    /// CLOCK_MONOTONIC of the spawn, in nanoseconds; 0 if unknown.
    pub spawn_monotonic_ns: u64,
}

/// Whom to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// User id, not 0.
    pub uid: u32,
    /// Group id, not 0.
    pub gid: u32,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Serial, ASCII, 1 to 20 bytes, unique in the VM.
    pub serial: String,
    /// The backing file or block device.
    pub file: Fd,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the contents die with the VM.
    pub ephemeral: bool,
    /// Request queues, 1 to [`MAX_DISK_QUEUES`].
    pub queues: u16,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// The tap.
    pub tap: Fd,
    /// The card's address.
    pub mac: [u8; 6],
    /// MTU told to the guest, in bytes.
    pub mtu: u16,
}

/// The socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    /// The guest's context id.
    pub guest_cid: u32,
    /// Listening socket for connections into the guest.
    pub listener: Fd,
    /// File name prefix of the sockets that guest connections go to, in the run directory.
    pub uds_prefix: String,
}

impl Config {
    /// Parses and checks a serialised configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and what would be right.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::check(VmConfig::parse_from_bytes(bytes)?)
    }

    fn check(wire: VmConfig) -> Result<Self, ConfigError> {
        let mut fds = Fds::default();
        check_pod_id(&wire.pod_id)?;
        check_vcpus(wire.boot_vcpus, wire.max_vcpus)?;
        check_memory(wire.memory_bytes)?;
        check_cmdline(&wire.cmdline)?;
        let run_dir = PathBuf::from(&wire.run_dir);
        if !run_dir.is_absolute() || wire.run_dir.contains('\0') {
            return Err(field("run_dir", "must be an absolute path"));
        }
        let confinement = match wire.confinement.as_ref().filter(|c| c.enabled) {
            None => None,
            Some(c) if c.uid == 0 || c.gid == 0 => {
                return Err(field("confinement", "uid and gid must not be 0"));
            }
            Some(c) => Some(Confinement {
                uid: c.uid,
                gid: c.gid,
            }),
        };
        let disks = wire
            .disks
            .iter()
            .map(|disk| {
                Ok(Disk {
                    serial: check_serial(&disk.serial)?,
                    file: fds.required("disks.fd", disk.fd)?,
                    read_only: disk.read_only,
                    ephemeral: disk.ephemeral,
                    queues: check_queues(disk.queues)?,
                })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let nets = wire
            .nets
            .iter()
            .map(|net| {
                Ok(Net {
                    tap: fds.required("nets.tap_fd", net.tap_fd)?,
                    mac: parse_mac(&net.mac)?,
                    mtu: check_mtu(net.mtu)?,
                })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let vsock = wire
            .vsock
            .as_ref()
            .map(|vsock| {
                Ok::<_, ConfigError>(Vsock {
                    guest_cid: check_cid(vsock.guest_cid)?,
                    listener: fds.required("vsock.listen_fd", vsock.listen_fd)?,
                    uds_prefix: check_prefix(&vsock.uds_prefix)?,
                })
            })
            .transpose()?;
        let config = Self {
            pod_id: wire.pod_id,
            boot_vcpus: wire.boot_vcpus,
            max_vcpus: wire.max_vcpus.max(wire.boot_vcpus),
            memory_bytes: wire.memory_bytes,
            kernel: fds.required("kernel_fd", wire.kernel_fd)?,
            initramfs: fds.optional("initramfs_fd", wire.initramfs_fd)?,
            cmdline: wire.cmdline,
            disks,
            nets,
            vsock,
            rng: wire.rng,
            console: wire.console,
            debug_serial: wire.debug_serial,
            control: fds.required("control_fd", wire.control_fd)?,
            handover: fds.optional("handover_fd", wire.handover_fd)?,
            run_dir,
            confinement,
            cgroup_procs: fds.optional("cgroup_procs_fd", wire.cgroup_procs_fd)?,
            spawn_monotonic_ns: wire.spawn_monotonic_ns,
        };
        config.check_devices()?;
        Ok(config)
    }

    fn check_devices(&self) -> Result<(), ConfigError> {
        let count = self.disks.len()
            + self.nets.len()
            + usize::from(self.vsock.is_some())
            + usize::from(self.rng)
            + usize::from(self.console);
        if count > MAX_DEVICES {
            return Err(field(
                "disks",
                format!("{count} devices, at most {MAX_DEVICES} fit on the bus"),
            ));
        }
        let serials: BTreeSet<_> = self.disks.iter().map(|disk| &disk.serial).collect();
        if serials.len() != self.disks.len() {
            return Err(field("disks.serial", "two disks have the same serial"));
        }
        Ok(())
    }

    /// Every descriptor that the configuration names.
    #[must_use]
    pub fn fds(&self) -> Vec<Fd> {
        let mut fds = vec![self.kernel, self.control];
        fds.extend(self.initramfs);
        fds.extend(self.handover);
        fds.extend(self.cgroup_procs);
        fds.extend(self.disks.iter().map(|disk| disk.file));
        fds.extend(self.nets.iter().map(|net| net.tap));
        fds.extend(self.vsock.iter().map(|vsock| vsock.listener));
        fds
    }
}

/// The descriptor numbers seen so far: each may be named once.
#[derive(Default)]
struct Fds(BTreeSet<i32>);

impl Fds {
    fn required(&mut self, name: &'static str, fd: u32) -> Result<Fd, ConfigError> {
        self.optional(name, fd)?
            .ok_or_else(|| field(name, "must be given"))
    }

    fn optional(&mut self, name: &'static str, fd: u32) -> Result<Option<Fd>, ConfigError> {
        match i32::try_from(fd) {
            Ok(0) => Ok(None),
            Ok(1 | 2) | Err(_) => Err(field(name, format!("{fd} is no descriptor to pass"))),
            Ok(number) if !self.0.insert(number) => {
                Err(field(name, format!("descriptor {fd} is named twice")))
            }
            Ok(number) => Ok(Some(Fd(number))),
        }
    }
}

fn field(field: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Field {
        field,
        reason: reason.into(),
    }
}

fn check_pod_id(id: &str) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.len() > MAX_POD_ID || !id.chars().all(plain) {
        return Err(field(
            "pod_id",
            format!("must be at most {MAX_POD_ID} of A-Z a-z 0-9 - _ ."),
        ));
    }
    Ok(())
}

fn check_vcpus(boot: u32, max: u32) -> Result<(), ConfigError> {
    let most = layout::MAX_VCPUS;
    if boot == 0 || boot > most {
        return Err(field(
            "boot_vcpus",
            format!("{boot} is not within 1..={most}"),
        ));
    }
    if max != 0 && !(boot..=most).contains(&max) {
        return Err(field(
            "max_vcpus",
            format!("{max} is not within {boot}..={most}"),
        ));
    }
    Ok(())
}

fn check_memory(bytes: u64) -> Result<(), ConfigError> {
    let (least, most) = (layout::MIN_MEMORY, layout::MAX_MEMORY);
    if !(least..=most).contains(&bytes) || !bytes.is_multiple_of(layout::PAGE) {
        return Err(field(
            "memory_bytes",
            format!("{bytes} is not a whole number of pages within {least}..={most}"),
        ));
    }
    Ok(())
}

fn check_cmdline(cmdline: &str) -> Result<(), ConfigError> {
    let printable = cmdline.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !printable || cmdline.len() >= layout::CMDLINE_MAX {
        return Err(field(
            "cmdline",
            format!(
                "must be printable ASCII, shorter than {} bytes",
                layout::CMDLINE_MAX
            ),
        ));
    }
    Ok(())
}

/// Checks a disk's serial.
///
/// # Errors
/// When it is not 1 to 20 bytes of printable ASCII.
pub fn check_serial(serial: &str) -> Result<String, ConfigError> {
    let printable = serial.bytes().all(|b| b.is_ascii_graphic());
    if serial.is_empty() || serial.len() > MAX_SERIAL || !printable {
        return Err(field(
            "disks.serial",
            format!("must be 1 to {MAX_SERIAL} printable ASCII characters"),
        ));
    }
    Ok(serial.to_owned())
}

/// Checks a disk's number of queues; 0 stands for 1.
///
/// # Errors
/// When it is above [`MAX_DISK_QUEUES`].
pub fn check_queues(queues: u32) -> Result<u16, ConfigError> {
    match u16::try_from(queues.max(1)) {
        Ok(number) if queues <= MAX_DISK_QUEUES => Ok(number),
        _ => Err(field(
            "disks.queues",
            format!("{queues} is more than {MAX_DISK_QUEUES}"),
        )),
    }
}

fn check_mtu(mtu: u32) -> Result<u16, ConfigError> {
    // RFC 791 asks for 68; 65535 is all that a 16 bit field can tell.
    match u16::try_from(mtu) {
        Ok(mtu) if mtu >= 68 => Ok(mtu),
        _ => Err(field("nets.mtu", format!("{mtu} is not within 68..=65535"))),
    }
}

fn check_cid(cid: u32) -> Result<u32, ConfigError> {
    // 0 to 2 are the hypervisor, the loopback and the host; u32::MAX is "any".
    if cid < 3 || cid == u32::MAX {
        return Err(field("vsock.guest_cid", "must be 3 or more"));
    }
    Ok(cid)
}

fn check_prefix(prefix: &str) -> Result<String, ConfigError> {
    let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // A unix socket's path holds 108 bytes; the port adds up to 11.
    if prefix.is_empty()
        || prefix.len() > 64
        || prefix.starts_with('.')
        || !prefix.chars().all(name)
    {
        return Err(field(
            "vsock.uds_prefix",
            "must be a file name of at most 64 of A-Z a-z 0-9 - _ .",
        ));
    }
    Ok(prefix.to_owned())
}

fn parse_mac(text: &str) -> Result<[u8; 6], ConfigError> {
    let wrong = || field("nets.mac", format!("{text:?} is not a unicast MAC address"));
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let digits = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
        let part = parts.next().filter(digits).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    let multicast = mac[0] & 1 != 0;
    if parts.next().is_some() || multicast || mac == [0; 6] {
        return Err(wrong());
    }
    Ok(mac)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
