//! The device's thread: its three queues around the muxer.

use std::io;
use std::time::Instant;

use vmm_sys_util::epoll::EventSet;

use super::muxer::{Filled, Muxer};
use crate::device::QueueState;
use crate::queue::Queue;
use crate::worker::{Edge, Handler, Next, Poller};

// Queues (5.10.2), and their tokens.
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const EVENT: usize = 2;
const LISTENER: u64 = 3;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (5.10.6.7).
const TRANSPORT_RESET: u32 = 0;

/// Packets and bytes taken from the guest before the other direction has its turn.
const BUDGET: usize = 64;
const BUDGET_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct VsockWorker {
    /// Receive, transmit, event: all three.
    queues: [Queue; 3],
    muxer: Muxer,
    /// The guest may have packets for us.
    packets: bool,
    /// There is something for the guest, and it has no receive buffers.
    starved: bool,
    /// The guest is to be told that its connections are gone.
    reset: bool,
}

impl VsockWorker {
    /// `reset`: whether the driver had connections that this device does not know.
    pub(super) fn new(queues: [Queue; 3], muxer: Muxer, reset: bool) -> Self {
        Self {
            queues,
            muxer,
            packets: true,
            starved: false,
            reset,
        }
    }

    pub(super) fn states(&self) -> Vec<Option<QueueState>> {
        self.queues
            .iter()
            .map(|queue| Some(queue.state()))
            .collect()
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, poller: &Poller) {
        let tx = &mut self.queues[TX];
        tx.disable_kicks();
        let mut bytes = 0;
        for _ in 0..BUDGET {
            if self.muxer.is_congested() || bytes > BUDGET_BYTES {
                return;
            }
            let Some(chain) = tx.pop() else {
                self.packets = tx.enable_kicks();
                return;
            };
            bytes += chain.readable_len();
            if self.muxer.packet(chain.reader(), poller).is_err() {
                tx.break_for("a packet shorter than its header");
            }
            tx.push(chain, 0);
        }
    }

    /// Fills the guest's receive buffers; true when there is more to do at once.
    fn receive(&mut self) -> bool {
        let rx = &mut self.queues[RX];
        if self.starved {
            return false;
        }
        rx.disable_kicks();
        match self.muxer.fill(rx) {
            Filled::All => false,
            Filled::Part => true,
            Filled::NoBuffers => {
                self.starved = !rx.enable_kicks();
                !self.starved
            }
        }
    }

    fn announce_reset(&mut self) {
        let events = &mut self.queues[EVENT];
        let _ = events.enable_kicks();
        if let Some(chain) = events.pop() {
            let written = chain.writer().write(&TRANSPORT_RESET.to_le_bytes());
            events.push(chain, written);
            self.reset = false;
        }
    }
}

impl Handler for VsockWorker {
    fn start(&mut self, poller: &Poller) -> io::Result<()> {
        for (token, queue) in (0..).zip(&self.queues) {
            poller.add(queue.kick_fd(), Edge::Event, token)?;
        }
        poller.add(self.muxer.listener_fd(), Edge::Triggered, LISTENER)
    }

    fn ready(&mut self, _: &Poller, token: u64, events: EventSet) {
        match token {
            LISTENER => self.muxer.listener_ready(),
            socket if socket > LISTENER => self.muxer.socket_ready(token, events),
            queue => {
                self.packets |= queue == TX as u64;
                self.starved &= queue != RX as u64;
            }
        }
    }

    fn turn(&mut self, poller: &Poller) -> Next {
        let now = Instant::now();
        self.muxer.expire(now);
        if self.reset {
            self.announce_reset();
        }
        if self.packets {
            self.transmit(poller);
        }
        // Behind all that gives places back.
        let mut more = self.muxer.accept(poller);
        more |= self.receive();
        for queue in &mut self.queues {
            queue.notify();
        }
        // A congested muxer goes on when the guest has given receive buffers.
        more |= self.packets && !(self.starved && self.muxer.is_congested());
        if more {
            Next::Again
        } else {
            self.muxer
                .next_deadline(now)
                .map_or(Next::Wait, Next::WaitFor)
        }
    }
}
