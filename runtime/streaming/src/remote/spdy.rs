//! Exec and attach over SPDY: the client opens one stream for each thing, and says
//! in its `streamType` header which it is.

use std::time::Duration;

use tokio::time::timeout;

use super::{Input, Outlets, Remote, Wires, status::Form};
use crate::{
    backend::Standard,
    mux::{Opened, Outlet, Streams},
};

/// How long the client may take to open all streams.
const OPENING: Duration = Duration::from_secs(30);

/// Versions of the protocol, newest first, and whether they know terminal sizes.
pub(crate) const VERSIONS: &[(&str, Version)] = &[
    (
        "v4.channel.k8s.io",
        Version {
            form: Form::Json,
            sizes: true,
        },
    ),
    (
        "v3.channel.k8s.io",
        Version {
            form: Form::Text,
            sizes: true,
        },
    ),
    (
        "v2.channel.k8s.io",
        Version {
            form: Form::Text,
            sizes: false,
        },
    ),
    (
        "channel.k8s.io",
        Version {
            form: Form::Text,
            sizes: false,
        },
    ),
];

/// What differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) form: Form,
    pub(crate) sizes: bool,
}

/// Serves a session.
pub(crate) async fn serve(remote: Remote, version: Version, mut streams: Streams) {
    match timeout(OPENING, gather(remote.streams, version, &mut streams)).await {
        Ok(Some(wires)) => {
            // Streams that the client opens beyond these are refused from here on.
            drop(streams);
            super::run(remote.command.as_ref(), wires).await;
        }
        Ok(None) => {}
        Err(_elapsed) => tracing::debug!("a client did not open its streams in {OPENING:?}"),
    }
}

/// Waits for all streams of a session. `None`: the client is gone.
async fn gather(wanted: Standard, version: Version, streams: &mut Streams) -> Option<Wires> {
    let (mut input, mut output) = (Input::default(), Outlets::default());
    let mut error: Option<Outlet> = None;
    let sizes = wanted.tty && version.sizes;
    loop {
        let complete = input.stdin.is_some() >= wanted.stdin
            && output.stdout.is_some() >= wanted.stdout
            && output.stderr.is_some() >= (wanted.stderr && !wanted.tty)
            && input.resize.is_some() >= sizes;
        if let Some(error) = error.take_if(|_| complete) {
            return Some(Wires {
                input,
                output,
                error,
                form: version.form,
            });
        }
        let Opened {
            headers,
            inlet,
            outlet,
        } = streams.opened.recv().await?;
        let refused = match headers.get("streamtype") {
            Some("error") if error.is_none() => {
                error = Some(outlet);
                None
            }
            Some("stdin") if wanted.stdin && input.stdin.is_none() => {
                input.stdin = Some(inlet);
                None
            }
            Some("stdout") if wanted.stdout && output.stdout.is_none() => {
                output.stdout = Some(outlet);
                None
            }
            Some("stderr") if wanted.stderr && output.stderr.is_none() => {
                output.stderr = Some(outlet);
                None
            }
            Some("resize") if sizes && input.resize.is_none() => {
                input.resize = Some(inlet);
                None
            }
            _ => Some(outlet),
        };
        if let Some(outlet) = refused {
            tracing::debug!(
                stream = outlet.id(),
                "a stream that the session doesn't have"
            );
            outlet.reset().await;
        }
    }
}
