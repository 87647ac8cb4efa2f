//! Kernel settings under `/proc/sys/net`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{NetError, Result};

const ROOT: &str = "/proc/sys/net";

/// Whether the kernel has IPv6 at all (it may be built without, or booted with
/// `ipv6.disable=1`).
pub(crate) fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6/conf/all").is_dir()
}

/// Whether the host forwards between interfaces.
pub(crate) fn forwards(ipv6: bool) -> bool {
    let path = path(if ipv6 {
        "ipv6/conf/all/forwarding"
    } else {
        "ipv4/ip_forward"
    });
    fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}

/// Makes the host forward IPv4.
pub(crate) fn forward_ipv4() -> Result<()> {
    set("ipv4/ip_forward", "1")
}

/// Makes the host forward IPv6 without losing its own default route.
///
/// A host that forwards ignores router advertisements unless `accept_ra` is 2
/// (`Documentation/networking/ip-sysctl.rst`), so interfaces that listened to them
/// are told to go on before forwarding is switched on.
pub(crate) fn forward_ipv6() -> Result<()> {
    if forwards(true) {
        return Ok(());
    }
    let interfaces = path("ipv6/conf");
    let entries = fs::read_dir(&interfaces).map_err(|source| NetError::Sysctl {
        path: interfaces.display().to_string(),
        value: "forwarding".to_owned(),
        source,
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        // `all` isn't an interface.
        if name == "all" {
            continue;
        }
        let accept_ra = entry.path().join("accept_ra");
        if fs::read_to_string(&accept_ra).is_ok_and(|value| value.trim() == "1") {
            // An interface may vanish meanwhile; then there is nothing to keep.
            if let Err(error) = fs::write(&accept_ra, "2") {
                tracing::debug!(path = %accept_ra.display(), %error, "accept_ra not kept");
            }
        }
    }
    set("ipv6/conf/all/forwarding", "1")
}

/// Settings of the bridge: it is the pods' router and believes nobody else to be one.
pub(crate) fn prepare_bridge(bridge: &str, ipv6: bool) -> Result<()> {
    if ipv6 {
        set(&format!("ipv6/conf/{bridge}/disable_ipv6"), "0")?;
        set(&format!("ipv6/conf/{bridge}/accept_ra"), "0")?;
        // Its addresses work at once: nobody else may have them (see `nft::ruleset`).
        set(&format!("ipv6/conf/{bridge}/accept_dad"), "0")?;
    }
    Ok(())
}

/// Whether the host may speak from 127.0.0.0/8 by the bridge, and take packets for it:
/// what ports of the host need that are used by 127.0.0.1. The rules that keep pods
/// from using it too must stand (see `nft::ruleset::host_ports`).
pub(crate) fn route_loopback(bridge: &str, on: bool) -> Result<()> {
    let value = if on { "1" } else { "0" };
    set(&format!("ipv4/conf/{bridge}/route_localnet"), value)
}

/// Keeps the host itself silent on a tap: its only peer is the guest, and what the
/// host has to say it says on the bridge.
pub(crate) fn silence_tap(tap: &str) -> Result<()> {
    if has_ipv6() {
        set(&format!("ipv6/conf/{tap}/disable_ipv6"), "1")?;
    }
    Ok(())
}

fn path(key: &str) -> PathBuf {
    Path::new(ROOT).join(key)
}

/// Writes a value unless it is there already: a read-only `/proc/sys` that is
/// right as it is isn't an error.
fn set(key: &str, value: &str) -> Result<()> {
    let path = path(key);
    let current = fs::read_to_string(&path);
    if current.as_ref().is_ok_and(|text| text.trim() == value) {
        return Ok(());
    }
    let failed = |source: io::Error| NetError::Sysctl {
        path: path.display().to_string(),
        value: value.to_owned(),
        source,
    };
    fs::write(&path, value).map_err(failed)
}
