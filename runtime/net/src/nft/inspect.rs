//! Looking at a host's packet filter, for `bulkhead doctor`.

use std::io;
use std::thread;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};

use super::message::{AttributeIter, Family, Kind, Reply, Request};
use super::{ruleset, socket};
use crate::error::{NetError, Result};

/// Tries our whole rule set on this kernel, without touching the host's.
///
/// It is applied in a network namespace that is made for it on a thread of its own,
/// and vanishes with that thread.
///
/// # Errors
/// [`NetError::Nftables`] with the first rule that the kernel refuses, or the reason
/// why no namespace could be made (it needs root).
pub fn probe() -> Result<()> {
    let failed = |attempted: &str, source: io::Error| NetError::Nftables {
        attempted: attempted.to_owned(),
        source,
    };
    let attempt = thread::Builder::new()
        .name("nft-probe".to_owned())
        .spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
                failed("make a network namespace to try the rules in", errno.into())
            })?;
            let networks: [IpNet; 2] = [
                IpNet::V4(ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)),
                IpNet::V6(ipnet::Ipv6Net::new_assert(0xfd00_u128.into(), 8)),
            ];
            socket::apply(&ruleset::rebuild("bulkhead-probe", &networks, true, &[]))
        })
        .map_err(|source| failed("start a thread to try the rules on", source))?;
    attempt.join().unwrap_or(Err(NetError::Interrupted {
        attempted: "trying the packet filter",
    }))
}

/// Chains that drop forwarded packets by policy, such as Docker's and firewalld's,
/// as `family table chain`.
///
/// An accept in one table doesn't outvote a drop in another, so pods behind such a
/// chain reach nothing unless its owner lets the bridge through.
///
/// # Errors
/// The system's error if the chains can't be listed.
pub fn chains_that_drop_forwarding() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (family, name) in [
        (Family::Inet, "inet"),
        (Family::Ipv4, "ip"),
        (Family::Ipv6, "ip6"),
    ] {
        socket::ask(&Request::dump(Kind::GetChain, family), |reply| {
            if let Some((table, chain)) = forward_drop(reply) {
                found.push(format!("{name} {table} {chain}"));
            }
        })?;
    }
    Ok(found)
}

/// The table and name of a chain that sits in the forward hook with policy drop.
fn forward_drop(reply: Reply<'_>) -> Option<(String, String)> {
    /// `NF_INET_FORWARD`
    const FORWARD: u32 = 2;
    /// `NF_DROP`
    const DROP: u32 = 0;

    let (_, attributes) = reply.generic()?;
    let (mut table, mut chain, mut hook, mut policy) = (None, None, None, None);
    for (kind, payload) in attributes {
        match kind {
            1 => table = text(payload),
            3 => chain = text(payload),
            4 => {
                hook = AttributeIter::nested(payload)
                    .find(|(kind, _)| *kind == 1)
                    .and_then(|(_, number)| big_endian(number));
            }
            5 => policy = big_endian(payload),
            _ => {}
        }
    }
    (hook == Some(FORWARD) && policy == Some(DROP)).then_some((table?, chain?))
}

fn text(payload: &[u8]) -> Option<String> {
    let text = payload.strip_suffix(b"\0").unwrap_or(payload);
    String::from_utf8(text.to_vec()).ok()
}

fn big_endian(payload: &[u8]) -> Option<u32> {
    payload
        .first_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
}
