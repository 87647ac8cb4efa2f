//! With a real tap, in a network namespace of its own.
#![allow(unsafe_code, reason = "sets up a namespace, a tap and a packet socket")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::*;

/// The packet socket's protocol: the kernel checks that segmentation fits it. Frames of random
/// bytes under it are nothing that the host's stack would answer.
const IPV4: u16 = 0x0800;

/// Puts this thread in a network namespace of its own. A test that can't run has not passed,
/// so the lack of the capability is a failure.
fn enter_namespace() {
    // SAFETY: takes only flags.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "making a network namespace needs root");
}

fn owned(fd: libc::c_int) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that was just made and belongs to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A tap named `tap0`, up, and a packet socket on it that speaks the 10-byte header.
fn tap_and_wire() -> (OwnedFd, OwnedFd) {
    // SAFETY: plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tap0") {
        *to = (*from).cast_signed();
    }
    // SAFETY: every argument is a valid pointer or a plain number; each result is checked.
    unsafe {
        let tap = owned(libc::open(
            c"/dev/net/tun".as_ptr(),
            libc::O_RDWR | libc::O_CLOEXEC,
        ));
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        assert_eq!(
            libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &request),
            0
        );

        let protocol = IPV4.to_be();
        let wire = owned(libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol.into(),
        ));
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        assert_eq!(
            libc::ioctl(wire.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request),
            0
        );
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = libc::if_nametoindex(request.ifr_name.as_ptr()).cast_signed();
        let size = size_of::<libc::sockaddr_ll>() as u32;
        assert_eq!(
            libc::bind(wire.as_raw_fd(), (&raw const address).cast(), size),
            0
        );
        let on: libc::c_int = 1;
        let option = libc::setsockopt(
            wire.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            4,
        );
        assert_eq!(option, 0);
        (tap, wire)
    }
}

/// A frame of IPv4, `len` bytes long.
fn segment(len: usize) -> Vec<u8> {
    let mut frame = Random::new(3).bytes(len);
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&ADDRESS);
    frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
    frame
}

#[test]
fn frames_cross_a_real_tap() {
    let outcome = std::thread::spawn(|| {
        enter_namespace();
        let (tap, wire) = tap_and_wire();
        let device = Net::new(NetConfig {
            check_source: true,
            ..config(tap)
        })
        .unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &wire,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .unwrap();
        let mut card = Card {
            rig: Rig::new(device, u64::MAX),
            wire,
            posted: HashMap::new(),
        };
        let mut random = Random::new(1);

        // Out: the packet socket's header is 10 bytes.
        for len in [60, 1514] {
            let frame = segment(len);
            card.transmit([0; HEADER], &frame, 5, &mut random);
            assert!(card.leave()[10..] == frame);
        }

        // In, and what the host's own stack says on a new interface beside it.
        card.post(200, 1536, 1, &mut random);
        for len in [60, 1514] {
            let frame = segment(len);
            let packet = [&[0; 10][..], &frame].concat();
            assert_eq!(
                send(&card.wire, &packet, SendFlags::empty()),
                Ok(packet.len())
            );
            let got = std::iter::repeat_with(|| card.received().1).find(|got| *got == frame);
            assert!(got.is_some());
        }

        // A segment of 40 kB crosses whole, because the driver takes segmentation undone.
        let mut frame = segment(40_000);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(40_000u16 - 14).to_be_bytes());
        frame[23] = 6;
        frame[46] = 5 << 4;
        let gso = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0];
        let packet = [&gso[..], &frame].concat();
        assert_eq!(
            send(&card.wire, &packet, SendFlags::empty()),
            Ok(packet.len())
        );
        let big = std::iter::repeat_with(|| card.received())
            .find(|(_, got)| got.len() > 2000)
            .unwrap();
        assert_eq!((big.0, big.1.len()), (27, 40_000));
        assert!(big.1[54..] == frame[54..]);
        assert_eq!(card.rig.device.stop().len(), 2);
    })
    .join();
    outcome.unwrap();
}
