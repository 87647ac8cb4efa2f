//! The pod's network interfaces, over rtnetlink(7).
//!
//! The daemon names a device by its MAC and says what it shall be; nothing is
//! asked of the network: no DHCP, no router advertisements, no duplicate address
//! detection (addresses come from the host's pool, which knows).
//!
//! The protocol is spoken directly (`message`): a client library would be a
//! tenth of the agent, which is in every pod's memory.

mod message;
pub mod parse;

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use bulkhead_agent_api::agent;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use crate::error::{Context as _, Error, Result};
use message::{Answer, Link, Request};
use parse::InterfacePlan;

/// The kernel answers at once, or something is badly wrong.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Larger than any datagram of a dump (32 KiB).
const DATAGRAM: usize = 64 << 10;

/// Brings the loopback device up and every wanted interface into shape. Blocks.
///
/// # Errors
/// `INVALID_ARGUMENT` for values that do not parse, `NOT_FOUND` for a MAC that
/// no device has, otherwise the kernel's refusal.
pub fn configure(interfaces: &[agent::Interface]) -> Result<()> {
    let plans = interfaces
        .iter()
        .map(InterfacePlan::parse)
        .collect::<Result<Vec<_>>>()?;
    let mut kernel = Netlink::open()?;
    let links = kernel.links()?;
    if let Some(loopback) = links.iter().find(|link| link.name == "lo") {
        kernel.ask("bring lo up", message::up(loopback.index))?;
    }
    for plan in &plans {
        let link = links
            .iter()
            .find(|link| link.mac == Some(plan.mac))
            .ok_or_else(|| {
                Error::not_found(format!("no network device has the MAC {}", plan.mac))
            })?;
        configure_one(&mut kernel, link.index, plan)
            .context(|| format!("configure interface {}", plan.name))?;
    }
    Ok(())
}

fn configure_one(kernel: &mut Netlink, index: u32, plan: &InterfacePlan) -> Result<()> {
    kernel.ask(
        "rename it and set its MTU",
        message::rename(index, &plan.name, plan.mtu),
    )?;
    quiet_ipv6(&plan.name);
    for address in &plan.addresses {
        let what = format!("add address {address}");
        kernel.ask(&what, message::address(index, *address))?;
    }
    kernel.ask("bring it up", message::up(index))?;
    // Neighbours first: a gateway off the subnet may need one.
    for (address, mac) in &plan.neighbours {
        let what = format!("add neighbour {address}");
        kernel.ask(&what, message::neighbour(index, *address, *mac))?;
    }
    for route in &plan.routes {
        let on_link = route.gateway.is_some_and(|gateway| !is_near(plan, gateway));
        let what = format!("add route to {}", route.destination);
        kernel.ask(&what, message::route(index, route, on_link))?;
    }
    Ok(())
}

/// Whether an address of the interface makes the gateway reachable.
fn is_near(plan: &InterfacePlan, gateway: IpAddr) -> bool {
    let link_local = match gateway {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    link_local || plan.addresses.iter().any(|net| net.contains(&gateway))
}

/// No duplicate address detection for the link-local address either, and no
/// belief in router advertisements, which a neighbour could forge.
fn quiet_ipv6(name: &str) {
    for (key, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        // Absent without IPv6 in the kernel: then there is nothing to quieten.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value);
    }
}

/// A conversation with the kernel.
struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None, // protocol 0 is NETLINK_ROUTE
            )?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWERS_WITHIN))?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().context(|| "open a netlink socket")?,
            sequence: 0,
        })
    }

    /// Sends a request and calls `each` for its answers until it is done.
    fn converse(&mut self, request: Request, mut each: impl FnMut(Link)) -> Result<()> {
        self.sequence += 1;
        let bytes = request.numbered(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty()).context(|| "send")?;
        let deadline = Instant::now() + ANSWERS_WITHIN;
        let mut buffer = vec![0; DATAGRAM];
        while Instant::now() < deadline {
            let received = rustix::io::retry_on_intr(|| {
                recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
            });
            let (len, _) = received.context(|| "receive the kernel's answer")?;
            let datagram = buffer.get(..len).unwrap_or(&[]);
            for answer in message::answers(datagram, self.sequence) {
                match answer {
                    Answer::Link(link) => each(link),
                    Answer::Done(0) => return Ok(()),
                    Answer::Done(errno) => {
                        let why = std::io::Error::from_raw_os_error(-errno);
                        return Err(Error::internal(why.to_string()));
                    }
                    Answer::Other => {}
                }
            }
        }
        Err(Error::internal("the kernel gives no answer"))
    }

    fn ask(&mut self, what: &str, request: Request) -> Result<()> {
        self.converse(request, |_| {}).context(|| what)
    }

    fn links(&mut self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        self.converse(message::list_links(), |link| links.push(link))
            .context(|| "list interfaces")?;
        Ok(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_this_machines_loopback() {
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index > 0));
    }

    #[test]
    fn gateways_off_the_subnet_are_on_the_link() {
        let mut interface = agent::Interface::new();
        interface.mac = "02:00:00:00:00:01".into();
        interface.name = "eth0".into();
        interface.addresses = vec!["10.88.0.5/16".into(), "fd00::5/64".into()];
        let plan = InterfacePlan::parse(&interface).unwrap();
        for near in ["10.88.0.1", "fd00::1", "fe80::1"] {
            assert!(is_near(&plan, near.parse().unwrap()), "{near}");
        }
        for far in ["169.254.1.1", "fd01::1"] {
            assert!(!is_near(&plan, far.parse().unwrap()), "{far}");
        }
    }
}
