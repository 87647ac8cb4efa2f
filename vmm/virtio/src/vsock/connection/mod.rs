//! One connection: its state machine and its credit. Pure: it says what is to be done, the
//! muxer does it.
//!
//! ```text
//!    host connects                      guest connects
//!         |                                   |
//!     Requesting -- RESPONSE --+      Accepting
//!         |  \                 |          |  RESPONSE sent
//!         |   \ RST, 2 s       v          v
//!         |    \          Established <---+
//!         v     v              |
//!       closed (RST) <---------+  RST, a rule broken, both ends shut, 2 s after our SHUTDOWN
//! ```
//!
//! Credit (5.10.6.3): each side says in every packet how large its buffer is (`buf_alloc`) and
//! how much of what came has left it (`fwd_cnt`); the other has at most the difference under
//! way. Counters wrap.

mod credit;
#[cfg(test)]
mod tests;

use credit::{Credit, Window};

use super::HOST_CID;
use super::packet::{CLOSED, Header, NO_RECEIVE, NO_SEND, Op, STREAM};

/// The ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Requesting,
    Accepting,
    Established,
}

/// What the muxer has to do about a packet from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing beyond what [`Connection::has_control`] and [`Connection::may_send`] say.
    None,
    /// Tell the host program that it is connected.
    Connected,
    /// Give the payload to the host's socket.
    Deliver,
    /// Take the payload and forget it: the host's socket receives no more.
    Discard,
    /// The guest sends or receives no more, but not both: pass it on.
    HalfClosed,
    /// The guest is done with the connection: close the host's socket once it has all bytes.
    Closed,
    /// As [`Closed`](Self::Closed), and answer with a reset: the guest waits for it, or broke a rule.
    Reset,
}

/// Control packets that wait to be sent.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    shutdown: bool,
    credit_update: bool,
    credit_request: bool,
}

/// A connection between a host program and a guest's.
#[derive(Debug)]
pub(crate) struct Connection {
    guest_cid: u64,
    ports: Ports,
    state: State,
    window: Window,
    credit: Credit,
    pending: Pending,
    /// What the guest's shutdowns said.
    guest_shut: u32,
    /// What the host's socket said.
    host_shut: u32,
    /// A credit request was sent, and no credit has come since.
    asked: bool,
}

impl Connection {
    fn new(guest_cid: u64, ports: Ports, window: u32, state: State) -> Self {
        Self {
            guest_cid,
            ports,
            state,
            window: Window {
                size: window,
                received: 0,
                forwarded: 0,
                announced: 0,
            },
            credit: Credit::default(),
            pending: Pending::default(),
            guest_shut: 0,
            host_shut: 0,
            asked: false,
        }
    }

    /// A host program wants to connect.
    pub(crate) fn from_host(guest_cid: u64, ports: Ports, window: u32) -> Self {
        let mut connection = Self::new(guest_cid, ports, window, State::Requesting);
        connection.pending.request = true;
        connection
    }

