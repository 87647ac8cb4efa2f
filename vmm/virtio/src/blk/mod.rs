//! Block device (virtio 1.3, section 5.2) on a file.

mod device;

pub use device::{Blk, BlkConfig};
pub use pool::{EngineKind, Pool};

mod pool;
