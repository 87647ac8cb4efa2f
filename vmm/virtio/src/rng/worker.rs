//! Fills the driver's buffers.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use vmm_sys_util::epoll::EventSet;

use crate::chain::Writer;
use crate::device::QueueState;
use crate::queue::Queue;
use crate::worker::{Edge, Handler, Next, Poller};

/// Most bytes for one buffer, whatever its length: descriptors may overlap, so their sum can
/// be far more than the guest's memory. A device may write less than the buffer (5.4.6.2).
const MAX_FILL: usize = 64 << 10;

/// Bytes asked of the host at a time; `getrandom` never stops short of 256.
const CHUNK: usize = 256;

/// Buffers per turn.
const BUDGET: usize = 8;

/// The one queue, as a list: it is what [`Handler`]s of all devices have.
#[derive(Debug)]
pub(crate) struct RngWorker {
    queues: Vec<Queue>,
}

impl RngWorker {
    pub(crate) fn new(queues: Vec<Queue>) -> Self {
        Self { queues }
    }

    pub(crate) fn states(&self) -> Vec<Option<QueueState>> {
        self.queues
            .iter()
            .map(|queue| Some(queue.state()))
            .collect()
    }
}

impl Handler for RngWorker {
    fn start(&mut self, poller: &Poller) -> io::Result<()> {
        for (token, queue) in (0..).zip(&self.queues) {
            poller.add(queue.kick_fd(), Edge::Event, token)?;
        }
        Ok(())
    }

    /// A kick: the turn after it looks.
    fn ready(&mut self, _: &Poller, _token: u64, _: EventSet) {}

    fn turn(&mut self, _: &Poller) -> Next {
        let mut next = Next::Wait;
        for queue in &mut self.queues {
            if serve(queue) {
                next = Next::Again;
            }
        }
        next
    }
}

/// Serves up to [`BUDGET`] buffers; true when there are more.
pub(crate) fn serve(queue: &mut Queue) -> bool {
    queue.disable_kicks();
    for _ in 0..BUDGET {
        let Some(chain) = queue.pop() else { break };
        if chain.readable_len() > 0 {
            // 5.4.6.1: "The driver MUST NOT place driver-readable buffers into the queue".
            queue.break_for("a readable buffer in the entropy queue");
            break;
        }
        let written = fill(chain.writer());
        queue.push(chain, written);
    }
    queue.notify();
    queue.enable_kicks()
}

/// Says how many bytes were written.
fn fill(mut writer: Writer<'_>) -> usize {
    let wanted = writer.remaining().min(MAX_FILL);
    let mut written = 0;
    let mut chunk = [0; CHUNK];
    while written < wanted {
        let chunk = &mut chunk[..CHUNK.min(wanted - written)];
        match getrandom(&mut *chunk, GetRandomFlags::empty()) {
            Ok(len) => written += writer.write(&chunk[..len]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the host gives no random bytes");
                break;
            }
        }
    }
    written
}
