//! The QEMU command line of the test host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::accel::Accel;

/// QEMU's name for the machine's root file system, and the prefix of shares.
pub(crate) const ROOT_TAG: &str = "root";
pub(crate) const SHARE_TAG: &str = "share";

/// The port that `testhost serve` listens on, inside.
pub(crate) const GUEST_PORT: u16 = 1;
/// The test host's address in QEMU's user network.
pub(crate) const GUEST_ADDRESS: &str = "10.0.2.15";

/// Everything that shapes one test host.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) accel: Accel,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Receives all that the kernel and its init say.
    pub(crate) console: PathBuf,
    /// On 127.0.0.1; leads to [`GUEST_PORT`].
    pub(crate) port: u16,
    /// Directories of this machine that are writable in the test host, under
    /// the same path.
    pub(crate) shares: Vec<PathBuf>,
}

/// The emulated processor: all there is, but for what is slow in software and means nothing
/// to the tests. Kernel and libc copy byte by byte where a processor says that it is fast
/// at that (erms, fsrm): nine times slower here. smap and pku change the address space with
/// each access to a process's memory, and la57 makes each walk of page tables longer.
const EMULATED_CPU: &str = "max,-erms,-fsrm,-smap,-pku,-umip,-la57";

impl Machine {
    /// Arguments for `qemu-system-x86_64`.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| {
            arguments.push(option.into());
            arguments.push(value);
        };

        let (accel, cpu) = match self.accel {
            Accel::Kvm => ("kvm", "host"),
            // SVM is part of `max`: KVM works inside, in software.
            Accel::Tcg => ("tcg,thread=multi", EMULATED_CPU),
        };
        add("-machine", "q35,vmport=off,usb=off".into());
        add("-accel", accel.into());
        add("-cpu", cpu.into());
        add("-smp", self.cpus.to_string().into());
        add("-m", self.memory_mib.to_string().into());

        add("-kernel", self.kernel.clone().into());
        add("-initrd", self.initramfs.clone().into());
        // A panic ends QEMU instead of leaving it to the timeout.
        add(
            "-append",
            "console=ttyS0 panic=-1 quiet cgroup_no_v1=all mitigations=off".into(),
        );
        add("-serial", prefixed("file:", &self.console));
        add("-display", "none".into());
        add("-vga", "none".into());
        add("-monitor", "none".into());

        add("-device", "virtio-rng-pci".into());
        // No way out: tests that need an outside build one for themselves.
        let forward = format!(
            "user,id=control,restrict=on,hostfwd=tcp:127.0.0.1:{}-{GUEST_ADDRESS}:{GUEST_PORT}",
            self.port
        );
        add("-netdev", forward.into());
        add("-device", "virtio-net-pci,netdev=control,romfile=".into());

        add("-virtfs", export(Path::new("/"), ROOT_TAG, ",readonly=on"));
        for (index, share) in self.shares.iter().enumerate() {
            add("-virtfs", export(share, &format!("{SHARE_TAG}{index}"), ""));
        }

        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            arguments.push(flag.into());
        }
        arguments
    }
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut value = OsString::from(prefix);
    value.push(escaped(path));
    value
}

fn export(path: &Path, tag: &str, more: &str) -> OsString {
    let mut value = OsString::from("local,path=");
    value.push(escaped(path));
    value.push(format!(
        ",mount_tag={tag},security_model=none,multidevs=remap{more}"
    ));
    value
}

/// QEMU's options end at a comma; two commas are a comma.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accel: Accel::Tcg,
            cpus: 2,
            memory_mib: 6144,
            kernel: "/k/vmlinuz".into(),
            initramfs: "/s/initramfs".into(),
            console: "/s/console.log".into(),
            port: 4711,
            shares: vec!["/out/a,b".into()],
        }
    }

    fn line(machine: &Machine) -> String {
        let words: Vec<_> = machine
            .arguments()
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    }

    #[test]
    fn software_emulation_offers_svm() {
        let line = line(&machine());
        assert!(
            line.contains("-accel tcg,thread=multi -cpu max,-erms")
                && line.contains("-smp 2 -m 6144"),
            "{line}"
        );
    }

    #[test]
    fn hardware_passes_the_processor_on() {
        let line = line(&Machine {
            accel: Accel::Kvm,
            ..machine()
        });
        assert!(line.contains("-accel kvm -cpu host"), "{line}");
    }

    #[test]
    fn the_root_is_read_only_and_shares_are_not() {
        let line = line(&machine());
        assert!(
            line.contains(
                "local,path=/,mount_tag=root,security_model=none,multidevs=remap,readonly=on"
            ),
            "{line}"
        );
        assert!(
            line.contains("local,path=/out/a,,b,mount_tag=share0,security_model=none,multidevs=remap -nodefaults"),
            "{line}"
        );
    }

    #[test]
    fn only_this_machine_reaches_the_port() {
        let line = line(&machine());
        assert!(
            line.contains("restrict=on,hostfwd=tcp:127.0.0.1:4711-10.0.2.15:1"),
            "{line}"
        );
    }
}
