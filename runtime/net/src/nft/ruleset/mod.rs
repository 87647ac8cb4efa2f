//! Our rules.
//!
//! Two tables, both named after the bridge.
//!
//! **Family `bridge`: nobody speaks with another's MAC or address.** It sees each
//! frame that a tap delivers before the bridge does anything with it. The rules
//! never change; a pod is four kinds of set elements:
//!
//! ```text
//! set taps   { tap }                    who is judged at all: other bridges' ports pass
//! set macs   { tap . MAC }
//! set ipv4   { tap . address }
//! set ipv6   { tap . address }          the pod's and its link-local one
//!
//! prerouting   not in taps → accept
//!              source MAC not in macs → drop
//!              by EtherType → arp, ipv4, ipv6; anything else (VLAN tags too) → drop
//! arp          Ethernet/IPv4 with the pod's MAC and address as sender,
//!              or a probe for an address (RFC 5227: sender 0.0.0.0)      else drop
//! ipv4         not a DHCP server; the pod's source address               else drop
//! ipv6         not a DHCPv6 server; the pod's source address             else drop
//! icmpv6       no router advertisement, no redirect (RFC 4861);
//!              neighbour advertisements only for the pod's own addresses;
//!              from :: only what duplicate address detection needs       else drop
//! ```
//!
//! Chains end in a drop and accept by match, because an expression that finds no
//! bytes to look at ends its rule without a verdict: what is too short to be
//! judged falls through to the drop.
//!
//! **Family `inet`: masquerading and ports of the host.** What comes from a pool and
//! leaves by another interface than the bridge takes that interface's address. What is
//! for a port of the host's own addresses that a pod has goes to the pod: see
//! [`host_ports`]. We add no forward
//! chain: nftables has no accept that outvotes another table's drop, so on a host
//! whose firewall drops forwarded packets by policy the operator has to allow the
//! bridge there ([`super::inspect`] finds such chains for `doctor`).

mod elements;
mod host_ports;
mod masquerade;
mod spoofing;
mod table;

use ipnet::IpNet;

use super::message::{Batch, Family, Kind};
use crate::lease::Lease;
use elements::{elements_message, elements_of, insert_elements};
use table::{Table, create_table, delete_table, replace_table};

const TAPS: &str = "taps";
const MACS: &str = "macs";
const IPV4: &str = "ipv4";
const IPV6: &str = "ipv6";

/// A batch that replaces both tables by new ones, with the elements of `leases`.
///
/// The kernel swaps old for new at once: no frame passes unfiltered in between.
#[must_use]
pub fn rebuild(bridge: &str, networks: &[IpNet], masquerade: bool, leases: &[Lease]) -> Batch {
    let mut batch = Batch::new();
    for family in [Family::Bridge, Family::Inet] {
        replace_table(&mut batch, bridge, family);
    }
    let filter = Table {
        name: bridge,
        family: Family::Bridge,
    };
    filter.sets(&mut batch);
    filter.spoofing_rules(&mut batch);

    let nat = Table {
        name: bridge,
        family: Family::Inet,
    };
    // The chain is there even without rules, as a place for operators to look.
    nat.postrouting_chain(&mut batch);
    if masquerade {
        nat.masquerade_rules(&mut batch, bridge, networks);
    }
    nat.host_port_rules(&mut batch, bridge, networks);
    insert_elements(&mut batch, bridge, leases);
    batch
}

/// A batch that removes both tables.
#[must_use]
pub fn remove(bridge: &str) -> Batch {
    let mut batch = Batch::new();
    for family in [Family::Bridge, Family::Inet] {
        // Creating first makes deleting succeed whether it was there or not.
        create_table(&mut batch, bridge, family);
        delete_table(&mut batch, bridge, family);
    }
    batch
}

/// A batch that lets one pod's frames pass.
#[must_use]
pub fn admit(bridge: &str, lease: &Lease) -> Batch {
    let mut batch = Batch::new();
    insert_elements(&mut batch, bridge, std::slice::from_ref(lease));
    batch
}

