//! What is counted, in the words of Prometheus.
//!
//! Counters and histograms are fed where things happen; gauges are read from the
//! model when somebody asks. Label values come from the daemon's own vocabulary,
//! never from a client: their number is bounded.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::process;
use crate::{pods::Pods, store::PhaseTiming};

/// Bounds of latency buckets, seconds: from a list out of memory to a pod's start.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    120.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    service: &'static str,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    service: &'static str,
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

/// What a stream is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum StreamKind {
    /// A command's standard streams.
    Exec,
    /// A container's standard streams.
    Attach,
    /// A connection to a port.
    PortForward,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stream {
    kind: StreamKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Opening {
    kind: StreamKind,
    outcome: &'static str,
}

/// A stream that is counted as open until it is dropped.
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// Everything that is counted. Clones share it.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    answers: Family<Answer, Counter>,
    latency: Histograms<Call>,
    in_flight: Gauge,
    start_phases: Histograms<Phase>,
    streams: Family<Stream, Gauge>,
    openings: Family<Opening, Counter>,
    samples_failed: Counter,
    pods: Family<State, Gauge>,
    containers: Family<State, Gauge>,
    images: Gauge,
    image_bytes: Gauge,
    resident: Gauge,
    open_files: Gauge,
    cpu: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Gauges are brought up to date in several steps: one reader at a time.
    reading: tokio::sync::Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bulkhead");
        let answers = Family::<Answer, Counter>::default();
        registry.register(
            "rpc_calls",
            "Calls that were answered, by gRPC code",
            answers.clone(),
        );
        let latency = Histograms::<Call>::new_with_constructor(histogram);
        registry.register_with_unit(
            "rpc_latency",
            "From a call's arrival to the head of its answer",
            Unit::Seconds,
            latency.clone(),
        );
        let in_flight = Gauge::default();
        registry.register(
            "rpc_calls_in_flight",
            "Calls that wait for their answer",
            in_flight.clone(),
        );
        let start_phases = Histograms::<Phase>::new_with_constructor(histogram);
        registry.register_with_unit(
            "pod_start_phase",
            "Phases of pods' starts",
            Unit::Seconds,
            start_phases.clone(),
        );
        let streams = Family::<Stream, Gauge>::default();
        registry.register("streams_open", "Streams that are open", streams.clone());
        let openings = Family::<Opening, Counter>::default();
        registry.register("streams", "Streams that were asked for", openings.clone());
        let samples_failed = Counter::default();
        registry.register(
            "samples_failed",
            "Measurements of pods that failed or were not answered in time",
            samples_failed.clone(),
        );
        let pods = Family::<State, Gauge>::default();
        registry.register("pods", "Pods by state", pods.clone());
        let containers = Family::<State, Gauge>::default();
        registry.register("containers", "Containers by state", containers.clone());
        let images = Gauge::default();
        registry.register("images", "Images in the store", images.clone());
        let image_bytes = Gauge::default();
        registry.register_with_unit(
            "image_store",
            "What the image store takes on disk",
            Unit::Bytes,
            image_bytes.clone(),
        );
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The daemon that runs", Info::new(version));

        // Names that every Prometheus client library gives to these.
        let own = registry.sub_registry_with_prefix("process");
        let (resident, open_files) = (Gauge::default(), Gauge::default());
        let cpu = Gauge::default();
        own.register_with_unit(
            "resident_memory",
            "Of the daemon",
            Unit::Bytes,
            resident.clone(),
        );
        own.register("open_fds", "Of the daemon", open_files.clone());
        own.register_with_unit(
            "cpu",
            "Of the daemon, since its start",
            Unit::Seconds,
            cpu.clone(),
        );
        Self(Arc::new(Inner {
            registry,
            answers,
            latency,
            in_flight,
            start_phases,
            streams,
            openings,
            samples_failed,
            pods,
            containers,
            images,
            image_bytes,
            resident,
            open_files,
            cpu,
            reading: tokio::sync::Mutex::default(),
        }))
    }
}

impl Metrics {
    /// A call has arrived; it is under way until [`Metrics::answered`].
    pub fn arrived(&self) {
        self.0.in_flight.inc();
    }

    /// A call is answered, or its client has gone.
    pub fn answered(
        &self,
        service: &'static str,
        method: &str,
        code: &'static str,
        took: Duration,
    ) {
        self.0.in_flight.dec();
        let method = method.to_owned();
        let call = Call {
            service,
            method: method.clone(),
        };
        self.0
            .latency
            .get_or_create(&call)
            .observe(took.as_secs_f64());
        let answer = Answer {
            service,
            method,
            code,
        };
        self.0.answers.get_or_create(&answer).inc();
    }

