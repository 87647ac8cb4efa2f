//! Exec and attach over a WebSocket: all channels are there from the beginning.

use super::{Input, Outlets, Remote, Wires, status::Form};
use crate::{
    link::Link,
    mux::{Mux, Outlet, Streams},
    websocket::channels::{Dialect, ERROR, Encoding, RESIZE, STDERR, STDIN, STDOUT},
};

/// Versions of the protocol, newest first; a client that names none speaks the
/// oldest.
pub(crate) const VERSIONS: &[(&str, Dialect, Form)] = &[
    (
        "v5.channel.k8s.io",
        dialect(Encoding::Binary, true),
        Form::Json,
    ),
    (
        "v4.channel.k8s.io",
        dialect(Encoding::Binary, false),
        Form::Json,
    ),
    (
        "v4.base64.channel.k8s.io",
        dialect(Encoding::Base64, false),
        Form::Json,
    ),
    (
        "channel.k8s.io",
        dialect(Encoding::Binary, false),
        Form::Text,
    ),
    (
        "base64.channel.k8s.io",
        dialect(Encoding::Base64, false),
        Form::Text,
    ),
    ("", dialect(Encoding::Binary, false), Form::Text),
];

const fn dialect(encoding: Encoding, half_close: bool) -> Dialect {
    Dialect {
        encoding,
        half_close,
    }
}

/// The channels of a session. Those that it doesn't have are not read.
pub(crate) fn wires<L: Link>(
    remote: &Remote,
    form: Form,
    mux: &mut Mux<L>,
    streams: &Streams,
) -> Wires {
    let wanted = remote.streams;
    let outlet = |channel: u8| streams.outlet(channel.into());
    Wires {
        input: Input {
            stdin: wanted.stdin.then(|| mux.inlet(STDIN.into())),
            resize: wanted.tty.then(|| mux.inlet(RESIZE.into())),
        },
        output: Outlets {
            stdout: wanted.stdout.then(|| outlet(STDOUT)),
            stderr: (wanted.stderr && !wanted.tty).then(|| outlet(STDERR)),
        },
        error: outlet(ERROR),
        form,
    }
}

/// Serves a session.
pub(crate) async fn serve(remote: Remote, wires: Wires, streams: Streams) {
    drop(streams);
    greeting(&wires).send(Vec::new()).await;
    super::run(remote.command.as_ref(), wires).await;
}

/// An empty message on the first channel that the client reads: older clients wait
/// for it to know that they are connected.
fn greeting(wires: &Wires) -> &Outlet {
    let output = &wires.output;
    let first = output.stdout.as_ref().or(output.stderr.as_ref());
    first.unwrap_or(&wires.error)
}
