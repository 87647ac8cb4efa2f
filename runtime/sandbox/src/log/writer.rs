//! The log of one container.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{
    file,
    format::{self, Line, STREAMS, Splitter},
    resume::{Checkpoint, MAX_CHECKPOINT, Scanner},
};
use crate::spec::{LogTarget, Stream};

/// Log bytes between two checkpoints: what a resuming daemon counts at most.
const CHECKPOINT_EVERY: u64 = 4 << 20;
/// Batches below this let go of the buffer that lines are made in: what a burst
/// needed is not kept while the container is silent.
const SMALL_BATCH: usize = 128 << 10;

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the stream that are in the log, or were given up: what may be
    /// acknowledged, and where a new connection goes on.
    pub settled: u64,
}

/// Writes both streams of a container into its log. All methods block on the
/// disk and none fails for the disk's sake: a container must not stand still
/// because a log partition is full, so what cannot be written is dropped,
/// counted and reported.
#[derive(Debug)]
pub struct ContainerLog {
    target: LogTarget,
    checkpoint_path: PathBuf,
    /// `None`: there is no log, output is for followers only.
    file: Option<File>,
    splitters: [Splitter; 2],
    /// Bytes of each stream taken so far.
    received: [u64; 2],
    lines: Vec<u8>,
    unchecked: u64,
    checkpoint_due: bool,
    dropped: u64,
    failing: bool,
}

impl ContainerLog {
    /// Opens the log of a new container.
    ///
    /// # Errors
    /// When the log or its checkpoint cannot be made.
    pub fn create(target: LogTarget, checkpoint_path: PathBuf) -> io::Result<Self> {
        let mut log = Self::closed(target, checkpoint_path);
        if !log.target.directory.as_os_str().is_empty() {
            log.file = Some(file::open(&log.target)?);
            log.write_checkpoint()?;
        }
        Ok(log)
    }

    /// Opens the log of a container that an earlier daemon process logged for,
    /// and finds out where it stands. A torn last line is cut off.
    ///
    /// # Errors
    /// When the log or its checkpoint cannot be read or written.
    pub fn resume(target: LogTarget, checkpoint_path: PathBuf) -> io::Result<Self> {
        let Some(old) = file::read_bounded(&checkpoint_path, MAX_CHECKPOINT + 1)
            .ok()
            .and_then(|content| Checkpoint::decode(&content))
        else {
            return Self::create(target, checkpoint_path);
        };
        let mut log = Self::closed(target, checkpoint_path);
        log.received = old.streams;
        log.dropped = old.dropped;
        if log.target.directory.as_os_str().is_empty() {
            return Ok(log);
        }
        let mut current = file::open(&log.target)?;
        let meta = current.metadata()?;
        let unrotated = (meta.dev(), meta.ino()) == (old.dev, old.ino);
        if unrotated {
            log.count(&mut current, old.len)?;
        } else {
            // Rotated, and the daemon died before it had turned to the new file,
            // or before it had said so.
            match file::find_rotated(&log.target, old.dev, old.ino) {
                Some(mut rotated) => log.count(&mut rotated, old.len)?,
                None => warn!(
                    log = %log.target.path.display(),
                    "the log that was being written is gone; lines may be repeated"
                ),
            }
            log.count(&mut current, 0)?;
        }
        log.file = Some(current);
        log.write_checkpoint()?;
        Ok(log)
    }

    fn closed(target: LogTarget, checkpoint_path: PathBuf) -> Self {
        Self {
            target,
            checkpoint_path,
            file: None,
            splitters: Default::default(),
            received: [0; 2],
            lines: Vec::new(),
            unchecked: 0,
            checkpoint_due: false,
            dropped: 0,
            failing: false,
        }
    }

    /// Adds what stands in `log` from byte `from` on, and cuts a torn line off.
    fn count(&mut self, log: &mut File, from: u64) -> io::Result<()> {
        let len = log.metadata()?.len();
        // Shorter than it was: somebody truncated it. What is there now came after.
        let from = if len < from { 0 } else { from };
        log.seek(SeekFrom::Start(from))?;
        let mut scanner = Scanner::default();
        let mut chunk = vec![0_u8; 64 << 10];
        loop {
            let n = log.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            scanner.push(chunk.get(..n).unwrap_or_default());
        }
        if from + scanner.whole() < len {
            log.set_len(from + scanner.whole())?;
        }
        for (total, more) in self.received.iter_mut().zip(scanner.streams()) {
            *total += more;
        }
        Ok(())
    }

    /// Where a stream stands.
    #[must_use]
    pub fn progress(&self, stream: Stream) -> Progress {
        let i = format::index(stream);
        let pending = self.splitters.get(i).map_or(0, Splitter::pending);
        Progress {
            settled: self.received.get(i).copied().unwrap_or(0) - pending as u64,
        }
    }

