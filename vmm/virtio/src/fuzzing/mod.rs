//! Bodies of fuzz targets: each takes bytes, and panics only if the crate is wrong.
//!
//! `tests/fuzz` wraps them for a coverage-guided fuzzer; the `soak` example and this module's
//! tests run them on random bytes with the stable toolchain.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "a panic is how a target reports a finding; the host side is set up by unwrapping"
)]

mod blk;
mod input;
mod net;
mod queue;
mod small;
mod vsock;

pub use blk::blk;
pub use net::net;
pub use queue::queue;
pub use small::{console, rng};
pub use vsock::{vsock_connection, vsock_device};

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("queue", queue),
    ("blk", blk),
    ("net", net),
    ("vsock_connection", vsock_connection),
    ("vsock_device", vsock_device),
    ("rng", rng),
    ("console", console),
];

#[cfg(test)]
mod tests {
    use crate::testing::Random;

    #[test]
    fn random_bytes_find_nothing() {
        for (name, target) in super::TARGETS {
            let mut random = Random::new(name.len() as u64);
            for _ in 0..100 {
                let data = random.bytes(random.clone().len(1000));
                target(&data);
            }
        }
    }
}
