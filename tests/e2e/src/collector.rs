//! A collector of traces: what the daemon exports to, by OTLP over gRPC.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use tonic::transport::{Server, server::TcpIncoming};

/// A collector that keeps what it is sent, until it is dropped.
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// What an exporter is given.
    pub endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

struct Service(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|it| it.scope_spans);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(scopes.flat_map(|it| it.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self> {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
        let endpoint = format!("http://{}", incoming.local_addr()?);
        let service = TraceServiceServer::new(Service(spans.clone()));
        let server = tokio::spawn(async move {
            let serving = Server::builder().add_service(service);
            if let Err(error) = serving.serve_with_incoming(incoming).await {
                eprintln!("the collector ended: {error}");
            }
        });
        Ok(Self {
            spans,
            endpoint,
            server,
        })
    }

    /// What has arrived until now.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.spans.lock();
        spans.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}
