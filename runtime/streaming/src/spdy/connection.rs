//! One end of a connection: which streams are open, and what the protocol wants
//! answered. Pure: bytes in, events and bytes out.
//!
//! ```text
//!             SYN_STREAM ──► SYN_REPLY
//!                  open (both directions)
//!    FIN received │                 │ FIN sent
//!           half closed         half closed
//!    FIN sent     │                 │ FIN received
//!                  gone ◄── RST_STREAM, either side
//! ```
//!
//! Frames for streams that are gone are let pass: they were under way.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::{
    Fault,
    frame::{self, Decoder, Frame, ID_MAX, Status},
    headers::{Deflater, Headers, Inflater},
};

/// Most streams that a peer may have open: 128 forwarded connections.
pub const STREAMS_MAX: usize = 256;
/// Largest data frame that is sent, bytes.
const PIECE: usize = 64 << 10;
/// The window of a stream and of a connection (section 2.6.8), bytes.
const WINDOW: u32 = 64 << 10;
/// Most bytes of answers (to pings, to opened streams) that a peer may leave
/// unread.
const ANSWERS_MAX: usize = 64 << 10;

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its streams have odd ids.
    Client,
    /// Its pings have even ids; it opens no streams.
    Server,
}

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It opened a stream, which is accepted.
    Opened(u32, Headers),
    /// It accepted a stream.
    Accepted(u32),
    /// It sent bytes, at least one.
    Data(u32, Bytes),
    /// It sends no more on a stream.
    Ended(u32),
    /// It gave a stream up.
    Reset(u32),
}

#[derive(Debug, Default)]
struct Stream {
    received_all: bool,
    sent_all: bool,
    /// Bytes that came and are not credited yet.
    uncredited: u32,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    decoder: Decoder,
    inflater: Inflater,
    deflater: Deflater,
    streams: HashMap<u32, Stream>,
    events: VecDeque<Event>,
    out: BytesMut,
    last_accepted: u32,
    next_stream: u32,
    next_ping: u32,
    uncredited: u32,
}

