//! A network namespace of the test's own, and guests that speak raw frames in it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bulkhead_net::{Lease, MacAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// The virtio-net header that a tap puts before each frame.
const VNET_HEADER_LEN: usize = 10;
pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// Runs a test in a network namespace of its own, on a thread of its own, which is
/// gone with the thread. Nothing of the machine's network is touched.
///
/// Panics with a hint if the caller isn't root: a test that can't run has not passed.
pub fn in_namespace<F, T>(test: F)
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()>,
{
    let worker = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("these tests make a network namespace, which needs root");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The far end of a tap: what a pod's kernel would send and receive.
pub struct Guest {
    pub tap: File,
    pub mac: MacAddr,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

impl Guest {
    pub fn new(lease: &Lease, tap: std::os::fd::OwnedFd) -> Self {
        let mut ips = lease.ips();
        let (Some(std::net::IpAddr::V4(ipv4)), Some(std::net::IpAddr::V6(ipv6))) =
            (ips.next(), ips.next())
        else {
            panic!("expected one address of each family");
        };
        Self {
            tap: File::from(tap),
            mac: lease.mac,
            ipv4,
            ipv6,
        }
    }

    pub fn send(&mut self, frame: &[u8]) {
        let mut bytes = vec![0; VNET_HEADER_LEN];
        bytes.extend_from_slice(frame);
        self.tap.write_all(&bytes).unwrap();
    }

    /// The next frame that matches, or `None` if none comes within the time.
    pub fn receive(
        &mut self,
        within: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        let mut buffer = vec![0; 65_536 + VNET_HEADER_LEN];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut descriptors = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap();
            if poll(&mut descriptors, timeout).unwrap() == 0 {
                return None;
            }
            let length = self.tap.read(&mut buffer).unwrap();
            let frame = &buffer[VNET_HEADER_LEN..length];
            if wanted(frame) {
                return Some(frame.to_vec());
            }
        }
    }

    /// Sends until an answer comes: the bridge needs a moment to notice its first port.
    pub fn ask(&mut self, frame: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        for _ in 0..50 {
            self.send(frame);
            if let Some(answer) = self.receive(Duration::from_millis(100), &wanted) {
                return answer;
            }
        }
        panic!("no answer in five seconds");
    }
}

pub fn ethernet(to: MacAddr, from: MacAddr, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&ether_type.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// An ARP payload; operation 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4];
    payload.extend_from_slice(&operation.to_be_bytes());
    payload.extend_from_slice(&sender.0.0);
    payload.extend_from_slice(&sender.1.octets());
    payload.extend_from_slice(&[0; 6]);
    payload.extend_from_slice(&target.octets());
    payload
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(payload);
    packet
}

pub fn udp(from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    datagram.extend_from_slice(&from_port.to_be_bytes());
    datagram.extend_from_slice(&to_port.to_be_bytes());
    datagram.extend_from_slice(&length.to_be_bytes());
    // No checksum, which IPv4 allows.
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    datagram
}

pub fn echo_request() -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[next_header, 255]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(payload);
    packet
}

/// An ICMPv6 message in an IPv6 packet, with its checksum.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(body);
    let length = u32::try_from(message.len()).unwrap();
    let mut summed = Vec::new();
    summed.extend_from_slice(&from.octets());
    summed.extend_from_slice(&to.octets());
    summed.extend_from_slice(&length.to_be_bytes());
    summed.extend_from_slice(&[0, 0, 0, 58]);
    summed.extend_from_slice(&message);
    let sum = checksum(&summed).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    ipv6(from, to, 58, &message)
}

/// Body of a neighbour solicitation (kind 135) or advertisement (136) after its
/// checksum: flags, target, and the sender's MAC as the option of that number.
pub fn neighbour(target: Ipv6Addr, option: u8, mac: MacAddr) -> Vec<u8> {
    let mut body = vec![0x60, 0, 0, 0];
    body.extend_from_slice(&target.octets());
    body.extend_from_slice(&[option, 1]);
    body.extend_from_slice(&mac.0);
    body
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
