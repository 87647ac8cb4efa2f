//! What can go wrong, and what the operator does about it.

use std::io;

use crate::ports::HostPort;

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, NetError>;

/// An error of the embedded network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A setting is unusable.
    #[error("network.{key} = {value:?} is not usable: it must be {wanted}")]
    Config {
        /// Key in section `[network]`.
        key: &'static str,
        /// The value as the operator wrote it.
        value: String,
        /// What the value must be.
        wanted: &'static str,
    },

    /// The pod CIDR that the cluster sent can't be read.
    #[error("pod CIDR {cidr:?} is not usable: {reason}")]
    PodCidr {
        /// The text as it was sent.
        cidr: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Every address is taken.
    #[error(
        "no address is free in pool {pool}: {in_use} of {capacity} are taken; remove pods, or \
         configure a larger pool (network.ipv4_pool, network.ipv6_pool)"
    )]
    PoolExhausted {
        /// The pool in CIDR notation.
        pool: String,
        /// Leased addresses.
        in_use: u64,
        /// Addresses that can be leased.
        capacity: u64,
    },

    /// The host already routes addresses of the pool elsewhere.
    #[error(
        "pool {pool} overlaps the host's route {route} by {interface}; choose another \
         network.ipv4_pool or network.ipv6_pool, or remove that route"
    )]
    PoolCollides {
        /// The pool in CIDR notation.
        pool: String,
        /// The colliding route's destination.
        route: String,
        /// The interface that the route uses.
        interface: String,
    },

    /// Something else is called like our bridge.
    #[error(
        "interface {name} exists and is not a bridge (it is {kind}); choose another \
         network.bridge, or remove it with `ip link delete {name}`"
    )]
    NotABridge {
        /// The configured name.
        name: String,
        /// What the interface is.
        kind: String,
    },

    /// The lease on record can't be honoured.
    #[error("lease of pod {pod_id} conflicts with that of pod {other}: both hold {what}")]
    LeaseConflict {
        /// The pod whose lease was refused.
        pod_id: String,
        /// The pod that holds it.
        other: String,
        /// The thing they share.
        what: String,
    },

    /// Another pod has the port of the host.
    #[error(
        "host port {port} is that of pod {other} already; remove that pod, or use another port or \
         another hostIP"
    )]
    PortTaken {
        /// The port asked for.
        port: HostPort,
        /// The pod that has it; the asking one itself where it asks twice.
        other: String,
    },

    /// A program of the host has the port.
    #[error(
        "host port {port}: a program of this node listens on it (`ss -lnp` shows which); use \
         another port, or end that program"
    )]
    PortInUse {
        /// The port asked for.
        port: HostPort,
    },

    /// No tap name could be derived that isn't taken.
    #[error("no free tap name can be derived from pod id {pod_id:?}; use another pod id")]
    NoTapName {
        /// The pod's id.
        pod_id: String,
    },

    /// The tap's name is taken by an interface that isn't this pod's.
    #[error(
        "interface {name} exists already; remove it with `ip link delete {name}` if no VM uses it"
    )]
    TapExists {
        /// The tap's name.
        name: String,
    },

    /// The tap isn't there (its VMM is gone, or was never given it).
    #[error("tap {name} of pod {pod_id} is gone: its VMM has exited")]
    TapGone {
        /// The tap's name.
        name: String,
        /// The pod it belongs to.
        pod_id: String,
    },

    /// `/dev/net/tun` is unusable.
    #[error(
        "cannot open /dev/net/tun: {source}; load the module with `modprobe tun` and check the \
         device's permissions"
    )]
    TunDevice {
        /// The system's reason.
        source: io::Error,
    },

    /// A setting under `/proc/sys` couldn't be read or written.
    #[error("cannot set {path} to {value}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// What should have been written.
        value: String,
        /// The system's reason.
        source: io::Error,
    },

    /// The kernel refused a change of links, addresses or routes.
    #[error("cannot {attempted}: {source}")]
    Netlink {
        /// What was tried, on what.
        attempted: String,
        /// The kernel's reason.
        source: io::Error,
    },

    /// The kernel refused a change of packet filter rules.
    #[error(
        "cannot {attempted} in nftables: {source}; check that the kernel has nf_tables with the \
         bridge and inet families (`modprobe nf_tables`)"
    )]
    Nftables {
        /// What was tried, on what.
        attempted: String,
        /// The kernel's reason.
        source: io::Error,
    },

    /// A worker of the daemon was cancelled.
    #[error("{attempted} was interrupted: the daemon is stopping")]
    Interrupted {
        /// What was tried.
        attempted: &'static str,
    },

    /// [`crate::Network::reconcile`] hasn't run yet or has failed.
    #[error("the pod network is not set up yet")]
    NotSetUp,
}