/// A batch that takes a pod's elements away, whether they are there or not.
///
/// The kernel refuses to delete what doesn't exist, so each is added first: within
/// a batch that has no effect but to make the deletion succeed.
#[must_use]
pub fn expel(bridge: &str, lease: &Lease) -> Batch {
    let mut batch = admit(bridge, lease);
    for (place, element) in elements_of(lease) {
        elements_message(&mut batch, Kind::DeleteElements, bridge, place, &[element]);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::MacAddr;
    use crate::nft::expr::{Expr, Verdict};
    use crate::nft::message::{AttributeIter, replies};

    const NEW_ELEMENTS: u16 = 0x0a0c;
    const DELETE_ELEMENTS: u16 = 0x0a0e;

    fn lease() -> Lease {
        Lease {
            pod_id: "0123456789abcdef".to_owned(),
            tap: "bh01234567".to_owned(),
            mac: MacAddr([2, 0x62, 10, 189, 0, 2]),
            addresses: vec![
                "10.189.0.2/16".parse().unwrap(),
                "fd00::2/64".parse().unwrap(),
            ],
            routes: Vec::new(),
            mtu: 1500,
            ports: Vec::new(),
        }
    }

    /// The changes of a batch: type, and the text of an attribute (0 if it has none).
    fn changes(batch: &Batch, attribute: u16) -> Vec<(u16, String)> {
        let bytes = batch.finish().unwrap();
        let all: Vec<_> = replies(&bytes)
            .map(|message| {
                let text = message
                    .generic()
                    .unwrap()
                    .1
                    .find(|(kind, _)| *kind == attribute);
                let text = text.map_or(&b""[..], |(_, payload)| payload);
                let text = String::from_utf8_lossy(text);
                (message.kind, text.trim_end_matches('\0').to_owned())
            })
            .collect();
        // Without the messages that open and close it.
        all[1..all.len() - 1].to_vec()
    }

    #[test]
    fn a_pod_is_admitted_by_its_tap_mac_and_addresses() {
        let batch = admit("bulkhead0", &lease());
        let sets: Vec<_> = changes(&batch, 2).into_iter().collect();
        let expected = ["taps", "macs", "ipv4", "ipv6"].map(|set| (NEW_ELEMENTS, set.to_owned()));
        assert_eq!(sets, expected);

        // The last message holds two addresses: the leased one and the link-local one.
        let bytes = batch.finish().unwrap();
        let message = replies(&bytes).nth(4).unwrap();
        let (_, list) = message
            .generic()
            .unwrap()
            .1
            .find(|(kind, _)| *kind == 3)
            .unwrap();
        let keys: Vec<Vec<u8>> = AttributeIter::nested(list)
            .map(|(_, element)| {
                let (_, key) = AttributeIter::nested(element).next().unwrap();
                AttributeIter::nested(key).next().unwrap().1.to_vec()
            })
            .collect();
        assert_eq!(keys.len(), 2);
        assert!(
            keys.iter()
                .all(|key| key.len() == 32 && key.starts_with(b"bh01234567\0"))
        );
        assert_eq!(keys[1][16..18], [0xfe, 0x80]);
    }

    #[test]
    fn expelling_adds_before_it_deletes() {
        let batch = expel("bulkhead0", &lease());
        let kinds: Vec<_> = changes(&batch, 2)
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds[..4], [NEW_ELEMENTS; 4]);
        assert_eq!(kinds[4..], [DELETE_ELEMENTS; 5]);
    }

    #[test]
    fn every_chain_of_the_filter_ends_in_a_drop() {
        let batch = rebuild("bulkhead0", &[], true, &[]);
        let bytes = batch.finish().unwrap();
        let mut last = std::collections::BTreeMap::new();
        for message in replies(&bytes) {
            const NEW_RULE: u16 = 0x0a06;
            if message.kind == NEW_RULE {
                let (family, mut attributes) = message.generic().unwrap();
                if family != Family::Bridge as u8 {
                    continue;
                }
                let chain = attributes.find(|(kind, _)| *kind == 2).unwrap().1.to_vec();
                let body = attributes.find(|(kind, _)| *kind == 4).unwrap().1.to_vec();
                last.insert(chain, body);
            }
        }
        assert_eq!(last.len(), 5);
        let mut ending = Batch::new();
        ending.push("x", Kind::NewRule, Family::Bridge, 0, |message| {
            message.nest(4, |list| {
                Expr::Counter.write(list);
                Expr::Verdict(Verdict::Drop).write(list);
            });
        });
        let ending = ending.finish().unwrap();
        let ending = replies(&ending).nth(1).unwrap();
        let (_, ending) = ending.generic().unwrap().1.next().unwrap();
        for (chain, body) in last {
            assert_eq!(body, ending, "{}", String::from_utf8_lossy(&chain));
        }
    }

    #[test]
    fn many_pods_are_split_over_messages() {
        let leases = vec![lease(); 2000];
        let batch = rebuild("bulkhead0", &[], false, &leases);
        assert!(batch.finish().is_some(), "no attribute is too long");
    }
}
