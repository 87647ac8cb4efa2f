//! A pod as elements of the sets.

use std::net::IpAddr;

use super::{IPV4, IPV6, MACS, TAPS};
use crate::lease::Lease;
use crate::nft::expr::{DATA_VALUE, LIST_ELEMENT, interface_and, interface_name};
use crate::nft::message::{Batch, CREATE, Family, Kind};

/// Elements to a message: an attribute holds at most 64 KiB, an element some 44 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// What a pod's elements are, set by set; `taps` comes first.
pub(super) fn elements_of(lease: &Lease) -> Vec<(&'static str, Vec<u8>)> {
    let tap = lease.tap.as_str();
    let mut elements = vec![
        (TAPS, interface_name(tap)),
        (MACS, interface_and(tap, &lease.mac.0)),
    ];
    for address in lease.ips() {
        match address {
            IpAddr::V4(address) => {
                elements.push((IPV4, interface_and(tap, &address.octets())));
            }
            IpAddr::V6(address) => {
                elements.push((IPV6, interface_and(tap, &address.octets())));
            }
        }
    }
    let link_local = lease.mac.link_local();
    elements.push((IPV6, interface_and(tap, &link_local.octets())));
    elements
}

pub(super) fn insert_elements(batch: &mut Batch, bridge: &str, leases: &[Lease]) {
    for set in [TAPS, MACS, IPV4, IPV6] {
        let keys: Vec<Vec<u8>> = leases
            .iter()
            .flat_map(elements_of)
            .filter(|(of, _)| *of == set)
            .map(|(_, key)| key)
            .collect();
        for keys in keys.chunks(ELEMENTS_PER_MESSAGE) {
            elements_message(batch, Kind::NewElements, bridge, set, keys);
        }
    }
}

pub(super) fn elements_message(
    batch: &mut Batch,
    kind: Kind,
    table: &str,
    set: &str,
    keys: &[Vec<u8>],
) {
    let (verb, flags) = match kind {
        Kind::DeleteElements => ("delete", 0),
        _ => ("add", CREATE),
    };
    batch.push(
        format!("{verb} elements of set {set} in table bridge {table}"),
        kind,
        Family::Bridge,
        flags,
        |message| {
            // NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS
            message.text(1, table);
            message.text(2, set);
            message.nest(3, |list| {
                for key in keys {
                    list.nest(LIST_ELEMENT, |element| {
                        // NFTA_SET_ELEM_KEY
                        element.nest(1, |data| {
                            data.bytes(DATA_VALUE, key);
                        });
                    });
                }
            });
        },
    );
}
