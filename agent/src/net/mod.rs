//! The pod's network interfaces, over rtnetlink(7).
//!
//! The daemon names a device by its MAC and says what it shall be; nothing is
//! asked of the network: no DHCP, no router advertisements, no duplicate address
//! detection (addresses come from the host's pool, which knows).

pub mod parse;

use std::net::IpAddr;

use bulkhead_agent_api::agent;
use futures::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags},
    link::{LinkAttribute, LinkMessage},
    neighbour::NeighbourState,
    route::RouteMessage,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::error::{Context as _, Error, Result};
use parse::{InterfacePlan, Mac};

/// Brings the loopback device up and every wanted interface into shape.
///
/// # Errors
/// `INVALID_ARGUMENT` for values that do not parse, `NOT_FOUND` for a MAC that
/// no device has, otherwise the kernel's refusal.
pub async fn configure(interfaces: &[agent::Interface]) -> Result<()> {
    let plans = interfaces
        .iter()
        .map(InterfacePlan::parse)
        .collect::<Result<Vec<_>>>()?;
    let (connection, handle, _) =
        rtnetlink::new_connection().context(|| "open a netlink socket")?;
    let driver = tokio::spawn(connection);
    let result = apply(&handle, &plans).await;
    driver.abort();
    result
}

async fn apply(handle: &Handle, plans: &[InterfacePlan]) -> Result<()> {
    let mut links = Vec::new();
    let mut dump = handle.link().get().execute();
    while let Some(link) = dump
        .try_next()
        .await
        .map_err(|why| refused("list interfaces", &why))?
    {
        links.push(link);
    }
    if let Some(loopback) = links.iter().find(|link| name_of(link) == Some("lo")) {
        up(handle, loopback.header.index, "lo").await?;
    }
    for plan in plans {
        let index = links
            .iter()
            .find(|link| mac_of(link) == Some(plan.mac))
            .map(|link| link.header.index)
            .ok_or_else(|| {
                Error::not_found(format!("no network device has the MAC {}", plan.mac))
            })?;
        configure_one(handle, index, plan)
            .await
            .context(|| format!("configure interface {}", plan.name))?;
    }
    Ok(())
}

async fn configure_one(handle: &Handle, index: u32, plan: &InterfacePlan) -> Result<()> {
    let mut change = LinkUnspec::new_with_index(index).name(plan.name.clone());
    if let Some(mtu) = plan.mtu {
        change = change.mtu(mtu);
    }
    handle
        .link()
        .set(change.build())
        .execute()
        .await
        .map_err(|why| refused("rename it and set its MTU", &why))?;
    quiet_ipv6(&plan.name);
    for address in &plan.addresses {
        let mut request = handle
            .address()
            .add(index, address.addr(), address.prefix_len())
            .replace();
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .map_err(|why| refused(&format!("add address {address}"), &why))?;
    }
    up(handle, index, &plan.name).await?;
    // Neighbours first: a gateway off the subnet may need one.
    for (address, mac) in &plan.neighbours {
        handle
            .neighbours()
            .add(index, *address)
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(|why| refused(&format!("add neighbour {address}"), &why))?;
    }
    for route in &plan.routes {
        handle
            .route()
            .add(route_message(index, route)?)
            .replace()
            .execute()
            .await
            .map_err(|why| refused(&format!("add route to {}", route.destination), &why))?;
    }
    Ok(())
}

fn route_message(index: u32, route: &parse::RoutePlan) -> Result<RouteMessage> {
    let family = |why| Error::invalid(format!("route to {}: {why:?}", route.destination));
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix_len())
        .map_err(family)?
        .output_interface(index);
    if let Some(gateway) = route.gateway {
        builder = builder.gateway(gateway).map_err(family)?;
    }
    if let Some(metric) = route.metric {
        builder = builder.priority(metric);
    }
    Ok(builder.build())
}

async fn up(handle: &Handle, index: u32, name: &str) -> Result<()> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .map_err(|why| refused(&format!("bring {name} up"), &why))
}

/// No duplicate address detection for the link-local address either, and no
/// belief in router advertisements, which a neighbour could forge.
fn quiet_ipv6(name: &str) {
    for (key, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        // Absent without IPv6 in the kernel: then there is nothing to quieten.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value);
    }
}

fn refused(what: &str, why: &rtnetlink::Error) -> Error {
    Error::internal(format!("{what}: {why}"))
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn mac_of(link: &LinkMessage) -> Option<Mac> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
            _ => None,
        })
}
