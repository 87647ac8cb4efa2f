//! Room for images: how much they may take, and how much they leave to others.
//!
//! A node whose disk is full fails in a hundred places. The store stops before: what
//! would take more than its quota, or leave less than the reserve, is refused, when it
//! begins and all the while that it is written.

use std::cell::Cell;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, IoContext, Result};
use crate::limits::Limits;
use crate::store::Inner;

/// Room is looked at each time so many bytes were written.
const EVERY: u64 = 4 << 20;

/// Bytes that are being written, and are in no record yet.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<u64>);

impl UnderWay {
    fn change(&self, by: i64) -> u64 {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *bytes = bytes.saturating_add_signed(by);
        *bytes
    }
}

/// Refuses what there is no room for. `used` bytes are the store's.
fn check(dir: &Path, limits: &Limits, used: u64) -> Result<()> {
    if used > limits.store_bytes {
        return Err(Error::NoRoom {
            path: dir.to_owned(),
            why: format!(
                "images would take {used} bytes, of at most {} (limits.images_gib)",
                limits.store_bytes
            ),
        });
    }
    let stat = rustix::fs::statvfs(dir).at("look at the file system of", dir)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < limits.free_bytes {
        return Err(Error::NoRoom {
            path: dir.to_owned(),
            why: format!(
                "{free} bytes are free, and {} are to stay so (limits.images_reserve_mib)",
                limits.free_bytes
            ),
        });
    }
    Ok(())
}

impl Inner {
    /// Whether there is room for anything.
    pub(crate) fn room(&self) -> Result<()> {
        let recorded: u64 = {
            let state = self.lock();
            state.layers.values().map(|layer| layer.erofs_bytes).sum()
        };
        check(&self.dir, &self.limits, recorded + self.under_way.change(0))
    }
}

/// Counts what one layer takes, from its first byte until it is in a record.
pub(crate) struct Meter<'a> {
    store: &'a Inner,
    /// Counted as under way.
    counted: Cell<i64>,
    /// Counted since room was looked at.
    since: Cell<u64>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(store: &'a Inner) -> Self {
        Self {
            store,
            counted: Cell::new(0),
            since: Cell::new(EVERY),
        }
    }

    /// A file that is written: that fails when there is no more room.
    pub(crate) fn over<W: Write>(&self, inner: W) -> Metered<'_, W> {
        Metered { inner, meter: self }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.store.under_way.change(-self.counted.get());
    }
}

/// See [`Meter::over`].
pub(crate) struct Metered<'a, W> {
    inner: W,
    meter: &'a Meter<'a>,
}

impl<W: Write> Write for Metered<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let meter = self.meter;
        if meter.since.get() >= EVERY {
            meter.since.set(0);
            meter.store.room().map_err(Error::into_io)?;
        }
        let n = self.inner.write(buf)?;
        let written = i64::try_from(n).unwrap_or(i64::MAX);
        meter.store.under_way.change(written);
        meter.counted.set(meter.counted.get() + written);
        meter.since.set(meter.since.get() + n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for Metered<'_, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let limits = |store_bytes, free_bytes| Limits {
            store_bytes,
            free_bytes,
            ..Limits::default()
        };
        let refused = |limits: Limits, used, words: &str| {
            let error = check(dir.path(), &limits, used).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::NoSpace);
            assert!(error.to_string().contains(words), "{error}");
        };
        check(dir.path(), &limits(100, 0), 100).unwrap();
        refused(limits(100, 0), 101, "of at most 100 ");
        refused(limits(100, u64::MAX), 0, "to stay so");
    }

    #[test]
    fn what_is_under_way_counts_until_it_is_not() {
        let under_way = UnderWay::default();
        under_way.change(5);
        assert_eq!(under_way.change(2), 7);
        assert_eq!(under_way.change(-7), 0);
    }
}
