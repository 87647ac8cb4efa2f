//! Wire contract between the node daemon and `bulkhead-vmm`.
//!
//! A VMM process is given its whole configuration at exec, as one serialised
//! [`vmm::VmConfig`] on an inherited file descriptor, so that no round trip
//! stands between exec and the first guest instruction. Afterwards it answers
//! the `Vmm` ttrpc service on the listening socket that the configuration names.
#![deny(unsafe_code)]

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    rustdoc::all
)] // generated code
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}
pub use generated::{vmm, vmm_ttrpc};

/// Environment-free way to pass the configuration: `bulkhead-vmm --config-fd N`.
pub const CONFIG_FD_FLAG: &str = "--config-fd";
/// Largest serialised [`vmm::VmConfig`] accepted, in bytes.
pub const MAX_CONFIG_LEN: u64 = 1 << 20;
/// Name of the exit report in the VMM's run directory: JSON.
pub const EXIT_REPORT: &str = "exit.json";

/// Why a VMM process ended: its exit status, and `reason` in the exit report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitReason {
    /// The guest powered itself off (ACPI S5).
    Shutdown = 0,
    /// The VMM failed: a host error, a bug.
    Internal = 1,
    /// The configuration could not be used.
    BadConfig = 2,
    /// /dev/kvm is missing, forbidden, or cannot run this guest.
    KvmUnusable = 3,
    /// The guest asked for a reset (reset register, triple fault).
    Reset = 10,
    /// The guest kernel panicked.
    GuestPanic = 11,
    /// The daemon asked the VMM to stop.
    Stopped = 12,
}

impl ExitReason {
    /// The reason behind a process exit status, if it is one of ours.
    #[must_use]
    pub fn from_status(status: i32) -> Option<Self> {
        Some(match status {
            0 => Self::Shutdown,
            1 => Self::Internal,
            2 => Self::BadConfig,
            3 => Self::KvmUnusable,
            10 => Self::Reset,
            11 => Self::GuestPanic,
            12 => Self::Stopped,
            _ => return None,
        })
    }

    /// The name in exit reports, logs and CRI messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Internal => "internal-error",
            Self::BadConfig => "bad-config",
            Self::KvmUnusable => "kvm-unusable",
            Self::Reset => "reset",
            Self::GuestPanic => "guest-panic",
            Self::Stopped => "stopped",
        }
    }
}

/// What a VMM leaves in [`EXIT_REPORT`] as its last act, as one JSON object. The
/// file may be missing (a VMM that was killed); readers bound its size and
/// believe nothing in it beyond what it says about its own VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ExitReport {
    /// [`ExitReason::as_str`].
    pub reason: String,
    /// For an operator: what happened, in a sentence.
    pub message: String,
    /// The end of the guest's console, at most [`MAX_CONSOLE_TAIL`] bytes,
    /// invalid UTF-8 replaced. Empty without a console.
    pub console: String,
    /// Exits to user space, by reason.
    pub exits: std::collections::BTreeMap<String, u64>,
}

/// Most bytes of the guest's console that are kept for its last words.
pub const MAX_CONSOLE_TAIL: usize = 64 << 10;
/// Most bytes of an exit report: the console's tail with every byte escaped.
pub const MAX_EXIT_REPORT: u64 = 512 << 10;

#[cfg(test)]
mod tests {
    use super::ExitReason;

    #[test]
    fn every_reason_survives_the_exit_status() {
        for status in 0..=255 {
            if let Some(reason) = ExitReason::from_status(status) {
                assert_eq!(reason as i32, status);
                assert!(!reason.as_str().is_empty());
            }
        }
        assert_eq!(ExitReason::from_status(137), None);
    }
}