    /// Bytes given up because they could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes further bytes of a stream, received at `now_unix_ns`.
    pub fn append<'a>(
        &mut self,
        stream: Stream,
        chunks: impl IntoIterator<Item = &'a [u8]>,
        now_unix_ns: i64,
    ) -> Progress {
        let i = format::index(stream);
        let stamp = format::timestamp(now_unix_ns);
        let mut taken = 0;
        for chunk in chunks {
            taken += chunk.len();
            if self.file.is_some()
                && let Some(splitter) = self.splitters.get_mut(i)
            {
                splitter.push(&stamp, stream, chunk, &mut self.lines);
            }
        }
        if let Some(received) = self.received.get_mut(i) {
            *received += taken as u64;
        }
        self.write_lines();
        if taken < SMALL_BATCH {
            self.lines = Vec::new();
        }
        self.progress(stream)
    }

    /// Writes what a stream that has ended left without a newline.
    pub fn end(&mut self, stream: Stream, now_unix_ns: i64) -> Progress {
        if let Some(splitter) = self.splitters.get_mut(format::index(stream)) {
            splitter.flush(&format::timestamp(now_unix_ns), stream, &mut self.lines);
        }
        self.write_lines();
        self.lines = Vec::new();
        self.progress(stream)
    }

    /// A connection goes on at another offset than asked for: the bytes between
    /// are not to be had. Returns how many were missed.
    pub fn skip_to(&mut self, stream: Stream, offset: u64, now_unix_ns: i64) -> u64 {
        self.end(stream, now_unix_ns);
        let at = self.progress(stream).settled;
        if let Some(received) = self.received.get_mut(format::index(stream)) {
            *received = offset;
        }
        self.dropped += offset.saturating_sub(at);
        self.checkpoint_due = true;
        self.settle_checkpoint();
        offset.saturating_sub(at)
    }

    /// Forgets the bytes of unfinished lines: a new connection sends them again.
    pub fn rewind(&mut self, stream: Stream) -> Progress {
        let progress = self.progress(stream);
        let i = format::index(stream);
        if let (Some(splitter), Some(received)) =
            (self.splitters.get_mut(i), self.received.get_mut(i))
        {
            splitter.clear();
            *received = progress.settled;
        }
        progress
    }

    /// Turns to a new file at the log's path, after the old one was renamed.
    ///
    /// # Errors
    /// When it cannot be opened; the old one is written to further then.
    pub fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.file = Some(file::open(&self.target)?);
        self.failing = false;
        self.checkpoint_due = true;
        self.settle_checkpoint();
        Ok(())
    }

    fn write_lines(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if !lines.is_empty() {
            self.write_out(&lines);
            self.unchecked += lines.len() as u64;
            if self.unchecked >= CHECKPOINT_EVERY {
                self.checkpoint_due = true;
            }
        }
        self.lines = lines;
        self.lines.clear();
        self.settle_checkpoint();
    }

    fn write_out(&mut self, lines: &[u8]) {
        let Some(file) = self.file.as_mut() else {
            return;
        };
        match write_counted(file, lines) {
            (_, Ok(())) => {
                if self.failing {
                    self.failing = false;
                    info!(
                        log = %self.target.path.display(), dropped = self.dropped,
                        "the container's log can be written again"
                    );
                }
            }
            (written, Err(e)) => {
                let part = lines.get(..written).unwrap_or_default();
                let whole = memchr::memrchr(b'\n', part).map_or(0, |at| at + 1);
                // Readers shall never see half a line with another behind it.
                if whole < written {
                    let torn = (written - whole) as u64;
                    let cut = file.metadata().map(|m| m.len().saturating_sub(torn));
                    if let Err(e) = cut.and_then(|len| file.set_len(len)) {
                        warn!(log = %self.target.path.display(), "cannot cut a torn line: {e}");
                    }
                }
                let lost: u64 = lines
                    .get(whole..)
                    .unwrap_or_default()
                    .split(|b| *b == b'\n')
                    .filter_map(Line::parse)
                    .map(|line| line.payload())
                    .sum();
                self.dropped += lost;
                self.checkpoint_due = true;
                if !self.failing {
                    self.failing = true;
                    warn!(
                        log = %self.target.path.display(),
                        "cannot write the container's log, output is being dropped: {e}"
                    );
                }
            }
        }
    }

    /// Writes a checkpoint that is due; one that cannot be written stays due.
    fn settle_checkpoint(&mut self) {
        if self.checkpoint_due
            && self.file.is_some()
            && let Err(e) = self.write_checkpoint()
        {
            warn!(path = %self.checkpoint_path.display(), "cannot write a log checkpoint: {e}");
        }
    }

    fn write_checkpoint(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let meta = file.metadata()?;
        let checkpoint = Checkpoint {
            dev: meta.dev(),
            ino: meta.ino(),
            len: meta.len(),
            streams: STREAMS.map(|stream| self.progress(stream).settled),
            dropped: self.dropped,
        };
        replace(&self.checkpoint_path, &checkpoint.encode())?;
        self.unchecked = 0;
        self.checkpoint_due = false;
        Ok(())
    }
}

/// Replaces a file so that readers find the old content or the new. Only root may
/// read it: a container's environment may be in it. Not synced: what it serves
/// does not outlive the machine's running.
///
/// # Errors
/// Whatever the kernel says; the old content stays then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?
        .write_all(content)?;
    fs::rename(&temporary, path)
}

/// `write_all` that says how far it came.
fn write_counted(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (written, Err(e)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
