//! Virtio queues and devices, independent of transport.
