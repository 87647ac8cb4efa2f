//! What the pod network needs.

use std::path::Path;

use bulkhead_net::nft::inspect;

use super::Check;
use crate::config::Config;

pub(super) fn tun() -> Check {
    match bulkhead_net::probe_tun() {
        Ok(()) => Check::ok("tun", "/dev/net/tun opens"),
        Err(error) => Check::fail(
            "tun",
            error.to_string(),
            "load the module with `modprobe tun`, and have it loaded at boot: `echo tun > \
             /etc/modules-load.d/tun.conf`",
        ),
    }
}

pub(super) fn packet_filter() -> Check {
    match inspect::probe() {
        Ok(()) => Check::ok("nftables", "takes the rules for pods"),
        Err(error) => Check::fail(
            "nftables",
            error.to_string(),
            "run as root, on a kernel with nf_tables in the bridge and inet families and with \
             masquerading: `modprobe nf_tables nft_masq`",
        ),
    }
}

pub(super) fn forwarding() -> Check {
    const NAME: &str = "firewall";
    match inspect::chains_that_drop_forwarding() {
        Ok(chains) if chains.is_empty() => Check::ok(NAME, "no chain drops forwarded packets"),
        Ok(chains) => Check::warn(
            NAME,
            format!("drops forwarded packets by policy: {}", chains.join(", ")),
            "let the pods' bridge through there, or pods reach nothing outside; for Docker: \
             `iptables -I DOCKER-USER -i bulkhead0 -j ACCEPT; iptables -I DOCKER-USER -o \
             bulkhead0 -j ACCEPT`",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("cannot be looked at: {error}"),
            "run as root; a firewall that drops forwarded packets would cut pods off",
        ),
    }
}

pub(super) fn ipv6(config: &Config) -> Check {
    const NAME: &str = "ipv6";
    let present = Path::new("/proc/sys/net/ipv6").is_dir();
    match (present, config.network.ipv6_pool.0) {
        (true, Some(pool)) => Check::ok(NAME, format!("pods get addresses of {pool}")),
        (_, None) => Check::ok(NAME, "switched off in the configuration"),
        (false, Some(_)) => Check::warn(
            NAME,
            "this kernel has no IPv6: pods get IPv4 addresses only",
            "boot without `ipv6.disable=1`, or set network.ipv6_pool = \"\"",
        ),
    }
}
