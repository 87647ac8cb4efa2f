//! Feature bits that are not any one device's (virtio 1.3, section 6).

/// `VIRTIO_F_INDIRECT_DESC`: a descriptor may name a table of descriptors.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: each side says at which index it wants the next notification.
pub const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: not a legacy device.
pub const VERSION_1: u64 = 1 << 32;

/// What every device here offers.
pub const RING: u64 = VERSION_1 | INDIRECT_DESC | EVENT_IDX;
