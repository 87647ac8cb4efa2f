//! Network card (virtio 1.3, section 5.1) on a tap.

mod device;

pub use device::{Net, NetConfig};
