//! A virtio driver in user space.
