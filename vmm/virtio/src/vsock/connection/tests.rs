//! The state machine, event by event.

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