impl Connection {
    /// A connection that has just been upgraded to.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            decoder: Decoder::default(),
            inflater: Inflater::default(),
            deflater: Deflater::default(),
            streams: HashMap::new(),
            events: VecDeque::new(),
            out: BytesMut::new(),
            last_accepted: 0,
            next_stream: 1,
            next_ping: if role == Role::Server { 2 } else { 1 },
            uncredited: 0,
        }
    }

    /// What is to be sent; taken from the front.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Bytes that are to be sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// The next event, from bytes taken from the front of `input`; `None` until
    /// more has come.
    ///
    /// # Errors
    /// [`Fault`]: the peer broke the protocol.
    pub fn receive(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.decoder.decode(input)? {
                Some(frame) => self.take(frame)?,
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Fault> {
        match frame {
            Frame::SynStream { id, fin, block } => {
                let headers = self.inflater.read(&block)?;
                return self.opened(id, fin, headers);
            }
            Frame::SynReply { id, fin, block } => {
                self.inflater.read(&block)?;
                if self.streams.contains_key(&id) {
                    self.events.push_back(Event::Accepted(id));
                    self.received(id, fin);
                }
            }
            Frame::Headers { id, fin, block } => {
                self.inflater.read(&block)?;
                self.received(id, fin);
            }
            Frame::Reset { id } => {
                if self.streams.remove(&id).is_some() {
                    self.events.push_back(Event::Reset(id));
                }
            }
            Frame::Ping(id) => {
                let ours = id.is_multiple_of(2) == (self.role == Role::Server);
                if !ours {
                    self.answer(|out| frame::ping(out, id))?;
                }
            }
            Frame::Data { id, fin, bytes } => {
                self.credit(id, &bytes)?;
                let open = self.streams.get(&id).is_some_and(|it| !it.received_all);
                if open && !bytes.is_empty() {
                    self.events.push_back(Event::Data(id, bytes));
                }
                self.received(id, fin);
            }
            Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }

    fn opened(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), Fault> {
        if self.role == Role::Client || id.is_multiple_of(2) {
            return Err(Fault("a stream with an id of the other end's"));
        }
        if id <= self.last_accepted {
            return Err(Fault("a stream id that is not above the one before"));
        }
        self.last_accepted = id;
        if self.streams.len() >= STREAMS_MAX {
            return self.answer(|out| frame::reset(out, id, Status::Refused));
        }
        let block = self.deflater.write(&Headers::default())?;
        self.answer(|out| frame::syn_reply(out, id, &block))?;
        self.streams.insert(id, Stream::default());
        self.events.push_back(Event::Opened(id, headers));
        self.received(id, fin);
        Ok(())
    }

    /// Writes an answer, which a peer that doesn't read would let pile up.
    fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), Fault> {
        let data_max = 2 * crate::link::OUT_MAX;
        if self.out.len() > data_max + ANSWERS_MAX {
            return Err(Fault("answers are not read"));
        }
        write(&mut self.out);
        Ok(())
    }

    /// Notes the end of what a stream receives, if this is it.
    fn received(&mut self, id: u32, fin: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| fin) else {
            return;
        };
        if !std::mem::replace(&mut stream.received_all, true) {
            self.events.push_back(Event::Ended(id));
        }
        if stream.sent_all {
            self.streams.remove(&id);
        }
    }

    /// Opens the windows again for what came.
    fn credit(&mut self, id: u32, bytes: &[u8]) -> Result<(), Fault> {
        // A piece is at most what was read from the socket at once.
        let len = u32::try_from(bytes.len()).unwrap_or(ID_MAX);
        self.uncredited = self.uncredited.saturating_add(len);
        if self.uncredited >= WINDOW / 2 {
            let delta = std::mem::take(&mut self.uncredited);
            self.answer(|out| frame::window_update(out, 0, delta))?;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.uncredited = stream.uncredited.saturating_add(len);
        if stream.uncredited >= WINDOW / 2 {
            let delta = std::mem::take(&mut stream.uncredited);
            self.answer(|out| frame::window_update(out, id, delta))?;
        }
        Ok(())
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When ids or zlib give out.
    pub fn open(&mut self, headers: &Headers) -> Result<u32, Fault> {
        let id = self.next_stream;
        if self.role != Role::Client || id > ID_MAX {
            return Err(Fault("no stream can be opened"));
        }
        self.next_stream += 2;
        let block = self.deflater.write(headers)?;
        frame::syn_stream(&mut self.out, id, false, &block);
        self.streams.insert(id, Stream::default());
        Ok(id)
    }

    /// Sends bytes. Nothing happens for a stream that takes none.
    pub fn send(&mut self, id: u32, bytes: &[u8]) {
        if self.streams.get(&id).is_some_and(|it| !it.sent_all) {
            for piece in bytes.chunks(PIECE) {
                frame::data(&mut self.out, id, false, piece);
            }
        }
    }

    /// Sends no more on a stream.
    pub fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|it| !it.sent_all) else {
            return;
        };
        stream.sent_all = true;
        if stream.received_all {
            self.streams.remove(&id);
        }
        frame::data(&mut self.out, id, true, &[]);
    }

    /// Gives a stream up.
    pub fn reset(&mut self, id: u32) {
        if self.streams.remove(&id).is_some() {
            frame::reset(&mut self.out, id, Status::Cancel);
        }
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self) {
        frame::ping(&mut self.out, self.next_ping);
        self.next_ping = self.next_ping.wrapping_add(2);
    }

    /// Says goodbye.
    pub fn go_away(&mut self, fault: bool) {
        frame::go_away(&mut self.out, self.last_accepted, fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        client: Connection,
        server: Connection,
    }

    impl Pair {
        fn new() -> Self {
            Self {
                client: Connection::new(Role::Client),
                server: Connection::new(Role::Server),
            }
        }

        /// What the server sees of what the client has sent.
        fn at_server(&mut self) -> Result<Vec<Event>, Fault> {
            all(&mut self.client, &mut self.server)
        }

        fn at_client(&mut self) -> Result<Vec<Event>, Fault> {
            all(&mut self.server, &mut self.client)
        }
    }

    fn all(from: &mut Connection, to: &mut Connection) -> Result<Vec<Event>, Fault> {
        let mut input = from.out().split();
        let mut events = Vec::new();
        while let Some(event) = to.receive(&mut input)? {
            events.push(event);
        }
        Ok(events)
    }

    fn headers(kind: &str) -> Headers {
        [("streamType", kind)].into_iter().collect()
    }

    #[test]
    fn streams_open_carry_bytes_and_end_each_way() {
        let mut pair = Pair::new();
        let id = pair.client.open(&headers("data")).unwrap();
        pair.client.send(id, b"ping");
        pair.client.finish(id);
        assert_eq!(
            pair.at_server().unwrap(),
            [
                Event::Opened(id, headers("data")),
                Event::Data(id, Bytes::from_static(b"ping")),
                Event::Ended(id)
            ]
        );
        pair.server.send(id, b"pong");
        pair.server.finish(id);
        pair.server.send(id, b"too late");
        assert_eq!(
            pair.at_client().unwrap(),
            [
                Event::Accepted(id),
                Event::Data(id, Bytes::from_static(b"pong")),
                Event::Ended(id)
            ]
        );
        assert!(pair.server.streams.is_empty() && pair.client.streams.is_empty());
    }

    #[test]
    fn a_reset_ends_one_stream_and_what_was_under_way_passes() {
        let mut pair = Pair::new();
        let (a, b) = (
            pair.client.open(&headers("a")).unwrap(),
            pair.client.open(&headers("b")).unwrap(),
        );
        pair.at_server().unwrap();
        pair.client.send(a, b"under way");
        pair.client.send(b, b"lives");
        pair.server.reset(a);
        assert_eq!(
            pair.at_server().unwrap(),
            [Event::Data(b, Bytes::from_static(b"lives"))]
        );
        let seen = pair.at_client().unwrap();
        assert_eq!(seen.last(), Some(&Event::Reset(a)));
    }

    #[test]
    fn pings_come_back_and_are_not_answered_twice() {
        let mut pair = Pair::new();
        pair.client.ping();
        let sent = pair.client.out.clone();
        pair.at_server().unwrap();
        assert_eq!(pair.server.out, sent);
        pair.at_client().unwrap();
        assert!(pair.client.out.is_empty(), "its own ping is not answered");
        pair.server.ping();
        let sent = pair.server.out.clone();
        pair.at_client().unwrap();
        assert_eq!(pair.client.out, sent);
        pair.at_server().unwrap();
        assert!(pair.server.out.is_empty(), "its own ping is not answered");
    }

    #[test]
    fn what_came_is_credited_to_stream_and_connection() {
        let mut pair = Pair::new();
        let id = pair.client.open(&headers("data")).unwrap();
        pair.at_server().unwrap();
        pair.server.out.clear();
        pair.client.send(id, &[0; 40_000]);
        pair.at_server().unwrap();
        let mut wanted = BytesMut::new();
        frame::window_update(&mut wanted, 0, 40_000);
        frame::window_update(&mut wanted, id, 40_000);
        assert_eq!(pair.server.out, wanted);
    }

    #[test]
    fn streams_are_capped_and_ids_only_grow() {
        let mut pair = Pair::new();
        let ids: Vec<u32> = (0..=STREAMS_MAX)
            .map(|_| pair.client.open(&headers("x")).unwrap())
            .collect();
        let opened = pair.at_server().unwrap();
        assert_eq!(opened.len(), STREAMS_MAX);
        let seen = pair.at_client().unwrap();
        assert_eq!(seen.last(), Some(&Event::Reset(*ids.last().unwrap())));

        let mut pair = Pair::new();
        pair.client.next_stream = 3;
        pair.client.open(&headers("x")).unwrap();
        pair.at_server().unwrap();
        pair.client.next_stream = 1;
        pair.client.open(&headers("x")).unwrap();
        assert!(pair.at_server().is_err());
    }

    #[test]
    fn a_peer_that_pings_and_never_reads_is_cut_off() {
        let mut server = Connection::new(Role::Server);
        let mut wire = BytesMut::new();
        frame::ping(&mut wire, 1);
        let cut = (0..1_000_000).any(|_| server.receive(&mut wire.clone()).is_err());
        assert!(cut);
    }
}
