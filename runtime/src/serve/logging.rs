//! The daemon's log: standard error, for people or machines.

use tracing_subscriber::EnvFilter;

use crate::{
    config::{Format, Logging},
    error::{Error, Result},
};

/// Sends all events to standard error from now on. `RUST_LOG` overrides the level.
pub(super) fn start(config: &Logging) -> Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| Error::invalid(format!("logging.level {level:?}: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match config.format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
    started.map_err(|error| Error::internal(format!("start the log: {error}")))
}
