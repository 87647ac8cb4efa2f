//! The embedded pod network: what a node has when no CNI configuration is given.
//!
//! Every pod is one tap on one bridge, with one address of each pool:
//!
//! ```text
//!   pod A (VM)      pod B (VM)
//!   virtio-net      virtio-net
//!       │ fd            │ fd            the VMM reads and writes the tap by descriptor
//!   bh1a2b3c4d      bh5e6f7a8b
//!       └──── bulkhead0 ────┘           gateway addresses; bridge-family nft: nobody speaks
//!                │                      with another's MAC or address
//!          IP forwarding                inet-family nft: masquerade what leaves the pool
//!                │
//!            the uplink
//! ```
//!
//! # How a pod gets its network
//!
//! Three steps, so that the daemon can write its intent down first and boot the
//! VM meanwhile:
//!
//! 1. [`Network::allocate`] decides: tap name, MAC, addresses. Nothing in the
//!    kernel changes. The [`Lease`] goes into the state database.
//! 2. [`Network::tap`] makes the tap and returns its descriptor for the VMM. The
//!    tap isn't persistent: it dies with the last descriptor, so a dead VMM
//!    leaves no interface behind.
//! 3. [`Network::plumb`] lets it speak: first the packet filter's entries, then
//!    the bridge, then up. In this order an unfiltered tap is never on the bridge.
//!
//! [`Network::release`] undoes all three in any state and may be repeated.
//! [`Network::reconcile`] is called once when the daemon starts, with the leases
//! of the pods that live: it builds whatever is missing and removes whatever
//! belongs to nobody.
//!
//! A pod that runs on the host itself gets the same in another shape: in place of
//! the tap, [`Network::netns`] makes a network namespace and a veth pair into it. The
//! end on the bridge has the tap's name and is filtered like one.
//!
//! # Ports of the host
//!
//! A pod may have ports of the node's own addresses lead to it ([`HostPort`]). They
//! are part of its lease, so they come with [`Network::plumb`], go with
//! [`Network::release`], and are put back by [`Network::reconcile`]. A port is one
//! pod's at a time, and never one that a program of the node listens on.
//!
//! # What holds a hostile guest
//!
//! The filter runs in the bridge's prerouting hook, before the bridge learns
//! anything from a frame. A frame from a pod's tap passes only if its source MAC
//! is the pod's, and it is ARP, IPv4 or IPv6 that names the pod's own addresses as
//! sender. Rogue DHCP servers, router advertisements and redirects are dropped.
//! See [`nft::ruleset`].
//!
//! Everything is netlink: no program is run and no shell is involved.

#![deny(unsafe_code)]
// Tests fail by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod book;
mod config;
mod error;
mod lease;
mod link;
mod netns;
mod network;
pub mod nft;
mod pool;
mod ports;
mod sysctl;
mod tap;

pub use config::{BRIDGE_NAME_MAX, MTU_MIN, NetworkConfig};
pub use error::{NetError, Result};
pub use lease::{Lease, MacAddr, Route};
pub use network::{Network, Reconciled};
pub use ports::{HostPort, Transport};
pub use tap::probe as probe_tun;
