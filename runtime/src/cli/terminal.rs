//! The terminal that the user sits at.

use std::io::{self, IsTerminal};

use bulkhead_cri_api::operator::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether there is a terminal at both ends, so that an interactive program works.
#[must_use]
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal, if there is one and it knows.
#[must_use]
pub(super) fn window() -> Option<WindowSize> {
    let size = tcgetwinsize(io::stdout())
        .or_else(|_| tcgetwinsize(io::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then(|| WindowSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// Raw mode: keys go to the container as they are, Ctrl-C too. Ends when dropped.
#[derive(Debug)]
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches the terminal of standard input to raw mode; `None` if it is none.
    ///
    /// # Errors
    /// If the terminal can't be switched.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone needs no mending.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
