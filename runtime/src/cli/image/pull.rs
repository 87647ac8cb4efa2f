//! `bulkhead image pull`: from a registry, as kubelet has it done.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context, Result, anyhow};
use bulkhead_cri_api::operator::PullImageRequest;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::super::args::PullArgs;
use super::super::client::{Daemon, in_words};
use super::super::output;
use super::progress;

/// The longest password that is read, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// Pulls one after the other; prints the id of each.
pub(super) async fn pull(daemon: &mut Daemon, args: PullArgs) -> Result<()> {
    let (username, password) = match args.username {
        None => Default::default(),
        // Nothing else is to be done meanwhile.
        Some(username) => (username, tokio::task::spawn_blocking(password).await??),
    };
    for image in args.images {
        let request = PullImageRequest {
            image,
            username: username.clone(),
            password: password.clone(),
        };
        let answer = daemon.operator.pull_image(request).await;
        let steps = answer.map_err(|status| in_words(&status))?.into_inner();
        for image in progress::follow(steps, args.quiet).await? {
            output::print_text(&format!("{}\n", image.id))?;
        }
    }
    Ok(())
}

/// A password: typed and not shown, or the first line of standard input. Not an
/// argument, which everybody on the node can see.
fn password() -> Result<String> {
    let stdin = std::io::stdin();
    let hidden = stdin.is_terminal().then(Hidden::new).transpose()?;
    if hidden.is_some() {
        write!(std::io::stderr(), "Password: ")?;
    }
    let mut line = String::new();
    let read = stdin.lock().take(PASSWORD_MAX).read_line(&mut line);
    if hidden.is_some() {
        writeln!(std::io::stderr())?;
    }
    read.context("cannot read the password from standard input")?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(anyhow!("there is no password on standard input"));
    }
    Ok(password.to_owned())
}

/// The terminal shows nothing of what is typed, until this is dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn new() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("cannot read the terminal's modes")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)
            .context("cannot set the terminal's modes")?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Who typed can mend it with reset(1).
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
