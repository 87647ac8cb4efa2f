//! The thread of a pair of queues.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vmm_sys_util::epoll::EventSet;

use super::receive::{Received, Receiver};
use super::tap::Tap;
use super::transmit::{Transmitted, Transmitter};
use crate::device::QueueState;
use crate::queue::Queue;
use crate::worker::{Edge, Handler, Next, Poller};

// Queues of the pair (5.1.2), and their tokens.
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
const TAP: u64 = 2;

#[derive(Debug)]
pub(super) struct NetWorker {
    /// Receive, transmit.
    queues: [Queue; 2],
    tap: Tap,
    receiver: Receiver,
    transmitter: Transmitter,
    /// The tap may have frames.
    readable: bool,
    /// The tap may take frames.
    writable: bool,
    /// The driver has too few receive buffers, and was asked to kick.
    starved: bool,
    /// The driver may have frames.
    frames: bool,
}

impl NetWorker {
    pub(super) fn new(
        queues: [Queue; 2],
        tap: Tap,
        receiver: Receiver,
        transmitter: Transmitter,
    ) -> Self {
        Self {
            queues,
            tap,
            receiver,
            transmitter,
            readable: true,
            writable: true,
            starved: false,
            frames: true,
        }
    }

    pub(super) fn states(&self) -> Vec<Option<QueueState>> {
        self.queues
            .iter()
            .map(|queue| Some(queue.state()))
            .collect()
    }

    /// True when there is more to do at once.
    fn receive(&mut self) -> bool {
        if !self.readable || self.starved {
            return false;
        }
        let rx = &mut self.queues[RX];
        match self.receiver.run(rx, self.tap.as_fd()) {
            Received::TapEmpty => {
                self.readable = false;
                false
            }
            Received::Part => true,
            Received::NoBuffers => {
                self.starved = !rx.enable_kicks();
                !self.starved
            }
        }
    }

    /// True when there is more to do at once.
    fn transmit(&mut self) -> bool {
        if !self.frames || !self.writable {
            return false;
        }
        match self.transmitter.run(&mut self.queues[TX], self.tap.as_fd()) {
            Transmitted::QueueEmpty => {
                self.frames = false;
                false
            }
            Transmitted::Part => true,
            Transmitted::TapFull => {
                self.writable = false;
                false
            }
        }
    }
}

impl Handler for NetWorker {
    fn start(&mut self, poller: &Poller) -> io::Result<()> {
        for (token, queue) in (0..).zip(&self.queues) {
            poller.add(queue.kick_fd(), Edge::Event, token)?;
        }
        poller.add(self.tap.as_fd().as_raw_fd(), Edge::Triggered, TAP)
    }

    fn ready(&mut self, _: &Poller, token: u64, events: EventSet) {
        if token == TAP {
            let broken = events.intersects(EventSet::ERROR | EventSet::HANG_UP);
            self.readable |= broken || events.contains(EventSet::IN);
            self.writable |= broken || events.contains(EventSet::OUT);
        } else if token == TX as u64 {
            self.frames = true;
        } else {
            self.starved = false;
        }
    }

    fn turn(&mut self, _: &Poller) -> Next {
        let more = self.transmit() | self.receive();
        for queue in &mut self.queues {
            queue.notify();
        }
        if more { Next::Again } else { Next::Wait }
    }

    /// Empty receive buffers go back to the driver.
    fn drain(&mut self, _: &Poller) {
        self.receiver.give_back(&mut self.queues[RX]);
    }
}
