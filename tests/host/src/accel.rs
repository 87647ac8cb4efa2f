//! Hardware or software?
//!
//! A device node proves nothing: there are hosts whose `/dev/kvm` opens, answers
//! and makes virtual machines, and yet no stock kernel boots in them. So three
//! questions are asked, the cheap ones first: does the processor have VT-x or
//! SVM, may guests have it too (tests run microVMs inside the test host), and
//! does a tiny 64-bit guest really run?

use std::fmt;
use std::fs;

use anyhow::{Result, bail};

use crate::probe;

/// How QEMU runs the test host's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    Kvm,
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "hardware KVM",
            Self::Tcg => "software emulation",
        })
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wish {
    /// Hardware where it works.
    Auto,
    /// Hardware, or an error.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// Decides, and says why in words.
///
/// # Errors
/// Hardware was demanded and is not usable.
pub(crate) fn choose(wish: Wish) -> Result<(Accel, String)> {
    if wish == Wish::Tcg {
        return Ok((Accel::Tcg, "asked for".into()));
    }
    match usable() {
        Ok(()) => Ok((Accel::Kvm, "a 64-bit guest ran on /dev/kvm".into())),
        Err(reason) if wish == Wish::Kvm => bail!("hardware KVM is not usable here: {reason}"),
        Err(reason) => Ok((Accel::Tcg, reason)),
    }
}

fn usable() -> Result<(), String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").map_err(|e| format!("/proc/cpuinfo: {e}"))?;
    let module = vendor_module(&cpuinfo).ok_or("the processor has neither VT-x nor SVM")?;
    let parameter = format!("/sys/module/{module}/parameters/nested");
    let nested = fs::read_to_string(&parameter).map_err(|e| format!("{parameter}: {e}"))?;
    if !is_on(&nested) {
        return Err(format!("nested virtualisation is off ({parameter})"));
    }
    probe::run_guest()
}

/// The KVM module for the processor that `/proc/cpuinfo` describes.
fn vendor_module(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let has = |wanted| flags.split_whitespace().any(|flag| flag == wanted);
    if has("vmx") {
        Some("kvm_intel")
    } else if has("svm") {
        Some("kvm_amd")
    } else {
        None
    }
}

fn is_on(parameter: &str) -> bool {
    matches!(parameter.trim(), "Y" | "y" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_the_module() {
        assert_eq!(
            vendor_module("processor : 0\nflags\t\t: fpu vmx sse\n"),
            Some("kvm_intel")
        );
        assert_eq!(vendor_module("flags\t\t: fpu svm\n"), Some("kvm_amd"));
        assert_eq!(vendor_module("flags\t\t: fpu svm_lock hypervisor\n"), None);
        assert_eq!(vendor_module(""), None);
    }

    #[test]
    fn parameters_are_read_in_both_spellings() {
        assert!(is_on("Y\n") && is_on("1\n"));
        assert!(!is_on("N\n") && !is_on("0\n") && !is_on(""));
    }

    #[test]
    fn software_can_always_be_asked_for() {
        assert_eq!(choose(Wish::Tcg).unwrap().0, Accel::Tcg);
    }
}
