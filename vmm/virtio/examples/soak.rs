//! Runs the fuzz targets on random bytes: `soak [SECONDS [TARGET]]`, all targets for a minute
//! each by default. A finding is a panic, after the seed that leads to it.
#![allow(clippy::print_stdout, reason = "it reports to whoever started it")]

use std::time::{Duration, Instant};

use bulkhead_virtio::fuzzing::TARGETS;
use bulkhead_virtio::testing::Random;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(60);
    let only = arguments.next();
    for (name, target) in TARGETS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let first = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
            << 32;
        println!("{name}: seeds from {first}");
        let start = Instant::now();
        let mut seed = first;
        while start.elapsed() < Duration::from_secs(seconds) {
            let mut random = Random::new(seed);
            let len = random.len(1500);
            target(&random.bytes(len));
            seed += 1;
        }
        println!("{name}: {} inputs, nothing found", seed - first);
    }
}
