//! The kernel command line: the daemon's, and what the machine itself implies.

use crate::layout;

/// Before it has ACPI, Linux looks through the legacy PCI ports for chipsets with
/// quirks, 76 exits for a machine that has neither.
const NO_EARLY_PCI: &str = "pci=noearly";

/// The command line with what this machine implies added, NUL terminated.
///
/// All vCPUs are described in the MADT as enabled; `maxcpus` keeps the ones above
/// `boot_vcpus` offline until the agent onlines them. `None` when it gets too long.
#[must_use]
pub fn complete(given: &str, boot_vcpus: u32, max_vcpus: u32) -> Option<Vec<u8>> {
    let given = given.trim();
    // What follows "--" belongs to init.
    let (kernel, init) = given
        .find(" -- ")
        .map_or((given, ""), |at| given.split_at(at));
    let mut line = format!("{kernel} {NO_EARLY_PCI}");
    if boot_vcpus < max_vcpus {
        line.push_str(&format!(" maxcpus={boot_vcpus}"));
    }
    line.push_str(init);
    let mut bytes = line.trim_start().to_owned().into_bytes();
    bytes.push(0);
    (bytes.len() <= layout::CMDLINE_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_vcpus_are_asked_for_before_the_arguments_of_init() {
        let text = |given, boot, max| {
            let bytes = complete(given, boot, max).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(text("quiet", 2, 2), "quiet pci=noearly\0");
        assert_eq!(text("", 2, 2), "pci=noearly\0");
        assert_eq!(text(" quiet ", 1, 4), "quiet pci=noearly maxcpus=1\0");
        assert_eq!(
            text("quiet -- arg", 1, 4),
            "quiet pci=noearly maxcpus=1 -- arg\0"
        );
    }

    #[test]
    fn the_kernels_limit_holds_for_the_whole_line() {
        let fits = 2047 - " pci=noearly".len();
        assert_eq!(complete(&"x".repeat(fits), 1, 1).unwrap().len(), 2048);
        assert_eq!(complete(&"x".repeat(fits + 1), 1, 1), None);
        assert_eq!(complete(&"x".repeat(fits), 1, 2), None);
    }
}
