//! ImportImage: from a path on the daemon's host, or streamed in.

use std::path::{Path, PathBuf};

use bulkhead_cri_api::operator::{ImageProgress, ImportImageRequest, import_image_request::Source};
use bulkhead_image::ImportOptions;
use tokio::io::AsyncWriteExt;
use tonic::Streaming;

use super::{Answers, Operator, Uploads, first, progress};
use crate::{
    error::{Error, Kind, Result},
    ids,
};

pub(super) async fn import_image(
    operator: &Operator,
    mut messages: Streaming<ImportImageRequest>,
) -> Result<Answers<ImageProgress>> {
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

    let images = operator.pods.images().clone();
    Ok(progress::told(move |report| async move {
        let result = images.import(path, options, report).await;
        drop(upload);
        let report = result?;
        tracing::info!(images = report.images.len(), took = ?report.elapsed, "imported");
        Ok(report.images)
    }))
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
