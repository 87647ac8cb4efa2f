//! The host's resolver settings, for pods that nobody gives any.

use std::net::IpAddr;

use bulkhead_cri_api::v1::DnsConfig;

/// What the pod can use of a `resolv.conf` (resolv.conf(5)).
///
/// Servers on the loopback (systemd-resolved, dnsmasq) are the host's own, out of a
/// pod's reach, and left out.
#[must_use]
pub(super) fn for_pod(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().unwrap_or_default();
                if server.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback()) {
                    config.servers.push(server.to_owned());
                }
            }
            // Each of these replaces the one before.
            Some("search" | "domain") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The resolver settings of this host.
#[must_use]
pub(super) fn of_host() -> DnsConfig {
    // systemd-resolved keeps the servers behind its own stub there.
    const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let settings = FILES
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    settings
        .map(|text| for_pod(&text))
        .find(|config| !config.servers.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_can_reach_is_taken() {
        let config = for_pod(
            "# made by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\n\
             nameserver fd00::1\nnameserver bad\nnameserver\ndomain old.example\n\
             search a.example b.example\noptions ndots:2 edns0\n",
        );
        assert_eq!(config.servers, ["192.0.2.1", "fd00::1"]);
        assert_eq!(config.searches, ["a.example", "b.example"]);
        assert_eq!(config.options, ["ndots:2", "edns0"]);
        assert_eq!(for_pod(""), DnsConfig::default());
    }
}
