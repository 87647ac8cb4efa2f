//! Bodies of the fuzz targets: arbitrary bytes in, no panic out.

use bytes::{Bytes, BytesMut};

use crate::{
    remote::resize::Sizes,
    spdy::connection::{Connection, Role},
    websocket::channels::{Dialect, Encoding},
};

/// A SPDY connection, from a client that says anything, in pieces.
pub fn spdy(bytes: &[u8]) {
    let (step, wire) = bytes.split_first().unwrap_or((&1, &[]));
    let mut connection = Connection::new(Role::Server);
    let mut input = BytesMut::new();
    for piece in wire.chunks(usize::from(*step).max(1)) {
        input.extend_from_slice(piece);
        loop {
            match connection.receive(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A header block behind another: the stream of all blocks has a state.
pub fn spdy_headers(bytes: &[u8]) {
    let (at, blocks) = bytes.split_first().unwrap_or((&0, &[]));
    let (first, second) = blocks.split_at(usize::from(*at).min(blocks.len()));
    let mut inflater = crate::spdy::headers::Inflater::default();
    let _ = inflater.read(first);
    let _ = inflater.read(second);
}

/// A WebSocket's messages, and terminal sizes in them.
pub fn channels(bytes: &[u8]) {
    let mut sizes = Sizes::default();
    for (encoding, half_close) in [(Encoding::Binary, true), (Encoding::Base64, false)] {
        let dialect = Dialect {
            encoding,
            half_close,
        };
        if let Ok(crate::websocket::channels::Message::Data(_, data)) =
            dialect.read(Bytes::copy_from_slice(bytes))
        {
            let _ = sizes.push(&data);
        }
    }
}
