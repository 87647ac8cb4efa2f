//! `bulkhead logs`: a container's output, from its log file.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bulkhead_cri_api::v1::{ContainerState, ContainerStatusRequest};
use tonic::Code;

use super::Outcome;
use super::args::LogsArgs;
use super::client::{Daemon, in_words, refusal_code};
use super::logfile::{Printer, Reader, tail_offset};
use super::ps::find_container;

/// How often a file that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks between two questions to the daemon whether the container still runs.
const ASK_EVERY: u32 = 5;

pub(super) async fn logs(socket: &Path, args: LogsArgs) -> Outcome {
    let mut daemon = Daemon::connect(socket).await?;
    let container = find_container(&mut daemon, &args.container).await?;
    let status = status(&mut daemon, &container.id).await?;
    let Some((path, _)) = status.filter(|(path, _)| !path.is_empty()) else {
        return Err(anyhow::anyhow!(
            "container {} keeps no log: its pod was made without a log directory",
            args.container
        )
        .into());
    };
    print(&mut daemon, &container.id, Path::new(&path), &args).await?;
    Ok(0)
}

async fn print(
    daemon: &mut Daemon,
    container: &str,
    path: &Path,
    args: &LogsArgs,
) -> anyhow::Result<()> {
    let attempted = || format!("cannot read the log {}", path.display());
    let position = match args.tail {
        Some(count) => tail_offset(path, count).with_context(attempted)?,
        None => 0,
    };
    let mut reader = Reader::open(path, position).with_context(attempted)?;
    // Buffered by hand: a flush for each look, not for each line.
    let stdout = io::BufWriter::new(io::stdout());
    let mut printer = Printer::new(stdout, io::stderr(), args.timestamps);
    let mut looks = 0;
    loop {
        // Asked before looking: what an ended container wrote is all in the file.
        let ended = looks % ASK_EVERY == 0 && !runs(daemon, container).await?;
        reader.read(&mut |line| printer.line(line))?;
        printer.flush()?;
        if !args.follow || ended {
            return Ok(());
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the container may still write.
async fn runs(daemon: &mut Daemon, container: &str) -> anyhow::Result<bool> {
    Ok(match status(daemon, container).await? {
        Some((_, state)) => {
            matches!(
                state,
                ContainerState::ContainerCreated | ContainerState::ContainerRunning
            )
        }
        None => false,
    })
}

/// Log path and state; `None` if the container is gone.
async fn status(
    daemon: &mut Daemon,
    container: &str,
) -> anyhow::Result<Option<(String, ContainerState)>> {
    let request = ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: false,
    };
    match daemon
        .runtime
        .container_status(request)
        .await
        .map_err(|status| in_words(&status))
    {
        Ok(answer) => match answer.into_inner().status {
            Some(status) => Ok(Some((status.log_path.clone(), status.state()))),
            None => bail!("the daemon gave no status of container {container}"),
        },
        Err(error) if refusal_code(&error) == Some(Code::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
