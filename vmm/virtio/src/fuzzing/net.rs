//! Frames of the driver, and frames into its buffers.

use std::os::fd::AsFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::input::{Input, driver, offer};
use crate::net::fuzzing::Bench;
use crate::queue::{Health, Queue};

/// Both directions of a card, any shape and any header.
pub fn net(data: &[u8]) {
    let mut input = Input::new(data);
    let negotiated = input.u64();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (tap, wire) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let mut bench = Bench::new(negotiated, 100 + input.u16() % 1500);
    let (tx_memory, mut tx_driver) = driver(data, true);
    let (rx_memory, mut rx_driver) = driver(data, true);
    let features = crate::features::EVENT_IDX;
    let mut tx = Queue::new(
        1,
        tx_driver.active(),
        tx_memory,
        features,
        16,
        Health::new("fuzz"),
    )
    .unwrap();
    let mut rx = Queue::new(
        0,
        rx_driver.active(),
        rx_memory,
        features,
        16,
        Health::new("fuzz"),
    )
    .unwrap();
    let mut out = vec![0; 70_000];
    while !input.is_empty() {
        if input.byte().is_multiple_of(2) {
            let readable = input.pieces(8, 2000);
            offer(&mut input, &mut tx_driver, &readable, &[]);
            bench.transmit(&mut tx, tap.as_fd());
            while let Ok((_, len)) = recv(&wire, &mut out[..], RecvFlags::DONTWAIT) {
                // Only what was checked leaves: a header, and a frame behind it.
                assert!(len >= 26, "{len}");
            }
            while tx_driver.try_used().is_some() {}
        } else {
            let writable = input.pieces(8, 2000);
            offer(&mut input, &mut rx_driver, &[], &writable);
            let len = usize::from(input.u16() % 3000);
            let frame = input.slice(len);
            let _ = send(&wire, frame, SendFlags::DONTWAIT);
            bench.receive(&mut rx, tap.as_fd());
            while rx_driver.try_used().is_some() {}
        }
    }
    bench.stop(&mut rx);
    if !rx.failed() {
        assert_eq!(rx.in_flight(), 0);
    }
}
