//! Socket device (virtio 1.3, section 5.10), unix sockets on the host side.

mod device;

pub use device::{Vsock, VsockConfig};
