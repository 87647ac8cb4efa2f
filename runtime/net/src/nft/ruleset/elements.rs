//! A pod as elements of the sets and maps.

use std::net::IpAddr;

use super::table::family_name;
use super::{IPV4, IPV6, MACS, TAPS, host_ports};
use crate::lease::Lease;
use crate::nft::expr::{DATA_VALUE, LIST_ELEMENT, interface_and, interface_name};
use crate::nft::message::{Batch, CREATE, Family, Kind};

/// Elements to a message: an attribute holds at most 64 KiB, an element some 44 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// A set or map: its family and its name.
type Place = (Family, &'static str);

/// A key, and its value in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// Everything that a pod can be an element of, in the order of insertion.
fn places() -> impl Iterator<Item = Place> {
    let sets = [TAPS, MACS, IPV4, IPV6].map(|set| (Family::Bridge, set));
    let maps = host_ports::MAPS.map(|map| (Family::Inet, map));
    sets.into_iter().chain(maps)
}

/// What a pod's elements are; that of `taps` comes first.
pub(super) fn elements_of(lease: &Lease) -> Vec<(Place, Element)> {
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
    let of_sets = elements
        .into_iter()
        .map(|(set, key)| ((Family::Bridge, set), Element { key, value: None }));
    let of_maps = host_ports::elements_of(lease)
        .into_iter()
        .map(|(map, element)| ((Family::Inet, map), element));
    of_sets.chain(of_maps).collect()
}

pub(super) fn insert_elements(batch: &mut Batch, bridge: &str, leases: &[Lease]) {
    let all: Vec<_> = leases.iter().flat_map(elements_of).collect();
    for place in places() {
        let of_place: Vec<Element> = all
            .iter()
            .filter(|(of, _)| *of == place)
            .map(|(_, element)| element.clone())
            .collect();
        for elements in of_place.chunks(ELEMENTS_PER_MESSAGE) {
            elements_message(batch, Kind::NewElements, bridge, place, elements);
        }
    }
}

pub(super) fn elements_message(
    batch: &mut Batch,
    kind: Kind,
    table: &str,
    (family, set): Place,
    elements: &[Element],
) {
    let (verb, flags) = match kind {
        Kind::DeleteElements => ("delete", 0),
        _ => ("add", CREATE),
    };
    batch.push(
        format!(
            "{verb} elements of set {set} in table {} {table}",
            family_name(family)
        ),
        kind,
        family,
        flags,
        |message| {
            // NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS
            message.text(1, table);
            message.text(2, set);
            message.nest(3, |list| {
                for Element { key, value } in elements {
                    list.nest(LIST_ELEMENT, |element| {
                        // NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA
                        element.nest(1, |data| {
                            data.bytes(DATA_VALUE, key);
                        });
                        if let Some(value) = value {
                            element.nest(2, |data| {
                                data.bytes(DATA_VALUE, value);
                            });
                        }
                    });
                }
            });
        },
    );
}
