//! The kernel command line: the daemon's, and what the machine itself implies.

use crate::layout;

/// The command line with what this machine needs appended, NUL terminated.
///
/// All vCPUs are described in the MADT as enabled; `maxcpus` keeps the ones above
/// `boot_vcpus` offline until the agent onlines them. `None` when it gets too long.
#[must_use]
pub fn complete(given: &str, boot_vcpus: u32, max_vcpus: u32) -> Option<Vec<u8>> {
    let mut line = given.trim().to_owned();
    if boot_vcpus < max_vcpus {
        // Before any "--": what follows belongs to init.
        let at = line.find(" -- ").unwrap_or(line.len());
        line.insert_str(at, &format!(" maxcpus={boot_vcpus}"));
    }
    let mut bytes = line.into_bytes();
    bytes.push(0);
    (bytes.len() <= layout::CMDLINE_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_vcpus_are_asked_for_before_the_arguments_of_init() {
        assert_eq!(complete("quiet", 2, 2).unwrap(), b"quiet\0");
        assert_eq!(complete(" quiet ", 1, 4).unwrap(), b"quiet maxcpus=1\0");
        assert_eq!(
            complete("quiet -- arg", 1, 4).unwrap(),
            b"quiet maxcpus=1 -- arg\0"
        );
        assert_eq!(complete(&"x".repeat(2047), 1, 1).unwrap().len(), 2048);
        assert_eq!(complete(&"x".repeat(2047), 1, 2), None);
    }
}
