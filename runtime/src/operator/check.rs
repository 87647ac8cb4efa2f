//! CheckImages: all of the store, byte by byte.

use bulkhead_cri_api::operator::{
    CheckImagesProgress, CheckImagesRequest, CheckedImages, ImageProblem,
    check_images_progress::Progress,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answers, Operator};

/// Messages in flight; more are left out.
const QUEUE: usize = 16;

pub(super) fn check_images(
    operator: &Operator,
    request: CheckImagesRequest,
) -> Answers<CheckImagesProgress> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let images = operator.pods.images().clone();
    tokio::spawn(async move {
        let steps = sender.clone();
        let report = Box::new(move |what: &str| {
            let _ = steps.try_send(Ok(message(Progress::Reading(what.to_owned()))));
        });
        let checked = images.check(request.repair, report).await;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let last = checked.map_err(Into::into).map(|checked| {
            let problems = checked.problems.into_iter().map(|problem| ImageProblem {
                what: problem.what,
                reason: problem.reason,
            });
            message(Progress::Done(CheckedImages {
                images: small(checked.images),
                layers: small(checked.layers),
                bytes_read: checked.bytes_read,
                problems: problems.collect(),
            }))
        });
        let _ = sender.send(last).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn message(progress: Progress) -> CheckImagesProgress {
    CheckImagesProgress {
        progress: Some(progress),
    }
}
