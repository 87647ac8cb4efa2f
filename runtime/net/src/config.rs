//! What the operator may choose.

use ipnet::{Ipv4Net, Ipv6Net};

use crate::error::{NetError, Result};

/// Longest interface name Linux takes: `IFNAMSIZ` (16) less the closing NUL.
pub const BRIDGE_NAME_MAX: usize = 15;

/// Smallest link MTU, in bytes, that IPv6 works over (RFC 8200 §5).
pub const MTU_MIN: u16 = 1280;

/// Smallest pools that hold a gateway and at least one pod.
const IPV4_PREFIX_MAX: u8 = 30;
const IPV6_PREFIX_MAX: u8 = 126;

/// Settings of the embedded network, section `[network]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge; also the name of our two nftables tables.
    pub bridge: String,
    /// Pod addresses; `None` leaves pods without IPv4.
    pub ipv4_pool: Option<Ipv4Net>,
    /// Pod addresses; `None` leaves pods without IPv6.
    pub ipv6_pool: Option<Ipv6Net>,
    /// Bytes of the largest packet on the bridge, taps and in the pods.
    pub mtu: u16,
    /// Whether traffic that leaves the pools takes the node's address.
    pub masquerade: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: "bulkhead0".to_owned(),
            // Away from what podman, Docker, containerd's samples and the usual
            // CNI plugins take (10.88/16, 172.17/16, 10.244/16, 10.42/16).
            ipv4_pool: Some(Ipv4Net::new_assert(
                std::net::Ipv4Addr::new(10, 189, 0, 0),
                16,
            )),
            // A unique local prefix (RFC 4193): "bulkh" in ASCII.
            ipv6_pool: Some(Ipv6Net::new_assert(
                std::net::Ipv6Addr::new(0xfd62, 0x756c, 0x6b68, 0, 0, 0, 0, 0),
                64,
            )),
            mtu: 1500,
            masquerade: true,
        }
    }
}

impl NetworkConfig {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// [`NetError::Config`] names the key, its value and what is wanted.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key: &'static str, value: String, wanted: &'static str| {
            Err(NetError::Config { key, value, wanted })
        };
        if !is_interface_name(&self.bridge) {
            return refuse(
                "bridge",
                self.bridge.clone(),
                "an interface name: 1 to 15 letters, digits, '-', '_' or '.'",
            );
        }
        // Our taps are recognised by their name; the bridge must not look like one.
        if crate::lease::is_tap_name(&self.bridge) {
            return refuse(
                "bridge",
                self.bridge.clone(),
                "a name that isn't 'bh' and eight hexadecimal digits (those are taps)",
            );
        }
        if self.ipv4_pool.is_none() && self.ipv6_pool.is_none() {
            return refuse("ipv4_pool", "none".to_owned(), "at least one pool");
        }
        if let Some(pool) = self.ipv4_pool {
            check_ipv4_pool(pool)?;
        }
        if let Some(pool) = self.ipv6_pool {
            check_ipv6_pool(pool)?;
        }
        if self.mtu < MTU_MIN {
            return refuse(
                "mtu",
                self.mtu.to_string(),
                "at least 1280 bytes, which IPv6 needs",
            );
        }
        Ok(())
    }
}

/// Refuses IPv4 pools that can't hold a gateway and a pod, or aren't unicast.
pub(crate) fn check_ipv4_pool(pool: Ipv4Net) -> Result<()> {
    let refuse = |wanted| {
        Err(NetError::Config {
            key: "ipv4_pool",
            value: pool.to_string(),
            wanted,
        })
    };
    if pool.addr() != pool.network() {
        return refuse("a network address: the bits after the prefix must be zero");
    }
    if pool.prefix_len() > IPV4_PREFIX_MAX || pool.prefix_len() < 8 {
        return refuse("a prefix between /8 and /30");
    }
    let first = pool.network();
    if first.is_loopback()
        || first.is_multicast()
        || first.is_link_local()
        || first.is_broadcast()
        || first.octets()[0] == 0
    {
        return refuse("a unicast network, such as one of 10.0.0.0/8");
    }
    Ok(())
}

/// Refuses IPv6 pools that can't hold a gateway and a pod, or aren't unicast.
pub(crate) fn check_ipv6_pool(pool: Ipv6Net) -> Result<()> {
    let refuse = |wanted| {
        Err(NetError::Config {
            key: "ipv6_pool",
            value: pool.to_string(),
            wanted,
        })
    };
    if pool.addr() != pool.network() {
        return refuse("a network address: the bits after the prefix must be zero");
    }
    if pool.prefix_len() > IPV6_PREFIX_MAX || pool.prefix_len() < 32 {
        return refuse("a prefix between /32 and /126");
    }
    let first = pool.network();
    if first.is_loopback()
        || first.is_multicast()
        || first.is_unicast_link_local()
        || first.is_unspecified()
    {
        return refuse("a unicast network, such as one of fd00::/8");
    }
    Ok(())
}

/// Whether Linux and our error messages can both live with the name
/// (`dev_valid_name` in the kernel is laxer).
fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= BRIDGE_NAME_MAX
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_key(config: &NetworkConfig) -> &'static str {
        match config.validate() {
            Err(NetError::Config { key, .. }) => key,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn the_default_is_valid() {
        NetworkConfig::default().validate().unwrap();
    }

    #[test]
    fn bridge_names_are_checked() {
        for bridge in [
            "",
            "a-name-too-long-for-linux",
            "a/b",
            "a b",
            "..",
            "bh0123abcd",
        ] {
            let config = NetworkConfig {
                bridge: bridge.to_owned(),
                ..NetworkConfig::default()
            };
            assert_eq!(refused_key(&config), "bridge", "{bridge:?}");
        }
    }

    #[test]
    fn pools_are_checked() {
        for pool in [
            "10.0.0.1/24",
            "10.0.0.0/31",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "8.0.0.0/7",
        ] {
            let config = NetworkConfig {
                ipv4_pool: Some(pool.parse().unwrap()),
                ..NetworkConfig::default()
            };
            assert_eq!(refused_key(&config), "ipv4_pool", "{pool}");
        }
        for pool in ["fe80::/64", "ff00::/64", "fd00::1/64", "fd00::/127"] {
            let config = NetworkConfig {
                ipv6_pool: Some(pool.parse().unwrap()),
                ..NetworkConfig::default()
            };
            assert_eq!(refused_key(&config), "ipv6_pool", "{pool}");
        }
        let none = NetworkConfig {
            ipv4_pool: None,
            ipv6_pool: None,
            ..NetworkConfig::default()
        };
        assert_eq!(refused_key(&none), "ipv4_pool");
    }

    #[test]
    fn mtu_has_a_floor() {
        let config = NetworkConfig {
            mtu: 1279,
            ..NetworkConfig::default()
        };
        assert_eq!(refused_key(&config), "mtu");
    }
}
