//! The operator service: what `bulkhead`'s own command line asks beyond the CRI.
//!
//! Terminals are bidirectional streams. A session has three ends: what the client
//! sends, what the process writes, and the process's exit. Whichever goes, the
//! others follow; the last message is the exit, after the last byte of output.

mod attach;
mod check;
mod exec;
mod export;
mod import;
mod progress;
mod pull;
mod session;
mod timings;

use std::{path::PathBuf, pin::Pin, sync::Arc};

use bulkhead_cri_api::operator::{operator_server::Operator as Service, *};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    error::{Error, Result},
    pods::Pods,
};

/// Serves the operator service. Clones share everything.
#[derive(Clone)]
pub struct Operator {
    pods: Pods,
    uploads: Uploads,
    exports: Arc<Semaphore>,
}

/// Where archives that are streamed in are put while they are imported.
#[derive(Clone, Debug)]
pub struct Uploads {
    /// A directory of the daemon's own.
    pub directory: PathBuf,
    /// Longest archive, bytes.
    pub max_bytes: u64,
}

impl Operator {
    /// The service over the pods of this node.
    #[must_use]
    pub fn new(pods: Pods, uploads: Uploads) -> Self {
        Self {
            pods,
            uploads,
            exports: export::turns(),
        }
    }
}

type Answers<T> =
    Pin<Box<dyn tokio_stream::Stream<Item = std::result::Result<T, Status>> + Send + 'static>>;
type Reply<T> = std::result::Result<Response<T>, Status>;

fn reply<T>(rpc: &'static str, result: Result<T>) -> Reply<T> {
    result.map(Response::new).map_err(|error| {
        tracing::debug!(rpc, %error, "refused");
        error.into()
    })
}

#[tonic::async_trait]
impl Service for Operator {
    type ExecStream = Answers<ProcessOutput>;
    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Reply<Self::ExecStream> {
        reply("Exec", exec::exec(self, request.into_inner()).await)
    }

    type AttachStream = Answers<ProcessOutput>;
    async fn attach(&self, request: Request<Streaming<AttachInput>>) -> Reply<Self::AttachStream> {
        reply("Attach", attach::attach(self, request.into_inner()).await)
    }

    type ImportImageStream = Answers<ImageProgress>;
    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Reply<Self::ImportImageStream> {
        reply(
            "ImportImage",
            import::import_image(self, request.into_inner()).await,
        )
    }

    type PullImageStream = Answers<ImageProgress>;
    async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<Self::PullImageStream> {
        reply("PullImage", pull::pull_image(self, request.into_inner()))
    }

    type ExportImagesStream = Answers<ExportedBytes>;
    async fn export_images(
        &self,
        request: Request<ExportImagesRequest>,
    ) -> Reply<Self::ExportImagesStream> {
        reply(
            "ExportImages",
            export::export_images(self, request.into_inner()),
        )
    }

    type CheckImagesStream = Answers<CheckImagesProgress>;
    async fn check_images(
        &self,
        request: Request<CheckImagesRequest>,
    ) -> Reply<Self::CheckImagesStream> {
        reply(
            "CheckImages",
            Ok(check::check_images(self, request.into_inner())),
        )
    }

    async fn sandbox_timings(
        &self,
        request: Request<SandboxTimingsRequest>,
    ) -> Reply<SandboxTimingsResponse> {
        reply(
            "SandboxTimings",
            timings::sandbox_timings(self, &request.into_inner()),
        )
    }
}

/// The first message of a call, without which it says nothing.
async fn first<T>(messages: &mut Streaming<T>) -> Result<T> {
    match messages.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Error::invalid("the call ended without a message")),
        Err(status) => Err(Error::invalid(format!(
            "the call was cut off: {}",
            status.message()
        ))),
    }
}

#[cfg(test)]
mod tests;
