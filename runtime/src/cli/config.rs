//! `bulkhead config`

use std::path::Path;

use super::args::{Cli, ConfigAction};
use super::{Outcome, load, output};
use crate::config::{DEFAULT_PATH, default_text};

pub(super) fn config(action: ConfigAction, cli: &Cli) -> Outcome {
    match action {
        ConfigAction::Default => output::print_text(&default_text())?,
        ConfigAction::Show => output::print_text(&load(cli)?.to_toml())?,
        ConfigAction::Check => {
            load(cli)?;
            let path = cli.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
            let text = if path.exists() {
                format!("{} is usable\n", path.display())
            } else {
                format!("{} does not exist: the defaults are used\n", path.display())
            };
            output::print_text(&text)?;
        }
    }
    Ok(0)
}
