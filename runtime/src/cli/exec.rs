//! `bulkhead exec`: a further command in a running container.

use std::path::Path;

use bulkhead_cri_api::operator::ExecStart;

use super::Outcome;
use super::args::ExecArgs;
use super::client::Daemon;
use super::process::{Connection, Ending, Streams};
use super::ps::find_container;
use super::run::{cannot_execute, exit_status};
use super::terminal::{RawMode, window};

pub(super) async fn exec(socket: &Path, args: ExecArgs) -> Outcome {
    let mut daemon = Daemon::connect(socket).await?;
    let container = find_container(&mut daemon, &args.container).await?;
    let start = ExecStart {
        container_id: container.id,
        command: args.command,
        terminal: args.tty,
        stdin: args.interactive,
        window: window().filter(|_| args.tty),
    };
    let connection = Connection::exec(&mut daemon, start)
        .await
        .map_err(cannot_execute)?;
    let streams = Streams {
        stdin: args.interactive,
        terminal: args.tty,
    };
    let _raw = if args.tty && args.interactive {
        RawMode::enter()?
    } else {
        None
    };
    match connection.talk(streams, || {}).await? {
        Ending::Exited(exit) => Ok(exit_status(&exit)),
        // Hanging up kills the command: so the protocol says.
        Ending::Abandoned { signal } => Ok(128 + signal),
    }
}
