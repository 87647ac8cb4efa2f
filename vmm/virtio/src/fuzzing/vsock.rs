//! Packets of the guest: to one connection's state machine, and to the whole device.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use super::input::{Input, driver, offer};
use crate::queue::{Health, Queue};
use crate::testing::Piece;
use crate::vsock::fuzzing::{Bench, Model};

/// One connection, and every event that can happen to it, in any order.
pub fn vsock_connection(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model::new(input.byte().is_multiple_of(2), 1 + input.u32() % 1000);
    while !input.is_empty() {
        match input.byte() % 6 {
            0 => model.host_shut(input.u32()),
            1 => model.send(input.u32()),
            2 => model.control(),
            3 => model.forward(input.u32()),
            _ => {
                let small = !input.byte().is_multiple_of(4);
                let len = if small {
                    input.u32() % 600
                } else {
                    input.u32()
                };
                let op = if small { input.u16() % 9 } else { input.u16() };
                if model.packet(op, len, input.u32(), input.u32() % 4000, input.u32() % 4000) {
                    return;
                }
            }
        }
    }
}

struct Place {
    listener: UnixListener,
    path: std::path::PathBuf,
    /// Port 9: a program of the host.
    program: UnixListener,
}

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// The device between its queues and real sockets: connections from both sides, packets of any
/// shape and content, receive buffers that come and go.
pub fn vsock_device(data: &[u8]) {
    let mut input = Input::new(data);
    let (listener, program, path) = PLACE.with_borrow_mut(|place| {
        let place = place.get_or_insert_with(|| {
            let path = std::env::temp_dir().join(format!(
                "vsock-fuzz-{}-{:?}",
                std::process::id(),
                std::thread::current().id()
            ));
            let bind = |path: &std::path::Path| {
                let _ = std::fs::remove_file(path);
                let listener = UnixListener::bind(path).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener
            };
            let mut program = path.clone().into_os_string();
            program.push("_9");
            Place {
                listener: bind(&path),
                program: bind(program.as_ref()),
                path,
            }
        });
        (
            place.listener.try_clone().unwrap(),
            place.program.try_clone().unwrap(),
            place.path.clone(),
        )
    });
    let (tx_memory, mut tx_driver) = driver(data, true);
    let (rx_memory, mut rx_driver) = driver(data, true);
    let features = crate::features::EVENT_IDX;
    let mut tx = Queue::new(
        1,
        tx_driver.active(),
        tx_memory.clone(),
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
    let mut headers = crate::testing::Arena::new(tx_memory, 0x7000, 0x8000);
    let mut bench = Bench::new(listener, path.clone());
    let mut hosts: Vec<UnixStream> = Vec::new();
    while !input.is_empty() {
        match input.byte() % 8 {
            0 if hosts.len() < 4 => {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.set_nonblocking(true).unwrap();
                let _ = stream.write(b"CONNECT 9\n");
                hosts.push(stream);
            }
            1 => {
                let index = usize::from(input.byte());
                if let Some(stream) = hosts.get_mut(index % 4) {
                    let _ = stream.write(input.slice(300));
                    let _ = stream.read(&mut [0; 5000]);
                }
            }
            2 if !hosts.is_empty() => {
                let index = usize::from(input.byte()) % hosts.len();
                hosts.swap_remove(index);
            }
            3 | 4 => {
                let writable = input.pieces(3, 3000);
                offer(&mut input, &mut rx_driver, &[], &writable);
                while rx_driver.try_used().is_some() {}
            }
            _ => {
                let mut header = [0; 44];
                // From the guest to the host, unless the fuzzer wants otherwise.
                header[0] = 3;
                header[8] = 2;
                header[28] = 1;
                header[16..20].copy_from_slice(&[9, 0, 0, 0]);
                let host_port = match input.byte() % 4 {
                    0 => 9,
                    _ => (1 << 30) + u32::from(input.byte() % 4),
                };
                header[20..24].copy_from_slice(&host_port.to_le_bytes());
                if host_port == 9 {
                    header[16] = input.byte() % 4;
                }
                header[30] = input.byte() % 9;
                let len = if input.byte() == 0 {
                    input.u32()
                } else {
                    u32::from(input.u16() % 3000)
                };
                header[24..28].copy_from_slice(&len.to_le_bytes());
                header[32] = input.byte() % 4;
                header[36..40].copy_from_slice(&(u32::from(input.u16()) * 8).to_le_bytes());
                header[40..].copy_from_slice(&u32::from(input.u16()).to_le_bytes());
                if input.byte() == 0 {
                    header[usize::from(input.byte() % 44)] = input.byte();
                }
                let mut readable: Vec<Piece> = vec![headers.put(&header)];
                readable.extend(input.pieces(5, 2000));
                offer(&mut input, &mut tx_driver, &readable, &[]);
            }
        }
        bench.turn(&mut tx, &mut rx);
        while tx_driver.try_used().is_some() {}
        if let Ok((stream, _)) = program.accept()
            && hosts.len() < 4
        {
            stream.set_nonblocking(true).unwrap();
            hosts.push(stream);
        }
    }
    assert!(tx.failed() || tx.in_flight() == 0);
    assert!(rx.failed() || rx.in_flight() == 0);
}
