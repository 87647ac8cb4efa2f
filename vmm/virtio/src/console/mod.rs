//! Console (virtio 1.3, section 5.3): the guest's output is kept, nothing is typed into it.
//!
//! One port, no multiport: queue 0 (input) exists because the driver expects it, and stays
//! silent; queue 1 brings output. The last 64 KiB are kept in a [`ConsoleTail`], for the
//! message of a VM that died: a guest that floods its console costs no memory, and each
//! byte one copy.

mod device;
mod tail;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Console;
pub use tail::{ConsoleTail, TAIL};

/// The worker kind passed to the thread hook.
pub const WORKER: &str = "console";

/// System calls of the worker beside [`crate::worker::SYSCALLS`].
pub const SYSCALLS: &[&str] = &["write"];

/// What the fuzz targets see of this module.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use super::ConsoleTail;
    use super::worker::ConsoleWorker;
    use crate::queue::Queue;

    /// A console served on the caller's thread.
    pub(crate) struct Bench(ConsoleWorker);

    impl Bench {
        pub(crate) fn new(queues: Vec<Queue>, tail: ConsoleTail) -> Self {
            Self(ConsoleWorker::new(queues, tail, None))
        }

        pub(crate) fn serve(&mut self) {
            while self.0.serve() {}
        }
    }
}
