//! Lists in pieces: what a single answer can't hold.
//!
//! A gRPC message has at most 16 MiB; a stream has any number of messages. Items are
//! converted as the client reads, so a list is never in memory as a whole, and a
//! client that does not read costs what it has not read.

use std::pin::Pin;

use futures::stream::{self, Stream};
use prost::Message;
use tonic::Status;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes of items in one answer; a larger item goes alone.
const CHUNK_BYTES: usize = 1 << 20;
/// Items in one answer.
const CHUNK_ITEMS: usize = 1000;

/// Wraps items into answers, in order, as many into each as fit.
pub(super) fn chunked<T, R>(
    items: impl Iterator<Item = T> + Send + 'static,
    wrap: fn(Vec<T>) -> R,
) -> Answers<R>
where
    T: Message + 'static,
    R: 'static,
{
    let mut items = items.peekable();
    let chunks = std::iter::from_fn(move || {
        let mut chunk = vec![items.next()?];
        let mut bytes = chunk.first().map_or(0, Message::encoded_len);
        while chunk.len() < CHUNK_ITEMS {
            let fits = |item: &T| bytes.saturating_add(item.encoded_len()) <= CHUNK_BYTES;
            let Some(item) = items.next_if(fits) else {
                break;
            };
            bytes += item.encoded_len();
            chunk.push(item);
        }
        Some(Ok(wrap(chunk)))
    });
    Box::pin(stream::iter(chunks))
}

#[cfg(test)]
mod tests {
    use bulkhead_cri_api::v1::{Container, StreamContainersResponse};
    use futures::StreamExt as _;

    use super::*;

    async fn sizes(items: Vec<usize>) -> Vec<usize> {
        let containers = items.into_iter().map(|size| Container {
            image_ref: "x".repeat(size),
            ..Default::default()
        });
        chunked(containers, |containers| StreamContainersResponse {
            containers,
        })
        .map(|answer| answer.unwrap().containers.len())
        .collect()
        .await
    }

    #[tokio::test]
    async fn as_many_as_fit() {
        assert!(sizes(vec![]).await.is_empty());
        assert_eq!(sizes(vec![10; 2500]).await, [1000, 1000, 500]);
        let half = CHUNK_BYTES / 2;
        assert_eq!(sizes(vec![half - 100, half - 100, 10_000]).await, [2, 1]);
        assert_eq!(
            sizes(vec![3 * CHUNK_BYTES, 1, 2 * CHUNK_BYTES]).await,
            [1, 1, 1]
        );
    }
}
