//! A layer around all services: what each call is, how long it took, how it ended.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::Code;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{metrics::Metrics, traces};

/// Counts and traces every call of the services inside.
#[derive(Clone)]
pub struct Calls(Metrics);

impl Calls {
    /// Counts into these metrics.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// Services that are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (service, method) = name(request.uri().path());
        let span = traces::call(service, &method, request.headers());
        let mut under_way = UnderWay {
            metrics: self.metrics.clone(),
            service,
            method,
            code: "CANCELLED",
            since: Instant::now(),
        };
        self.metrics.arrived();
        let answer = self.inner.call(request);
        Box::pin(
            async move {
                let answer = answer.await;
                under_way.ended(match &answer {
                    Ok(response) => code(response.headers()),
                    Err(_) => "UNAVAILABLE",
                });
                answer
            }
            .instrument(span),
        )
    }
}

/// A call that is counted when it is answered, or dropped because its client went.
struct UnderWay {
    metrics: Metrics,
    service: &'static str,
    method: String,
    code: &'static str,
    since: Instant,
}

impl UnderWay {
    fn ended(&mut self, code: &'static str) {
        self.code = code;
        // What nobody serves is not worth a name of its own.
        if code == "UNIMPLEMENTED" {
            self.method = "other".to_owned();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        self.metrics
            .answered(self.service, &self.method, self.code, took);
    }
}

/// Service and method of a path, "/runtime.v1.RuntimeService/Version". Paths are the
/// client's: what is not known is "other", so that nobody can make new names.
fn name(path: &str) -> (&'static str, String) {
    const SERVICES: [&str; 3] = [
        "runtime.v1.RuntimeService",
        "runtime.v1.ImageService",
        "bulkhead.v1.Operator",
    ];
    /// Longer than any method's name.
    const METHOD_MAX: usize = 40;
    let other = || ("other", "other".to_owned());
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
        return other();
    };
    let plain = method.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match SERVICES.into_iter().find(|known| *known == service) {
        Some(known) if plain && method.len() <= METHOD_MAX => (known, method.to_owned()),
        _ => other(),
    }
}

/// The gRPC code of an answer's head. A stream that fails later counts as begun: OK.
fn code(headers: &http::HeaderMap) -> &'static str {
    let Some(status) = headers.get("grpc-status") else {
        return "OK";
    };
    match Code::from_bytes(status.as_bytes()) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_kept() {
        let known = name("/runtime.v1.RuntimeService/RunPodSandbox");
        assert_eq!(known.0, "runtime.v1.RuntimeService");
        assert_eq!(known.1, "RunPodSandbox");
        for path in [
            "/evil/Version",
            "/runtime.v1.RuntimeService/a\"b",
            "/runtime.v1.RuntimeService/a/b",
            "/",
            "",
        ] {
            assert_eq!(name(path).1, "other", "{path}");
        }
        assert_eq!(
            name(&format!("/runtime.v1.ImageService/{}", "x".repeat(41))).0,
            "other"
        );
    }

    #[tokio::test]
    async fn an_answer_a_refusal_and_a_client_that_left_are_told_apart() {
        let metrics = Metrics::default();
        let service = tower::service_fn(|request: Request<&'static str>| async move {
            match *request.body() {
                "wait" => std::future::pending().await,
                "refuse" => Ok(tonic::Status::not_found("no").into_http::<String>()),
                _ => Ok::<_, std::convert::Infallible>(Response::new(String::new())),
            }
        });
        let mut counted = Calls::new(metrics.clone()).layer(service);
        let request = |body| {
            Request::builder()
                .uri("http://localhost/runtime.v1.ImageService/ListImages")
                .body(body)
                .unwrap()
        };
        counted.call(request("answer")).await.unwrap();
        counted.call(request("refuse")).await.unwrap();
        drop(counted.call(request("wait")));
        let node = crate::testing::Node::start(&crate::testing::World::new())
            .await
            .unwrap();
        let text = metrics.text(&node.pods).await;
        for code in ["OK", "NOT_FOUND", "CANCELLED"] {
            let line = format!(r#"method="ListImages",code="{code}"}} 1"#);
            assert!(text.contains(&line), "no {line} in\n{text}");
        }
        assert!(text.contains("in_flight 0"), "{text}");
    }
}