    /// A pod has started, in these phases.
    pub fn pod_started(&self, timings: &[PhaseTiming]) {
        for timing in timings {
            let phase = Phase {
                phase: timing.phase.replace(' ', "_"),
            };
            let took = Duration::from_nanos(timing.took_ns).as_secs_f64();
            self.0.start_phases.get_or_create(&phase).observe(took);
        }
    }

    /// A stream has opened; it is open until what this returns is dropped.
    #[must_use]
    pub fn stream_opened(&self, kind: StreamKind) -> OpenStream {
        self.opening(kind, "opened");
        let open = self.0.streams.get_or_create(&Stream { kind }).clone();
        open.inc();
        OpenStream(open)
    }

    /// A stream could not be opened.
    pub fn stream_failed(&self, kind: StreamKind) {
        self.opening(kind, "failed");
    }

    fn opening(&self, kind: StreamKind, outcome: &'static str) {
        let opening = Opening { kind, outcome };
        self.0.openings.get_or_create(&opening).inc();
    }

    /// A pod could not be measured.
    pub fn sample_failed(&self) {
        self.0.samples_failed.inc();
    }

    /// All of it as text, in the OpenMetrics format.
    pub async fn text(&self, pods: &Pods) -> String {
        let _turn = self.0.reading.lock().await;
        self.read(pods).await;
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.0.registry) {
            tracing::error!(%error, "metrics cannot be written down");
        }
        out
    }

    /// Brings gauges up to date.
    async fn read(&self, pods: &Pods) {
        let model = pods.model();
        let states = model.pods().into_iter();
        count(
            &self.0.pods,
            states.map(|pod| format!("{:?}", pod.record().phase)),
        );
        let states = model.containers().into_iter();
        count(
            &self.0.containers,
            states.map(|it| format!("{:?}", it.record().phase)),
        );
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.0.images.set(whole(pods.images().list().len() as u64));
        if let Ok(info) = pods.images().fs_info().await {
            self.0.image_bytes.set(whole(info.used_bytes));
        }
        if let Some(own) = process::look() {
            self.0.resident.set(whole(own.resident_bytes));
            self.0.open_files.set(whole(own.open_files));
            self.0.cpu.set(own.cpu.as_secs_f64());
        }
    }
}

/// Sets a gauge for each state; those that nothing is in any more go away. One reader
/// at a time.
fn count(family: &Family<State, Gauge>, states: impl Iterator<Item = String>) {
    family.clear();
    for state in states {
        let state = State {
            state: state.to_lowercase(),
        };
        family.get_or_create(&state).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Node, World};

    #[tokio::test]
    async fn what_happened_is_in_the_text() {
        let world = World::new();
        let node = Node::start(&world).await.unwrap();
        let metrics = Metrics::default();
        metrics.arrived();
        metrics.arrived();
        let took = Duration::from_millis(3);
        metrics.answered("runtime.v1.RuntimeService", "Version", "OK", took);
        metrics.pod_started(&[PhaseTiming {
            phase: "guest kernel".to_owned(),
            took_ns: 2_000_000_000,
        }]);
        let exec = metrics.stream_opened(StreamKind::Exec);
        let port = metrics.stream_opened(StreamKind::PortForward);
        metrics.stream_failed(StreamKind::PortForward);
        drop(port);
        metrics.sample_failed();
        let text = metrics.text(&node.pods).await;
        drop(exec);
        for line in [
            r#"bulkhead_streams_open{kind="Exec"} 1"#,
            r#"bulkhead_streams_open{kind="PortForward"} 0"#,
            r#"bulkhead_streams_total{kind="PortForward",outcome="opened"} 1"#,
            r#"bulkhead_streams_total{kind="PortForward",outcome="failed"} 1"#,
            "bulkhead_samples_failed_total 1",
            r#"bulkhead_rpc_calls_total{service="runtime.v1.RuntimeService",method="Version",code="OK"} 1"#,
            r#"bulkhead_rpc_latency_seconds_bucket{le="0.005",service="runtime.v1.RuntimeService",method="Version"} 1"#,
            "bulkhead_rpc_calls_in_flight 1",
            r#"bulkhead_pod_start_phase_seconds_count{phase="guest_kernel"} 1"#,
            "bulkhead_process_open_fds ",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
