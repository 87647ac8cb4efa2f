//! ImportImage: from a path on the daemon's host, or streamed in.

use std::path::{Path, PathBuf};

use bulkhead_cri_api::operator::{
    ImportImageProgress, ImportImageRequest, ImportedImage, ImportedImages,
    import_image_progress::Progress as Wire, import_image_request::Source,
};
use bulkhead_image::{ImportOptions, ImportReport, Progress};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Answers, Operator, Uploads, first};
use crate::{
    error::{Error, Kind, Result},
    ids,
};

/// Progress messages in flight; more are left out.
const QUEUE: usize = 64;

pub(super) async fn import_image(
    operator: &Operator,
    mut messages: Streaming<ImportImageRequest>,
) -> Result<Answers<ImportImageProgress>> {
    let begin = first(&mut messages).await?;
    let options = ImportOptions {
        name: Some(begin.tag).filter(|tag| !tag.is_empty()),
    };
    let (path, upload) = match begin.source {
        Some(Source::Path(path)) if Path::new(&path).is_absolute() => (PathBuf::from(path), None),
        Some(Source::Path(path)) => {
            return Err(Error::invalid(format!(
                "path {path:?} must be absolute: the daemon has another working directory"
            )));
        }
        Some(Source::Chunk(chunk)) => {
            let upload = receive(&operator.uploads, &chunk, messages).await?;
            (upload.0.clone(), Some(upload))
        }
        None => {
            return Err(Error::invalid(
                "neither a path nor the archive itself was sent",
            ));
        }
    };

    let (sender, receiver) = mpsc::channel(QUEUE);
    let images = operator.pods.images().clone();
    // A task of its own: an import that has begun ends whole.
    tokio::spawn(async move {
        let progress = {
            let sender = sender.clone();
            Box::new(move |progress| {
                let step = Wire::Step(words(&progress));
                // A client that doesn't read misses a step, not the result.
                let _ = sender.try_send(Ok(ImportImageProgress {
                    progress: Some(step),
                }));
            })
        };
        let result = images.import(path, options, progress).await;
        drop(upload);
        let last = match result {
            Ok(report) => {
                tracing::info!(images = report.images.len(), took = ?report.elapsed, "imported");
                Ok(ImportImageProgress {
                    progress: Some(Wire::Done(done(&report))),
                })
            }
            Err(error) => Err(error.into()),
        };
        let _ = sender.send(last).await;
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// A file that is removed when it is no longer needed.
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "an uploaded archive is left behind");
        }
    }
}

async fn receive(
    uploads: &Uploads,
    chunk: &[u8],
    mut messages: Streaming<ImportImageRequest>,
) -> Result<Upload> {
    let path = uploads.directory.join(ids::new_id()?);
    let failed = |error: std::io::Error| {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        let kind = if full {
            Kind::ResourceExhausted
        } else {
            Kind::Internal
        };
        let place = uploads.directory.display();
        Error::new(
            kind,
            format!("keep the uploaded archive in {place}: {error}"),
        )
    };
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .await
        .map_err(failed)?;
    let upload = Upload(path);
    let mut room = uploads.max_bytes;
    let mut write = async |bytes: &[u8]| {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        room = room.checked_sub(size).ok_or_else(|| {
            Error::new(
                Kind::ResourceExhausted,
                format!("the archive is larger than {} bytes", uploads.max_bytes),
            )
        })?;
        file.write_all(bytes).await.map_err(failed)
    };
    write(chunk).await?;
    loop {
        match messages.message().await {
            Ok(None) => break,
            Ok(Some(ImportImageRequest {
                source: Some(Source::Chunk(bytes)),
                ..
            })) => {
                write(&bytes).await?;
            }
            Ok(Some(_)) => {
                return Err(Error::invalid(
                    "after the first chunk only chunks may follow",
                ));
            }
            Err(status) => {
                let why = status.message();
                return Err(Error::invalid(format!("the upload was cut off: {why}")));
            }
        }
    }
    file.flush().await.map_err(failed)?;
    Ok(upload)
}

fn words(progress: &Progress) -> String {
    match progress {
        Progress::Image { name, layers } => format!("{name}: {layers} layers"),
        Progress::Layer {
            index,
            diff_id,
            done,
            total,
        } => {
            format!(
                "layer {} {}: {done} of {total} bytes",
                index + 1,
                short(diff_id)
            )
        }
        Progress::LayerDone {
            index,
            diff_id,
            reused: true,
        } => {
            format!("layer {} {}: already there", index + 1, short(diff_id))
        }
        Progress::LayerDone {
            index,
            diff_id,
            reused: false,
        } => {
            format!("layer {} {}: done", index + 1, short(diff_id))
        }
        other => format!("{other:?}"),
    }
}

fn short(diff_id: &bulkhead_image::Digest) -> String {
    diff_id.hex().chars().take(12).collect()
}

fn done(report: &ImportReport) -> ImportedImages {
    let images = report
        .images
        .iter()
        .map(|image| ImportedImage {
            id: image.id.to_string(),
            references: image
                .repo_tags
                .iter()
                .chain(&image.repo_digests)
                .cloned()
                .collect(),
            size_bytes: image.size_bytes,
        })
        .collect();
    ImportedImages { images }
}
