//! `bulkhead completion` and `bulkhead man`: from the definitions that parse.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Cli;
use super::{Outcome, output};

pub(super) fn completion(shell: Shell) -> Outcome {
    output::print_text(&completion_text(shell))?;
    Ok(0)
}

fn completion_text(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bulkhead", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

pub(super) fn man(directory: Option<&Path>) -> Outcome {
    match directory {
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page)?;
            output::print_text(&String::from_utf8_lossy(&page))?;
        }
        Some(directory) => {
            clap_mangen::generate_to(Cli::command(), directory).with_context(|| {
                format!("cannot write manual pages into {}", directory.display())
            })?;
            let pages = fs::read_dir(directory)?.count();
            tracing::debug!(pages, "manual pages written");
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion_text(shell);
            for word in ["serve", "run", "image", "import", "--timings"] {
                assert!(
                    script.contains(word.trim_start_matches("--")),
                    "{shell}: {word}"
                );
            }
        }
    }

    #[test]
    fn the_manual_has_a_page_for_each_command() {
        let directory = tempfile::tempdir().unwrap();
        man(Some(directory.path())).unwrap();
        for page in ["bulkhead.1", "bulkhead-run.1", "bulkhead-image-import.1"] {
            let text = fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".TH"), "{page}");
        }
        let missing = directory.path().join("none/below");
        assert!(man(Some(&missing)).is_err());
    }
}
