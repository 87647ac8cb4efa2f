//! The inet table: what leaves the pools takes the host's address.

use ipnet::IpNet;

use super::table::{Hook, Table};
use crate::nft::expr::{Expr, Header, Meta, Register, interface_name};
use crate::nft::message::{Batch, Family};

pub(super) const POSTROUTING: &str = "postrouting";

impl Table<'_> {
    /// The chain, which is there even without rules: a place for operators to look.
    pub(super) fn postrouting_chain(&self, batch: &mut Batch) {
        let hook = Hook {
            kind: "nat",
            // NF_INET_POST_ROUTING, and nft's priority `srcnat`.
            number: 4,
            priority: 100,
        };
        self.chain(batch, POSTROUTING, Some(&hook));
    }

    /// A rule for each network that pods have addresses of.
    pub(super) fn masquerade_rules(&self, batch: &mut Batch, bridge: &str, networks: &[IpNet]) {
        for network in networks {
            let mut body = source_in(network);
            body.extend([
                Expr::Meta(Meta::OutputInterface, Register::FIRST),
                Expr::NotEqual(Register::FIRST, interface_name(bridge)),
                Expr::Counter,
                Expr::Masquerade,
            ]);
            self.rule(batch, POSTROUTING, "leaves the pool", &body);
        }
    }
}

/// Goes on for packets that come from the network.
pub(super) fn source_in(network: &IpNet) -> Vec<Expr> {
    let (family, offset, mask, address) = match network {
        // RFC 791 and RFC 8200: source addresses.
        IpNet::V4(network) => (
            Family::Ipv4,
            12,
            network.netmask().octets().to_vec(),
            network.network().octets().to_vec(),
        ),
        IpNet::V6(network) => (
            Family::Ipv6,
            8,
            network.netmask().octets().to_vec(),
            network.network().octets().to_vec(),
        ),
    };
    vec![
        Expr::Meta(Meta::Family, Register::FIRST),
        Expr::Equal(Register::FIRST, vec![family as u8]),
        Expr::Payload {
            header: Header::Network,
            offset,
            length: u32::try_from(address.len()).unwrap_or(u32::MAX),
            register: Register::FIRST,
        },
        Expr::Mask(Register::FIRST, mask),
        Expr::Equal(Register::FIRST, address),
    ]
}
