//! How far an import or a pull is, as its client is told.

use std::sync::Arc;

use bulkhead_cri_api::operator::{
    ImageFound, ImageProgress, ImportedImage, ImportedImages, LayerBytes, LayerDone,
    image_progress::Progress as Wire,
};
use bulkhead_image::{Image, Progress};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Answers;
use crate::error::Result;

/// Messages in flight; more are left out.
const QUEUE: usize = 64;

type Report = Box<dyn Fn(Progress) + Send + Sync>;

/// Runs what makes images, in a task of its own: what has begun ends whole. Returns what
/// it tells.
pub(super) fn told<W>(work: impl FnOnce(Report) -> W) -> Answers<ImageProgress>
where
    W: Future<Output = Result<Vec<Arc<Image>>>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let steps = sender.clone();
    let report: Report = Box::new(move |progress| {
        if let Some(step) = wire(&progress) {
            // A client that doesn't read misses a step, not the result.
            let _ = steps.try_send(Ok(message(step)));
        }
    });
    let work = work(report);
    tokio::spawn(async move {
        let last = match work.await {
            Ok(images) => Ok(message(Wire::Done(done(&images)))),
            Err(error) => Err(error.into()),
        };
        let _ = sender.send(last).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn message(progress: Wire) -> ImageProgress {
    ImageProgress {
        progress: Some(progress),
    }
}

fn wire(progress: &Progress) -> Option<Wire> {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(match progress {
        Progress::Image { name, layers } => Wire::Found(ImageFound {
            name: name.clone(),
            layers: small(*layers),
        }),
        Progress::Layer {
            index,
            diff_id,
            done,
            total,
        } => Wire::Layer(LayerBytes {
            index: small(*index),
            diff_id: diff_id.to_string(),
            done: *done,
            total: *total,
        }),
        Progress::LayerDone {
            index,
            diff_id,
            reused,
        } => Wire::LayerDone(LayerDone {
            index: small(*index),
            diff_id: diff_id.to_string(),
            reused: *reused,
        }),
        _ => return None,
    })
}

fn done(images: &[Arc<Image>]) -> ImportedImages {
    let images = images.iter().map(|image| ImportedImage {
        id: image.id.to_string(),
        references: image
            .repo_tags
            .iter()
            .chain(&image.repo_digests)
            .cloned()
            .collect(),
        size_bytes: image.size_bytes,
    });
    ImportedImages {
        images: images.collect(),
    }
}
