//! Takes output from the driver.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use vmm_sys_util::epoll::EventSet;

use super::tail::{ConsoleTail, TAIL};
use crate::chain::Reader;
use crate::device::QueueState;
use crate::queue::Queue;
use crate::worker::{Edge, Handler, Next, Poller};

const OUTPUT: usize = 1;

/// Buffers per turn: a guest in a panic prints line by line, each a buffer.
const BUDGET: usize = 64;

/// Bytes copied at a time.
const CHUNK: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct ConsoleWorker {
    /// Input, output.
    queues: Vec<Queue>,
    tail: ConsoleTail,
    echo: Option<std::fs::File>,
}

impl ConsoleWorker {
    pub(crate) fn new(queues: Vec<Queue>, tail: ConsoleTail, echo: Option<OwnedFd>) -> Self {
        Self {
            queues,
            tail,
            echo: echo.map(Into::into),
        }
    }

    pub(crate) fn states(&self) -> Vec<Option<QueueState>> {
        self.queues
            .iter()
            .map(|queue| Some(queue.state()))
            .collect()
    }

    /// Serves up to [`BUDGET`] buffers of output; true when there are more.
    pub(crate) fn serve(&mut self) -> bool {
        let Some(queue) = self.queues.get_mut(OUTPUT) else {
            return false;
        };
        queue.disable_kicks();
        for _ in 0..BUDGET {
            let Some(chain) = queue.pop() else { break };
            print(chain.reader(), &self.tail, self.echo.as_mut());
            queue.push(chain, 0);
        }
        queue.notify();
        queue.enable_kicks()
    }
}

impl Handler for ConsoleWorker {
    /// Input is never looked at: its buffers stay with the driver until there is something to
    /// type, which is never.
    fn start(&mut self, poller: &Poller) -> io::Result<()> {
        match self.queues.get(OUTPUT) {
            Some(queue) => poller.add(queue.kick_fd(), Edge::Event, OUTPUT as u64),
            None => Ok(()),
        }
    }

    /// A kick: the turn after it looks.
    fn ready(&mut self, _: &Poller, _token: u64, _: EventSet) {}

    fn turn(&mut self, _: &Poller) -> Next {
        if self.serve() {
            Next::Again
        } else {
            Next::Wait
        }
    }

    /// What was printed before the stop is kept: the last words matter most. The driver
    /// cannot add to the queue for ever: its processors are stopped or it waits for the stop.
    fn drain(&mut self, _: &Poller) {
        for _ in 0..4 {
            if !self.serve() {
                break;
            }
        }
    }
}

/// Only the last [`TAIL`] bytes of a buffer are looked at: no more would be kept.
fn print(mut reader: Reader<'_>, tail: &ConsoleTail, mut echo: Option<&mut std::fs::File>) {
    let unseen = reader.remaining().saturating_sub(TAIL);
    if reader.skip(unseen).is_ok() {
        tail.skipped(unseen);
    }
    let mut chunk = [0; CHUNK];
    loop {
        let len = reader.read(&mut chunk);
        if len == 0 {
            return;
        }
        tail.append(&chunk[..len]);
        if let Some(echo) = &mut echo {
            // For development only; output that is not taken at once is not worth waiting for.
            let _ = echo.write(&chunk[..len]);
        }
    }
}
