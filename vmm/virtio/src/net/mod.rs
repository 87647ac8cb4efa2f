//! Network card (virtio 1.3, section 5.1) on a tap.
//!
//! ```text
//!   guest                     this device                       host
//!   receive queue  <-- readv: header and frame -----------  tap
//!     one buffer, or several merged     (straight into guest memory)
//!   transmit queue --- header and Ethernet header copied,   tap
//!                      checked, then writev with the rest ->
//! ```
//!
//! Tap and driver speak the same 12-byte header (`virtio_net_hdr_v1`, 5.1.6), so checksums and
//! segmentation are left undone from the sending application to the last receiver: frames of
//! 64 KiB cross here whole. What the driver can take is what the tap is told
//! (`TUNSETOFFLOAD`); what the driver asks for is checked on a copy that it cannot change.
//!
//! **Stall and go on.** A frame is read only when there is room for the largest one, so none
//! is cut. The tap reports edges: that there are frames is remembered until an `EAGAIN`, and a
//! receive queue that was empty goes on with the driver's next kick, whatever the tap does (and
//! the other way round: a full tap keeps the packet in its queue).
//!
//! One pair of queues has one worker and one descriptor of the tap; more pairs would be more
//! of the same.

mod device;
pub(crate) mod header;
mod receive;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;
mod worker;

pub use device::{Net, NetConfig};

/// The worker kind passed to the thread hook.
pub const WORKER: &str = "net";

/// System calls of the worker beside [`crate::worker::SYSCALLS`].
pub const SYSCALLS: &[&str] = &["readv", "writev"];

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Largest frame: an IP packet, an Ethernet header and a VLAN tag.
const MAX_FRAME: usize = 65535 + ETHERNET + 4;

// Feature bits (5.1.3).
pub(crate) const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
pub(crate) const HOST_TSO4: u64 = 1 << 11;
pub(crate) const HOST_TSO6: u64 = 1 << 12;
pub(crate) const HOST_ECN: u64 = 1 << 13;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;

/// What the fuzz targets see of this module.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use std::os::fd::BorrowedFd;

    use super::receive::Receiver;
    use super::transmit::Transmitter;
    use crate::queue::Queue;

    /// A card served on the caller's thread.
    pub(crate) struct Bench {
        receiver: Receiver,
        transmitter: Transmitter,
    }

    impl Bench {
        pub(crate) fn new(negotiated: u64, mtu: u16) -> Self {
            Self {
                receiver: Receiver::new(negotiated, mtu),
                transmitter: Transmitter::new(negotiated, None),
            }
        }

        pub(crate) fn transmit(&mut self, tx: &mut Queue, tap: BorrowedFd<'_>) {
            self.transmitter.run(tx, tap);
            tx.notify();
        }

        pub(crate) fn receive(&mut self, rx: &mut Queue, tap: BorrowedFd<'_>) {
            self.receiver.run(rx, tap);
            rx.notify();
        }

        pub(crate) fn stop(&mut self, rx: &mut Queue) {
            self.receiver.give_back(rx);
        }
    }
}
