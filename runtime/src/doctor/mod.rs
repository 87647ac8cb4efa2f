//! `bulkhead doctor`: what this host has, what it lacks, and how to mend it.
//!
//! Each check tries the thing itself rather than look for signs of it: a guest is
//! run, the packet filter's rules are applied (in a network namespace of their own),
//! the device is opened. Nothing on the host changes. The daemon uses the KVM check
//! for its `RuntimeReady` condition.

mod files;
#[allow(unsafe_code)] // One ioctl hands memory to the guest.
mod guest;
mod host;
pub mod kvm;
mod network;

use serde::Serialize;

use crate::config::{Config, ConfigError};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Pods run, but something is worth knowing.
    Warn,
    /// Pods can't run.
    Fail,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, a word or two.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            found: found.into(),
            mend: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Warn,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Fail,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }
}

/// All checks, in the order an operator would mend them.
///
/// A configuration that can't be used is itself a finding; the rest is checked with
/// the defaults then. Blocking, for up to some seconds.
#[must_use]
pub fn examine(config: &Result<Config, ConfigError>) -> Vec<Check> {
    let mut checks = vec![configuration(config)];
    let defaults = Config::default();
    let config = config.as_ref().unwrap_or(&defaults);
    checks.push(host::root());
    checks.push(host::kernel());
    checks.push(kvm_check());
    checks.push(host::cgroups());
    checks.push(host::open_files());
    checks.push(network::tun());
    checks.push(network::packet_filter());
    checks.push(network::forwarding());
    checks.push(network::ipv6(config));
    checks.extend(files::programs(config));
    checks.push(files::mkfs());
    checks.push(files::space(&config.paths.state_dir));
    checks
}

/// The worst of all.
#[must_use]
pub fn worst(checks: &[Check]) -> Level {
    checks
        .iter()
        .map(|check| check.level)
        .max()
        .unwrap_or(Level::Ok)
}

fn configuration(config: &Result<Config, ConfigError>) -> Check {
    match config {
        Ok(_) => Check::ok("configuration", "usable"),
        Err(error) => Check::fail(
            "configuration",
            error.to_string(),
            "mend the file; `bulkhead config default` explains every key",
        ),
    }
}

fn kvm_check() -> Check {
    match kvm::probe() {
        Ok(facts) => Check::ok("kvm", facts.to_string()),
        Err(error) => Check::fail("kvm", error.to_string(), error.mend()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_level_counts() {
        let checks = [
            Check::ok("a", "x"),
            Check::fail("b", "x", "y"),
            Check::warn("c", "x", "y"),
        ];
        assert_eq!(worst(&checks), Level::Fail);
        assert_eq!(worst(&checks[..1]), Level::Ok);
        assert_eq!(worst(&[]), Level::Ok);
    }

    #[test]
    fn a_bad_configuration_is_a_finding() {
        let config = Config::parse("x = 1", std::path::Path::new("/etc/c.toml"));
        let check = configuration(&config);
        assert_eq!(check.level, Level::Fail);
        assert!(
            check.found.contains("/etc/c.toml, line 1"),
            "{}",
            check.found
        );
    }

    #[test]
    fn whatever_is_not_well_says_how_to_mend_it() {
        for check in examine(&Ok(Config::default())) {
            assert!(!check.found.is_empty(), "{check:?}");
            assert_eq!(check.mend.is_some(), check.level != Level::Ok, "{check:?}");
        }
    }
}
