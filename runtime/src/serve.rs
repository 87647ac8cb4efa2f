//! `bulkhead serve`: the daemon from its start to its end.
//!
//! ```text
//!   lock ─► directories ─► records ─► images, network, launcher ─► reconcile
//!        ─► socket ─► (serve until SIGTERM or SIGINT) ─► finish calls, go
//! ```
//!
//! Clients are let in only when records and world agree. The end leaves all pods
//! running: the next start takes them over.

mod logging;
mod notify;
mod parts;
mod socket;

use std::{path::Path, time::Duration};

use bulkhead_cri_api::{
    MESSAGE_BYTES_MAX,
    operator::operator_server::OperatorServer,
    v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use bulkhead_streaming::Listening;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::{
    config::{Config, Monitoring},
    cri::Cri,
    error::{Error, Result},
    observe::{
        calls::Calls,
        endpoint::{self, Endpoint},
        metrics::Metrics,
        traces::Exporter,
    },
    operator::{Operator, Uploads},
    paths::Paths,
    pods::Pods,
    reconcile,
};

/// How long calls under way may take to finish once the daemon is told to end.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// Runs the daemon in this process until it is told to end; returns its exit
/// status.
///
/// # Errors
/// What keeps it from serving: with the file or setting, and what to do.
pub fn main(config: Config) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("bulkhead")
        .build()
        .map_err(|error| Error::internal(format!("start the daemon's threads: {error}")))?;
    let traces = exporter(&config.monitoring, &runtime)?;
    logging::start(&config.logging, traces.as_ref())?;
    let result = runtime.block_on(run(config));
    drop(traces);
    // What still waits for a guest or a disk must not keep us: all of it can be
    // taken up by the next daemon.
    runtime.shutdown_background();
    result.map(|()| 0)
}

fn exporter(config: &Monitoring, runtime: &tokio::runtime::Runtime) -> Result<Option<Exporter>> {
    if config.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    // Its connection lives on the daemon's threads.
    let _inside = runtime.enter();
    Exporter::new(&config.otlp_endpoint, config.trace_per_million).map(Some)
}

/// Opens the endpoint for monitoring, if there shall be one.
async fn monitor(config: &Monitoring, metrics: &Metrics, pods: &Pods) -> Result<()> {
    if let Ok(address) = config.listen.parse() {
        let listener = endpoint::listen(address).await?;
        tracing::info!(%address, "monitoring is answered");
        let endpoint = Endpoint {
            metrics: metrics.clone(),
            pods: pods.clone(),
        };
        tokio::spawn(endpoint.serve(listener));
    }
    Ok(())
}

async fn run(config: Config) -> Result<()> {
    let paths = Paths::new(&config.paths.run_dir, &config.paths.state_dir);
    paths
        .prepare()
        .map_err(|error| Error::internal(error.to_string()))?;
    let _lock = socket::lock(&paths.lock()).await?;
    socket::empty_directory(&paths.uploads())?;

    let metrics = Metrics::default();
    let (pods, mut node) = parts::assemble(&config, &paths, metrics.clone()).await?;
    let report = reconcile::start(&pods).await?;
    node.quarantined = report.quarantined;

    let uploads = Uploads {
        directory: paths.uploads(),
        max_bytes: u64::from(config.limits.image_archive_gib) << 30,
    };
    monitor(&config.monitoring, &metrics, &pods).await?;
    let (streaming, streams) = bulkhead_streaming::listen(&config.streaming_settings())
        .await
        .map_err(|error| Error::precondition(format!("start the streaming server: {error}")))?;
    let listener = socket::listen(&config.paths.socket).await?;
    tracing::info!(socket = %config.paths.socket.display(), "serving");
    notify::ready();
    serve(
        listener,
        Calls::new(metrics),
        pods.clone(),
        Cri::new(pods.clone(), node, streaming),
        uploads,
        streams,
        told_to_end(),
    )
    .await?;
    notify::stopping();
    socket::remove(&config.paths.socket);
    tracing::info!(
        pods = pods.model().pods().len(),
        "the daemon ends; its pods go on running"
    );
    Ok(())
}

/// Serves all three services on a listener until `end`, and then until the calls
/// under way are answered or their time is up. The streaming server, on `streams`,
/// ends last: until then calls may send clients there.
///
/// # Errors
/// The transport failed.
pub async fn serve(
    listener: UnixListener,
    calls: Calls,
    pods: Pods,
    cri: Cri,
    uploads: Uploads,
    streams: Listening,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let runtime = RuntimeServiceServer::new(cri.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let images = ImageServiceServer::new(cri)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operator = OperatorServer::new(Operator::new(pods, uploads))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    // Ends when the sender is dropped, however this ends.
    let (streaming, stopped) = tokio::sync::oneshot::channel::<()>();
    let streams = tokio::spawn(streams.serve(async {
        let _ = stopped.await;
    }));
    let (ending, ended) = tokio::sync::oneshot::channel::<()>();
    let end = async move {
        end.await;
        let _ = ending.send(());
    };
    let serving = Server::builder()
        .layer(calls)
        .add_service(runtime)
        .add_service(images)
        .add_service(operator)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end);
    let patience = async {
        if ended.await.is_ok() {
            tokio::time::sleep(LAST_CALLS).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = serving => {
            served.map_err(|error| Error::internal(format!("serve the socket: {error}")))
        }
        () = patience => {
            tracing::warn!("calls were still under way after {LAST_CALLS:?}; leaving them");
            Ok(())
        }
    };
    drop(streaming);
    // Its sessions have their own bound.
    let _ = streams.await;
    served
}

async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals can't be caught; only SIGKILL ends this daemon");
        return std::future::pending().await;
    };
    let name = tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "told to end");
}

/// Whether this host's cgroups are made by systemd (sd_booted(3)).
fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
