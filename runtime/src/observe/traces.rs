//! Traces, exported by OTLP.
//!
//! A call's span continues the trace that its client is in (W3C Trace Context, the
//! `traceparent` header that kubelet sends). A pod's start is told apart by phases:
//! VMM and guest report how long each took, and the daemon makes spans of them, so
//! that neither of them ever speaks to a collector.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Span as _, SpanBuilder, SpanKind, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    error::{Error, Result},
    store::PhaseTiming,
};

/// Name of the instrumentation, and of the service.
const NAME: &str = "bulkhead";
/// How long the last spans may take to leave when the daemon ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Sends spans to a collector until it is dropped.
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// An exporter to a collector, which need not be there yet. Of calls that no
    /// client traces, `per_million` of a million are traced. Inside a tokio runtime.
    ///
    /// # Errors
    /// The endpoint cannot be used.
    pub fn new(endpoint: &str, per_million: u32) -> Result<Self> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| {
                Error::invalid(format!("monitoring.otlp_endpoint {endpoint:?}: {error}"))
            })?;
        let own = Sampler::TraceIdRatioBased(f64::from(per_million) / 1e6);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(own)))
            .with_resource(Resource::builder().with_service_name(NAME).build())
            .build();
        opentelemetry::global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }

    /// What makes spans of the daemon's own.
    #[must_use]
    pub fn tracer(&self) -> opentelemetry_sdk::trace::SdkTracer {
        self.0.tracer(NAME)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The span of a call, a child of its client's.
pub(super) fn call(service: &'static str, method: &str, headers: &HeaderMap) -> Span {
    // At debug, so that lines of the log do not all begin with it.
    let span = tracing::debug_span!(
        "call",
        otel.name = %format_args!("{service}/{method}"),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
    );
    if headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Without an exporter there is nothing to be a child of.
        let _ = span.set_parent(parent);
    }
    span
}

/// Makes spans of a start's phases, which followed each other until now, beneath the
/// current span.
pub(crate) fn phases(timings: &[PhaseTiming]) {
    let context = Span::current().context();
    let tracer = opentelemetry::global::tracer(NAME);
    for (phase, from, to) in laid_out(timings, SystemTime::now()) {
        let attributes = vec![KeyValue::new("process.role", role(phase))];
        let builder = SpanBuilder::from_name(phase.to_owned())
            .with_kind(SpanKind::Internal)
            .with_start_time(from)
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(builder, &context);
        span.end_with_timestamp(to);
    }
}

/// Which program a phase of the start is spent in.
fn role(phase: &str) -> &'static str {
    match phase {
        "queued" | "prepare" | "configure" => "daemon",
        "guest kernel" => "guest",
        "agent" => "agent",
        _ => "vmm",
    }
}

/// Begin and end of each phase, the last of which ends at `end`.
fn laid_out(
    timings: &[PhaseTiming],
    end: SystemTime,
) -> impl Iterator<Item = (&str, SystemTime, SystemTime)> {
    let took = |timing: &PhaseTiming| Duration::from_nanos(timing.took_ns);
    let all: Duration = timings.iter().map(took).sum();
    let mut at = end.checked_sub(all).unwrap_or(end);
    timings.iter().map(move |timing| {
        let from = at;
        at += took(timing);
        (timing.phase.as_str(), from, at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_end_now() {
        let timing = |phase: &str, took_ns| PhaseTiming {
            phase: phase.to_owned(),
            took_ns,
        };
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let timings = [
            timing("prepare", 1_000_000_000),
            timing("guest kernel", 3_000_000_000),
        ];
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let got: Vec<_> = laid_out(&timings, end).collect();
        assert_eq!(
            got,
            [
                ("prepare", at(96), at(97)),
                ("guest kernel", at(97), at(100))
            ]
        );
        assert_eq!(role("guest kernel"), "guest");
    }
}
