//! A registry's repository as the store wants it: for threads that may block.

use std::io::Read;

use bulkhead_image::{Digest, Error as ImageError, ErrorKind, Repository};
use bulkhead_registry::{Blob, Kind as Why};
use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    bounds::{Downloads, Turn},
    policy::Demand,
};

/// A repository for threads that may block.
pub(super) struct Remote {
    repository: bulkhead_registry::Repository,
    demand: Demand,
    downloads: Downloads,
    handle: Handle,
}

impl Remote {
    /// For threads of the runtime that this is called in.
    pub(super) fn new(
        repository: bulkhead_registry::Repository,
        demand: Demand,
        downloads: Downloads,
    ) -> Self {
        Self {
            repository,
            demand,
            downloads,
            handle: Handle::current(),
        }
    }
}

impl Repository for Remote {
    fn tagged(&self, tag: &str, limit: u64) -> Result<(Digest, Vec<u8>), ImageError> {
        let manifest = self.handle.block_on(self.repository.tagged(tag, limit));
        let manifest = manifest.map_err(remote_error)?;
        Ok((manifest.digest, manifest.bytes))
    }

    fn approve(&self, digest: &Digest) -> Result<(), ImageError> {
        self.handle
            .block_on(self.demand.met(&self.repository, digest))
    }

    fn by_digest(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let manifest = self
            .handle
            .block_on(self.repository.by_digest(digest, limit));
        Ok(manifest.map_err(remote_error)?.bytes)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read>, ImageError> {
        Ok(Box::new(Download {
            // Nothing is fetched for nothing.
            turn: (size > 0).then(|| self.handle.block_on(self.downloads.turn())),
            blob: Some(self.repository.blob(digest, size)),
            handle: self.handle.clone(),
            rest: Bytes::new(),
        }))
    }
}

/// A download as a reader. After an error it is at its end.
struct Download {
    /// Until the last byte is here: what becomes of them then may take its time.
    turn: Option<Turn>,
    blob: Option<Blob>,
    handle: Handle,
    rest: Bytes,
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            let Some(blob) = &mut self.blob else {
                return Ok(0);
            };
            match self.handle.block_on(blob.chunk()) {
                Ok(Some(bytes)) => {
                    self.rest = bytes;
                    if blob.is_complete() {
                        self.turn = None;
                    }
                }
                Ok(None) => (self.blob, self.turn) = (None, None),
                Err(error) => {
                    (self.blob, self.turn) = (None, None);
                    return Err(remote_error(error).into_io());
                }
            }
        }
        let now = self.rest.split_to(buf.len().min(self.rest.len()));
        if let Some(room) = buf.get_mut(..now.len()) {
            room.copy_from_slice(&now);
        }
        Ok(now.len())
    }
}

pub(crate) fn remote_error(error: bulkhead_registry::Error) -> ImageError {
    let kind = match error.kind() {
        Why::NotFound => ErrorKind::NotFound,
        Why::Denied => ErrorKind::Denied,
        Why::Unavailable => ErrorKind::Unavailable,
        Why::Corrupt => ErrorKind::Corrupt,
        Why::Invalid => ErrorKind::Invalid,
    };
    ImageError::Remote {
        kind,
        source: Box::new(error),
    }
}
