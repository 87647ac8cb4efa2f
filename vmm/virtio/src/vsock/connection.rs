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

/// The guest's room in our buffer.
#[derive(Clone, Copy, Debug)]
struct Window {
    size: u32,
    received: u32,
    forwarded: u32,
    /// `forwarded` as the guest last heard of it.
    announced: u32,
}

impl Window {
    /// Takes `len` bytes; false when the guest was not allowed to send them.
    fn receive(&mut self, len: u32) -> bool {
        let held = self.received.wrapping_sub(self.forwarded);
        if len > self.size.saturating_sub(held) {
            return false;
        }
        self.received = self.received.wrapping_add(len);
        true
    }

    /// Whether the guest should hear that there is room: before it runs out of it.
    fn update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= self.size / 2
    }
}

/// Our room in the guest's buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Credit {
    size: u32,
    forwarded: u32,
    sent: u32,
}

impl Credit {
    fn available(&self) -> u32 {
        self.size
            .saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        host: 900,
        guest: 1024,
    };

    fn guest(op: Op, len: u32) -> Header {
        Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: PORTS.guest,
            dst_port: PORTS.host,
            len,
            kind: STREAM,
            op: op as u16,
            flags: 0,
            buf_alloc: 1000,
            fwd_cnt: 0,
        }
    }

    fn shutdown(flags: u32) -> Header {
        Header {
            flags,
            ..guest(Op::Shutdown, 0)
        }
    }

    fn established() -> Connection {
        let mut connection = Connection::from_host(3, PORTS, 100);
        assert_eq!(connection.control().unwrap().op, Op::Request as u16);
        assert_eq!(
            connection.receive(&guest(Op::Response, 0)),
            Action::Connected
        );
        connection
    }

    #[test]
    fn the_host_connects() {
        let mut connection = Connection::from_host(3, PORTS, 100);
        assert_eq!(connection.may_send(), 0);
        let request = connection.control().unwrap();
        assert_eq!((request.src_cid, request.dst_cid), (2, 3));
        assert_eq!((request.src_port, request.dst_port), (900, 1024));
        assert_eq!((request.op, request.buf_alloc), (Op::Request as u16, 100));
        assert!(!connection.has_control());
        assert!(!connection.is_established());
        assert_eq!(
            connection.receive(&guest(Op::Response, 0)),
            Action::Connected
        );
        assert_eq!(connection.may_send(), 1000);
    }

    #[test]
    fn the_guest_connects() {
        let mut connection = Connection::from_guest(3, &guest(Op::Request, 0), 100);
        assert_eq!(connection.ports(), PORTS);
        assert_eq!(connection.may_send(), 0, "not before the response");
        assert_eq!(
            connection.receive(&guest(Op::Data, 1)),
            Action::Reset,
            "not before the response"
        );
        let mut connection = Connection::from_guest(3, &guest(Op::Request, 0), 100);
        assert_eq!(connection.control().unwrap().op, Op::Response as u16);
        assert_eq!(connection.may_send(), 1000);
    }

    #[test]
    fn broken_rules_reset() {
        assert_eq!(
            Connection::from_host(3, PORTS, 100).receive(&guest(Op::Data, 1)),
            Action::Reset
        );
        assert_eq!(established().receive(&guest(Op::Request, 0)), Action::Reset);
        assert_eq!(
            established().receive(&guest(Op::Response, 0)),
            Action::Reset
        );
        let unknown = Header {
            op: 8,
            ..guest(Op::Data, 0)
        };
        assert_eq!(established().receive(&unknown), Action::Reset);
        let mut connection = established();
        assert_eq!(connection.receive(&shutdown(NO_SEND)), Action::HalfClosed);
        assert_eq!(
            connection.receive(&guest(Op::Data, 1)),
            Action::Reset,
            "sent after its end"
        );
    }

    #[test]
    fn the_guest_keeps_to_its_window() {
        let mut connection = established();
        assert_eq!(connection.receive(&guest(Op::Data, 60)), Action::Deliver);
        assert_eq!(connection.receive(&guest(Op::Data, 41)), Action::Reset);
        assert_eq!(connection.receive(&guest(Op::Data, 40)), Action::Deliver);
        assert_eq!(
            connection.receive(&guest(Op::Data, u32::MAX)),
            Action::Reset
        );
        assert!(!connection.has_control());
        connection.forwarded(49);
        assert!(!connection.has_control(), "half is left: no need to tell");
        connection.forwarded(1);
        let update = connection.control().unwrap();
        assert_eq!((update.op, update.fwd_cnt), (Op::CreditUpdate as u16, 50));
        assert!(!connection.has_control());
        assert_eq!(connection.receive(&guest(Op::Data, 50)), Action::Deliver);
        assert_eq!(connection.receive(&guest(Op::Data, 1)), Action::Reset);
    }

    #[test]
    fn the_window_wraps() {
        let mut connection = established();
        for _ in 0..10 {
            connection.window.received = u32::MAX - 20;
            connection.window.forwarded = u32::MAX - 20;
            connection.window.announced = u32::MAX - 20;
            assert_eq!(connection.receive(&guest(Op::Data, 100)), Action::Deliver);
            connection.forwarded(100);
            assert_eq!(connection.control().unwrap().fwd_cnt, 79);
        }
    }

    #[test]
    fn credit_is_kept_to_and_asked_for_once() {
        let mut connection = established();
        assert_eq!(connection.data(600).len, 600);
        assert_eq!(connection.may_send(), 400);
        connection.data(400);
        assert_eq!(connection.may_send(), 0);
        connection.want_credit();
        connection.want_credit();
        assert_eq!(connection.control().unwrap().op, Op::CreditRequest as u16);
        assert!(!connection.has_control());
        let update = Header {
            fwd_cnt: 300,
            ..guest(Op::CreditUpdate, 0)
        };
        assert_eq!(connection.receive(&update), Action::None);
        assert_eq!(connection.may_send(), 300);
        // A guest that claims to have forwarded what it never got gets nothing.
        let lie = Header {
            fwd_cnt: 5000,
            ..guest(Op::CreditUpdate, 0)
        };
        connection.receive(&lie);
        assert_eq!(connection.may_send(), 0);
    }

    #[test]
    fn a_credit_request_is_answered() {
        let mut connection = established();
        assert_eq!(
            connection.receive(&guest(Op::CreditRequest, 0)),
            Action::None
        );
        assert_eq!(connection.control().unwrap().op, Op::CreditUpdate as u16);
        assert!(!connection.has_control());
    }

    #[test]
    fn the_guest_closes_in_two_steps_or_one() {
        let mut connection = established();
        assert_eq!(
            connection.receive(&shutdown(NO_RECEIVE)),
            Action::HalfClosed
        );
        assert_eq!(connection.may_send(), 0);
        assert_eq!(
            connection.receive(&guest(Op::Data, 1)),
            Action::Deliver,
            "it still sends"
        );
        assert_eq!(connection.receive(&shutdown(NO_SEND)), Action::Reset);
        assert_eq!(established().receive(&shutdown(CLOSED)), Action::Reset);
        assert_eq!(established().receive(&shutdown(0)), Action::None);
        assert_eq!(established().receive(&guest(Op::Reset, 0)), Action::Closed);
    }

    #[test]
    fn the_host_closes_in_two_steps() {
        let mut connection = established();
        connection.host_shut(NO_SEND);
        assert_eq!(connection.control().unwrap().flags, NO_SEND);
        assert_eq!(connection.may_send(), 0);
        assert!(!connection.awaits_reset());
        assert_eq!(connection.receive(&guest(Op::Data, 10)), Action::Deliver);
        connection.host_shut(NO_RECEIVE);
        assert!(!connection.awaits_reset());
        assert_eq!(connection.control().unwrap().flags, CLOSED);
        assert!(connection.awaits_reset());
        connection.host_shut(CLOSED);
        assert!(!connection.has_control(), "said once");
        assert_eq!(connection.receive(&guest(Op::Data, 10)), Action::Discard);
        assert_eq!(connection.receive(&guest(Op::Reset, 0)), Action::Closed);
    }
}
