//! The daemon's log: standard error, for people or machines. Spans go to the
//! collector of traces as well, if there is one.

use tracing_subscriber::{
    EnvFilter, Layer as _, filter::LevelFilter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    config::{Format, Logging},
    error::{Error, Result},
    observe::traces::Exporter,
};

/// Sends all events to standard error from now on. `RUST_LOG` overrides the level.
pub(super) fn start(config: &Logging, traces: Option<&Exporter>) -> Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| Error::invalid(format!("logging.level {level:?}: {error}")))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Text => lines.with_ansi(false).boxed(),
        Format::Json => lines.json().boxed(),
    };
    // Every span of ours is worth a trace, whatever the log's level is.
    let own =
        tracing_subscriber::filter::Targets::new().with_target("bulkhead", LevelFilter::DEBUG);
    let traces = traces.map(|exporter| {
        tracing_opentelemetry::layer()
            .with_tracer(exporter.tracer())
            .with_filter(own)
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traces)
        .try_init()
        .map_err(|error| Error::internal(format!("start the log: {error}")))
}
