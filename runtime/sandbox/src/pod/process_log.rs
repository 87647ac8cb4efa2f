//! What a pod's process says of itself: a file that is kept small.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::interval;
use tracing::warn;

use crate::process::{Ended, Process};

/// How often the log is looked at.
const LOG_CHECK: Duration = Duration::from_secs(30);
/// Size above which it is cut, bytes.
const LOG_MAX: u64 = 1 << 20;
/// What is kept of its end then, bytes.
const LOG_KEPT: u64 = 64 << 10;

/// Waits until a pod's process has ended, reaps it, and keeps its log small
/// meanwhile.
pub(crate) async fn tend(pod_id: &str, process: &Process, log: PathBuf) -> Ended {
    let mut check = interval(LOG_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = process.ended() => return ended,
            _ = check.tick() => trim(pod_id, log.clone()).await,
        }
    }
}

async fn trim(pod_id: &str, log: PathBuf) {
    let result = tokio::task::spawn_blocking(move || trim_log(&log)).await;
    if let Ok(Err(e)) = result {
        warn!(pod = %pod_id, "cannot cut the log of its process: {e}");
    }
}

/// Cuts a log that has grown too large down to its end. Its writer appends, so it
/// goes on behind what is kept; lines written in between are lost.
fn trim_log(path: &Path) -> io::Result<()> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let len = file.metadata()?.len();
    if len <= LOG_MAX {
        return Ok(());
    }
    file.seek(SeekFrom::Start(len - LOG_KEPT))?;
    let mut kept = Vec::new();
    file.take(LOG_KEPT).read_to_end(&mut kept)?;
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(&kept)
}

/// The end of the log, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    const TAIL: u64 = 2 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    crate::vmm::exit::last_words(&String::from_utf8_lossy(&tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_keeps_its_end_and_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.log");
        trim_log(&path).unwrap();
        let mut writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        writer.write_all(&vec![b'a'; 1 << 20]).unwrap();
        trim_log(&path).unwrap();
        assert_eq!(path.metadata().unwrap().len(), LOG_MAX);
        writer.write_all(b"\nthe end\n").unwrap();
        trim_log(&path).unwrap();
        assert_eq!(path.metadata().unwrap().len(), LOG_KEPT);
        writer.write_all(b"and more\n").unwrap();
        assert!(
            std::fs::read(&path)
                .unwrap()
                .ends_with(b"the end\nand more\n")
        );
        assert!(log_tail(&path).ends_with("the end\nand more"));
    }
}