    /// The guest connected with `request`, and a host program listens.
    pub(crate) fn from_guest(guest_cid: u64, request: &Header, window: u32) -> Self {
        let ports = Ports {
            host: request.dst_port,
            guest: request.src_port,
        };
        let mut connection = Self::new(guest_cid, ports, window, State::Accepting);
        connection.take_credit(request);
        connection.pending.response = true;
        connection
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// The bytes that the guest may have under way.
    pub(crate) fn window(&self) -> u32 {
        self.window.size
    }

    /// Whether both sides know of it.
    pub(crate) fn is_established(&self) -> bool {
        self.state == State::Established
    }

    fn take_credit(&mut self, header: &Header) {
        self.credit.size = header.buf_alloc;
        self.credit.forwarded = header.fwd_cnt;
        if self.credit.available() > 0 {
            self.asked = false;
        }
    }

    /// A packet of this connection came from the guest. Its payload has `header.len` bytes.
    pub(crate) fn receive(&mut self, header: &Header) -> Action {
        let Some(op) = Op::from_raw(header.op) else {
            return Action::Reset;
        };
        // Before any check: credit is in every packet, and wrong credit harms only its sender.
        self.take_credit(header);
        match (op, self.state) {
            (Op::Reset, _) => Action::Closed,
            (Op::Response, State::Requesting) => {
                self.state = State::Established;
                Action::Connected
            }
            (Op::Shutdown, _) => {
                self.guest_shut |= header.flags & CLOSED;
                match self.guest_shut {
                    CLOSED => Action::Reset,
                    0 => Action::None,
                    _ => Action::HalfClosed,
                }
            }
            (Op::Data, State::Established) => self.receive_data(header.len),
            (Op::CreditUpdate, _) => Action::None,
            (Op::CreditRequest, _) => {
                self.pending.credit_update = true;
                Action::None
            }
            // A second request, or data before the connection is there.
            (Op::Request | Op::Response | Op::Data, _) => Action::Reset,
        }
    }

    fn receive_data(&mut self, len: u32) -> Action {
        if self.guest_shut & NO_SEND != 0 || !self.window.receive(len) {
            return Action::Reset;
        }
        if self.host_shut & NO_RECEIVE != 0 {
            self.forwarded(len);
            return Action::Discard;
        }
        Action::Deliver
    }

    /// `len` bytes have left our buffer: the host's socket took them.
    pub(crate) fn forwarded(&mut self, len: u32) {
        self.window.forwarded = self.window.forwarded.wrapping_add(len);
    }

    /// The host's socket sends no more (`NO_SEND`), or takes no more (`NO_RECEIVE`).
    pub(crate) fn host_shut(&mut self, what: u32) {
        if self.host_shut | what != self.host_shut {
            self.host_shut |= what;
            self.pending.shutdown = true;
        }
    }

    /// Whether the guest was told that both directions are shut on our side: it answers by a
    /// reset.
    pub(crate) fn awaits_reset(&self) -> bool {
        self.host_shut == CLOSED && !self.pending.shutdown
    }

    /// Whether the guest receives no more.
    pub(crate) fn guest_receives_no_more(&self) -> bool {
        self.guest_shut & NO_RECEIVE != 0
    }

    /// Whether the guest sends no more.
    pub(crate) fn guest_sends_no_more(&self) -> bool {
        self.guest_shut & NO_SEND != 0
    }

    /// Whether bytes of the host's socket are of use to the guest, when there is credit.
    pub(crate) fn takes_data(&self) -> bool {
        self.state == State::Established
            && !self.pending.response
            && self.guest_shut & NO_RECEIVE == 0
            && self.host_shut & NO_SEND == 0
    }

    /// Bytes that may be sent now.
    pub(crate) fn may_send(&self) -> usize {
        if self.takes_data() {
            self.credit.available() as usize
        } else {
            0
        }
    }

    /// There are bytes to send and no credit: asks for some, once.
    pub(crate) fn want_credit(&mut self) {
        if !self.asked {
            self.asked = true;
            self.pending.credit_request = true;
        }
    }

    /// Whether [`control`](Self::control) has a packet.
    pub(crate) fn has_control(&self) -> bool {
        let Pending {
            request,
            response,
            shutdown,
            credit_update,
            credit_request,
        } = self.pending;
        request || response || shutdown || credit_update || credit_request || self.update_due()
    }

    /// Room is worth telling only to a guest that still sends.
    fn update_due(&self) -> bool {
        self.state == State::Established
            && self.guest_shut & NO_SEND == 0
            && self.window.update_due()
    }

    /// The control packet to send next; it counts as sent.
    pub(crate) fn control(&mut self) -> Option<Header> {
        let op = if std::mem::take(&mut self.pending.request) {
            Op::Request
        } else if std::mem::take(&mut self.pending.response) {
            self.state = State::Established;
            Op::Response
        } else if std::mem::take(&mut self.pending.shutdown) {
            Op::Shutdown
        } else if std::mem::take(&mut self.pending.credit_request) {
            Op::CreditRequest
        } else if std::mem::take(&mut self.pending.credit_update) || self.update_due() {
            Op::CreditUpdate
        } else {
            return None;
        };
        let flags = if op == Op::Shutdown {
            self.host_shut
        } else {
            0
        };
        Some(self.packet(op, flags, 0))
    }

    /// The header of `len` bytes of data, no more than [`may_send`](Self::may_send); they
    /// count as sent.
    pub(crate) fn data(&mut self, len: u32) -> Header {
        self.credit.sent = self.credit.sent.wrapping_add(len);
        self.packet(Op::Data, 0, len)
    }

    /// The reset that ends it.
    pub(crate) fn reset(&mut self) -> Header {
        self.packet(Op::Reset, 0, 0)
    }

    fn packet(&mut self, op: Op, flags: u32, len: u32) -> Header {
        self.pending.credit_update = false;
        self.window.announced = self.window.forwarded;
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len,
            kind: STREAM,
            op: op as u16,
            flags,
            buf_alloc: self.window.size,
            fwd_cnt: self.window.forwarded,
        }
    }
}
