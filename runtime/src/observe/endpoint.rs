//! The HTTP endpoint for monitoring: GET, and nothing else.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | OpenMetrics text |
//! | `/healthz` | `ok` while the daemon serves |
//! | `/debug/state` | JSON: pods and containers with their states, what is under way |
//!
//! It asks nobody who they are, so it belongs on loopback; it shows names and states,
//! never environment, arguments or annotations.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use super::metrics::Metrics;
use crate::{
    error::{Error, Result},
    pods::Pods,
};

/// Clients at once; more wait.
const CLIENTS: usize = 16;
/// How long a client may take, from its coming to its having read its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What answers are made from.
#[derive(Clone)]
pub struct Endpoint {
    /// The counters.
    pub metrics: Metrics,
    /// The pods.
    pub pods: Pods,
}

/// Opens the endpoint's socket.
///
/// # Errors
/// The address is taken, or not this machine's.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::invalid(format!(
            "monitoring.listen {address}: {error}; choose another address or port"
        ))
    })
}

impl Endpoint {
    /// Answers clients of a socket for ever.
    pub async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the monitoring endpoint could not take a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let endpoint = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let endpoint = endpoint.clone();
                    async move {
                        let (parts, _) = request.into_parts();
                        Ok::<_, Infallible>(endpoint.answer(&parts).await)
                    }
                });
                // One answer a connection: places are few, and nobody shall sit in one.
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that breaks off or dawdles is its own affair.
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, request: &http::request::Parts) -> Response<Full<Bytes>> {
        if request.method != Method::GET {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri.path() {
            "/metrics" => {
                let text = self.metrics.text(&self.pods).await;
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                body(StatusCode::OK, kind, text)
            }
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/debug/state" => {
                let state = format!("{:#}\n", self.state());
                body(StatusCode::OK, "application/json", state)
            }
            _ => plain(
                StatusCode::NOT_FOUND,
                "there is /metrics, /healthz and /debug/state\n",
            ),
        }
    }

    fn state(&self) -> serde_json::Value {
        let model = self.pods.model();
        let containers = |pod: &str| -> Vec<serde_json::Value> {
            let all = model.containers_in(pod).into_iter();
            all.map(|it| {
                let record = it.record();
                json!({ "id": it.id, "name": it.key.name, "phase": format!("{:?}", record.phase) })
            })
            .collect()
        };
        let pods: Vec<_> = model
            .pods()
            .into_iter()
            .map(|pod| {
                json!({
                    "id": pod.id,
                    "key": pod.key.to_string(),
                    "phase": format!("{:?}", pod.record().phase),
                    "containers": containers(&pod.id),
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            "pods": pods,
        })
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    body(status, "text/plain; charset=utf-8", text)
}

fn body(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::{Node, World};

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn monitoring_is_answered_and_nothing_else() {
        let node = Node::start(&World::new()).await.unwrap();
        let endpoint = Endpoint {
            metrics: Metrics::default(),
            pods: node.pods.clone(),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(
            listen(address)
                .await
                .unwrap_err()
                .to_string()
                .contains("monitoring.listen")
        );
        let serving = tokio::spawn(endpoint.serve(listener));
        for (request, status, text) in [
            ("GET /healthz HTTP/1.0\r\n\r\n", "200 OK", "ok\n"),
            (
                "GET /metrics HTTP/1.0\r\n\r\n",
                "200 OK",
                "bulkhead_images ",
            ),
            (
                "GET /debug/state HTTP/1.0\r\n\r\n",
                "200 OK",
                "\"pods\": []",
            ),
            (
                "GET /etc/passwd HTTP/1.0\r\n\r\n",
                "404 Not Found",
                "/metrics",
            ),
            (
                "POST /metrics HTTP/1.0\r\n\r\n",
                "405 Method Not Allowed",
                "GET",
            ),
        ] {
            let reply = ask(address, request).await;
            assert!(reply.contains(status) && reply.contains(text), "{reply}");
        }
        serving.abort();
    }
}
