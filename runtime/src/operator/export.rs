//! ExportImages: an archive of images, streamed out.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bulkhead_cri_api::operator::{ExportImagesRequest, ExportedBytes};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Answers, Operator};
use crate::error::{Error, Kind, Result};

/// Messages in flight; the export waits for a client that is slower.
const QUEUE: usize = 4;
/// Exports at the same time: each has a thread, and may need as much memory as an import.
const AT_ONCE: usize = 4;
/// Bytes of a message.
const CHUNK: usize = 256 << 10;

/// The turns of exports.
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

pub(super) fn export_images(
    operator: &Operator,
    request: ExportImagesRequest,
) -> Result<Answers<ExportedBytes>> {
    let images = operator.pods.images().clone();
    if request.images.is_empty() {
        return Err(Error::invalid("no image was named: which to export?"));
    }
    for image in &request.images {
        images.resolve(image)?;
    }
    let Ok(turn) = Arc::clone(&operator.exports).try_acquire_owned() else {
        let why = format!("{AT_ONCE} exports are under way already; try again when one has ended");
        return Err(Error::new(Kind::ResourceExhausted, why));
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let total = Arc::new(AtomicU64::new(0));
    let out = Chunks {
        sender: sender.clone(),
        total: total.clone(),
        chunk: Vec::with_capacity(CHUNK),
    };
    let client = sender.clone();
    let report = move |_done, of| {
        total.store(of, Ordering::Relaxed);
        // Also while nothing is sent yet.
        match client.is_closed() {
            true => Err(gone()),
            false => Ok(()),
        }
    };
    tokio::spawn(async move {
        let done = images
            .export(request.images, Box::new(out), Box::new(report))
            .await;
        drop(turn);
        if let Err(error) = done {
            tracing::debug!(%error, "an export has ended early");
            let _ = sender.send(Err(error.into())).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone")
}

/// The client, to a writer.
struct Chunks {
    sender: mpsc::Sender<std::result::Result<ExportedBytes, Status>>,
    total: Arc<AtomicU64>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = CHUNK - self.chunk.len();
        let now = buf.get(..room).unwrap_or(buf);
        self.chunk.extend_from_slice(now);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let message = ExportedBytes {
            chunk: std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK)).into(),
            total: self.total.load(Ordering::Relaxed),
        };
        self.sender.blocking_send(Ok(message)).map_err(|_| gone())
    }
}
