//! `bulkhead image import`: from a file on the daemon's host, or from standard input.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bulkhead_cri_api::operator::import_image_request::Source;
use bulkhead_cri_api::operator::{ImportImageRequest, ImportedImage};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::client::{Daemon, in_words};
use super::super::output;
use super::progress;

/// Bytes of an archive in a message; the protocol allows 1 MiB.
const CHUNK: usize = 256 << 10;
/// Messages on their way.
const IN_FLIGHT: usize = 4;

/// Brings an archive in and prints the names of its images, one a line.
pub(super) async fn import(
    daemon: &mut Daemon,
    file: &Path,
    tag: String,
    quiet: bool,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let sending = async move {
        if file == Path::new("-") {
            send_stdin(&sender, tag).await
        } else {
            // The daemon has another working directory.
            let path = file
                .canonicalize()
                .with_context(|| format!("cannot import {}", file.display()))?;
            let Some(path) = path.to_str() else {
                bail!(
                    "cannot import {}: the name isn't UTF-8; rename the file",
                    path.display()
                );
            };
            let request = ImportImageRequest {
                source: Some(Source::Path(path.to_owned())),
                tag,
            };
            let _ = sender.send(request).await;
            Ok(())
        }
    };
    let receiving = async {
        let answer = daemon
            .operator
            .import_image(ReceiverStream::new(receiver))
            .await;
        let progress = answer.map_err(|status| in_words(&status))?.into_inner();
        progress::follow(progress, quiet).await
    };
    // Reading the file may fail first, or the daemon refuse it before it is read.
    tokio::pin!(sending, receiving);
    let images = tokio::select! {
        images = &mut receiving => images?,
        sent = &mut sending => {
            sent?;
            receiving.await?
        }
    };
    output::print_text(&imported(&images))?;
    Ok(())
}

async fn send_stdin(sender: &mpsc::Sender<ImportImageRequest>, mut tag: String) -> Result<()> {
    let mut stdin = tokio::io::stdin();
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = stdin
            .read(&mut chunk)
            .await
            .context("cannot read standard input")?;
        if length == 0 {
            return Ok(());
        }
        chunk.truncate(length);
        let source = Some(Source::Chunk(chunk.into()));
        let request = ImportImageRequest {
            source,
            tag: std::mem::take(&mut tag),
        };
        if sender.send(request).await.is_err() {
            // The daemon has said why, or will.
            return Ok(());
        }
    }
}

/// Names of images, or ids of those without, one a line.
fn imported(images: &[ImportedImage]) -> String {
    let mut text = String::new();
    for image in images {
        let names = if image.references.is_empty() {
            std::slice::from_ref(&image.id)
        } else {
            &image.references
        };
        for name in names {
            text.push_str(name);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_imported_can_be_passed_on() {
        let images = [
            ImportedImage {
                id: "sha256:aa".to_owned(),
                references: vec!["x:1".to_owned(), "x:2".to_owned()],
                size_bytes: 1,
            },
            ImportedImage {
                id: "sha256:bb".to_owned(),
                references: vec![],
                size_bytes: 1,
            },
        ];
        assert_eq!(imported(&images), "x:1\nx:2\nsha256:bb\n");
    }
}
