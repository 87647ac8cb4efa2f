//! Workers shared by many disks.

/// How requests reach the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring where the kernel and the seccomp filter allow it, else plain.
    #[default]
    Auto,
    /// io_uring, or an error at activation.
    Uring,
    /// `preadv` and `pwritev` on the worker's thread.
    Plain,
}

/// A worker that many disks share. Clones share it; its thread starts with the first disk
/// that is activated and ends with the last.
#[derive(Clone, Debug)]
pub struct Pool {
    _engine: EngineKind,
}

impl Pool {
    /// `name` is its thread's.
    pub fn new(_name: &str, engine: EngineKind) -> Self {
        Self { _engine: engine }
    }
}
