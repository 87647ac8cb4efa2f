//! Whether this host's KVM runs guests.
//!
//! That `/dev/kvm` opens says little: a kernel that offers KVM without the
//! processor's virtualization (`kvm-pvm`, on machines that are virtual themselves)
//! opens, answers, and even runs small guests, but a stock kernel dies in it. So the
//! processor's flags are looked at, then KVM's version and capabilities, and then a
//! guest of a few instructions is run (`guest`): in 64-bit mode, through page
//! tables, an interrupt gate and back.

use std::fmt;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use kvm_ioctls::{Cap, Kvm};

use super::guest;

const DEVICE: &str = "/dev/kvm";
/// The only version that there ever was since 2007 (`Documentation/virt/kvm/api.rst` §4.1).
const API_VERSION: i32 = 12;

/// Capabilities that the VMM is built on.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "user memory"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::SplitIrqchip, "split interrupt controller"),
    (Cap::ImmediateExit, "immediate exit"),
];

/// What a usable KVM is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmFacts {
    /// The processor's extension: "Intel VT-x" or "AMD SVM".
    pub extension: &'static str,
    /// How long the small guest took, from the opened device to its last instruction.
    pub guest_took: Duration,
}

impl fmt::Display for KvmFacts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.guest_took.as_micros();
        write!(out, "{}, a 64-bit guest ran in {micros} µs", self.extension)
    }
}

/// Why KVM is unusable.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no device.
    #[error("there is no {DEVICE}")]
    Missing,
    /// The device can't be opened.
    #[error("cannot open {DEVICE}: {0}")]
    Open(io::Error),
    /// Something answers that isn't KVM as we know it.
    #[error("{DEVICE} answers with API version {0}, not 12: it is no KVM")]
    Version(i32),
    /// The processor has no virtualization that a stock guest kernel could use.
    #[error(
        "{DEVICE} is there, but the processor has neither VT-x (vmx) nor SVM (svm): stock guest \
         kernels die in such a KVM"
    )]
    NoExtension,
    /// The kernel's KVM is too old or too small.
    #[error("{DEVICE} lacks {0}")]
    Capability(&'static str),
    /// The small guest didn't run as it should.
    #[error("{DEVICE} cannot run a guest: {0}")]
    Guest(#[from] guest::GuestError),
}

impl KvmError {
    /// What the operator does about it.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Missing => {
                "switch virtualization on in the firmware and load the module: `modprobe \
                 kvm_intel` or `modprobe kvm_amd`; on a virtual machine, ask for nested \
                 virtualization"
            }
            Self::Open(_) => "run as root, or give the user access: `usermod -aG kvm USER`",
            Self::Version(_) => "find out what is at /dev/kvm: `ls -l /dev/kvm` should say 10, 232",
            Self::NoExtension => {
                "use a machine with hardware virtualization; on a virtual machine, ask for nested \
                 virtualization"
            }
            Self::Capability(_) => "use a newer kernel: 5.15 or later",
            Self::Guest(_) => {
                "look into `dmesg` for KVM's reason; on a virtual machine, ask for nested \
                 virtualization"
            }
        }
    }
}

/// Tries KVM. Takes some milliseconds; at most five seconds on a KVM that hangs.
///
/// # Errors
/// [`KvmError`], whose text fits the `RuntimeReady` condition.
pub fn probe() -> Result<KvmFacts, KvmError> {
    let kvm = open()?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::Version(version));
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let extension = extension(&cpuinfo).ok_or(KvmError::NoExtension)?;
    for (capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(KvmError::Capability(name));
        }
    }
    let began = Instant::now();
    guest::run(kvm)?;
    Ok(KvmFacts {
        extension,
        guest_took: began.elapsed(),
    })
}

fn open() -> Result<Kvm, KvmError> {
    Kvm::new().map_err(|errno| match io::Error::from(errno) {
        error if error.kind() == io::ErrorKind::NotFound => KvmError::Missing,
        error => KvmError::Open(error),
    })
}

/// The virtualization extension that the processor says it has.
fn extension(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))?;
    flags.split_ascii_whitespace().find_map(|flag| match flag {
        "vmx" => Some("Intel VT-x"),
        "svm" => Some("AMD SVM"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_a_flag_of_its_own() {
        let with = |flags: &str| format!("processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre\n");
        assert_eq!(extension(&with("fpu vmx sse2")), Some("Intel VT-x"));
        assert_eq!(extension(&with("fpu svm sse2")), Some("AMD SVM"));
        assert_eq!(extension(&with("fpu vmx_not svm_lock")), None);
        assert_eq!(extension("vmx flags: of another kind"), None);
        assert_eq!(extension(""), None);
    }

    #[test]
    fn a_kvm_without_the_processors_help_is_refused() {
        // Whatever this machine has: without the flags, the answer is never yes.
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
        match probe() {
            Ok(facts) => assert_eq!(Some(facts.extension), extension(&cpuinfo)),
            Err(error) => assert!(!error.mend().is_empty(), "{error}"),
        }
    }
}
