//! The specifications that are known not to pass, and what is made of a run.
//!
//! One a line: its full name, ` -- `, the reason. Lines that begin with `#` are for
//! readers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::report::{Outcome, State};

/// The checked-in list.
const OURS: &str = include_str!("../../../conformance/known.txt");

/// Specifications that are known not to pass, each with its reason.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, String>);

impl Known {
    /// The checked-in list.
    ///
    /// # Errors
    /// As [`Known::parse`].
    pub fn ours() -> Result<Self> {
        Self::parse(OURS).context("tests/conformance/known.txt")
    }

    /// Reads a list.
    ///
    /// # Errors
    /// A line without a reason, or a specification twice.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, reason) = line
                .split_once(" -- ")
                .with_context(|| format!("line {}: no \" -- \" with a reason", number + 1))?;
            let former = all.insert(name.trim().to_owned(), reason.trim().to_owned());
            ensure!(former.is_none(), "line {}: {name} twice", number + 1);
        }
        Ok(Self(all))
    }

    /// Name and reason of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, reason)| (name.as_str(), reason.as_str()))
    }
}

/// What is made of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many passed and are not in the list.
    pub passed: usize,
    /// How many did not pass and are in the list.
    pub known: usize,
    /// Failed, and not in the list.
    pub failed: Vec<String>,
    /// Skipped by critest itself, and not in the list.
    pub skipped: Vec<String>,
    /// In the list, and passed.
    pub stale: Vec<String>,
    /// In the list, and not in critest.
    pub missing: Vec<String>,
}

impl Verdict {
    /// Whether all is as the list says.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let bad = [&self.failed, &self.skipped, &self.stale, &self.missing];
        bad.iter().all(|names| names.is_empty())
    }
}

/// Compares a run with the list. `whole`: all specifications were asked for.
#[must_use]
pub fn judge(outcomes: &[Outcome], known: &Known, whole: bool) -> Verdict {
    let mut verdict = Verdict::default();
    for outcome in outcomes {
        let name = || outcome.name.clone();
        match (outcome.state, known.0.contains_key(&outcome.name)) {
            (State::NotRun, _) => {}
            (State::Passed, false) => verdict.passed += 1,
            (State::Passed, true) => verdict.stale.push(name()),
            (_, true) => verdict.known += 1,
            (State::Failed, false) => verdict.failed.push(name()),
            (State::Skipped, false) => verdict.skipped.push(name()),
        }
    }
    if whole {
        let there = |name: &str| outcomes.iter().any(|outcome| outcome.name == name);
        verdict.missing = known
            .iter()
            .filter(|(name, _)| !there(name))
            .map(|(name, _)| name.to_owned())
            .collect();
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, state: State) -> Outcome {
        Outcome {
            name: name.to_owned(),
            state,
            message: String::new(),
        }
    }

    #[test]
    fn a_list_that_no_longer_holds_is_a_failure() {
        let known = Known::parse(
            "# for readers\n\na fails -- because\nnow passes -- it did not\nold -- gone\n",
        )
        .unwrap();
        let outcomes = [
            outcome("fine", State::Passed),
            outcome("a fails", State::Failed),
            outcome("now passes", State::Passed),
            outcome("new", State::Failed),
            outcome("left", State::Skipped),
            outcome("elsewhere", State::NotRun),
        ];
        let verdict = judge(&outcomes, &known, true);
        assert_eq!((verdict.passed, verdict.known), (1, 1));
        assert_eq!(verdict.failed, ["new"]);
        assert_eq!(verdict.skipped, ["left"]);
        assert_eq!(verdict.stale, ["now passes"]);
        assert_eq!(verdict.missing, ["old"]);
        assert!(!verdict.is_good());
        // Of a part of the specifications nothing can be missing.
        assert!(judge(&outcomes, &known, false).missing.is_empty());
        assert!(judge(&outcomes[..2], &known, false).is_good());
    }

    #[test]
    fn every_line_has_a_reason() {
        assert!(Known::parse("a spec\n").is_err());
        assert!(Known::parse("a -- b\na -- c\n").is_err());
    }

    #[test]
    fn the_page_for_readers_says_what_the_list_says() {
        let page = include_str!("../../../../docs/conformance.md");
        for (name, reason) in Known::ours().unwrap().iter() {
            // A vertical bar would end the cell of a table.
            let row = format!("| {} | {reason} |", name.replace('|', "\\|"));
            assert!(page.contains(&row), "docs/conformance.md lacks: {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| ")).count();
        // One more is the table's head.
        assert_eq!(rows, Known::ours().unwrap().iter().count() + 1);
    }
}
