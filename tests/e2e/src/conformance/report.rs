//! critest's report: what became of each specification.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// How a specification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should.
    Passed,
    /// It looked at the runtime or the machine and left.
    Skipped,
    /// Nobody asked for it.
    NotRun,
    /// In any other way.
    Failed,
}

/// A specification and what became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its full name: those of its groups and its own, with blanks between.
    pub name: String,
    /// How it ended.
    pub state: State,
    /// Why it failed or was skipped.
    pub message: String,
}

impl Outcome {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.state == State::Passed
    }

    /// Whether it was run, if only to be skipped.
    pub fn was_run(&self) -> bool {
        self.state != State::NotRun
    }
}

/// Reads a report of Ginkgo 2 (`--ginkgo.json-report`).
///
/// # Errors
/// It is no such report.
pub fn parse(text: &[u8]) -> Result<Vec<Outcome>> {
    let suites: Vec<Value> = serde_json::from_slice(text).context("reading critest's report")?;
    let specs = suites
        .iter()
        .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    Ok(specs
        .filter(|spec| spec["LeafNodeType"] == "It")
        .map(outcome)
        .collect())
}

fn outcome(spec: &Value) -> Outcome {
    let groups = spec["ContainerHierarchyTexts"]
        .as_array()
        .into_iter()
        .flatten();
    let words: Vec<&str> = groups
        .chain([&spec["LeafNodeText"]])
        .filter_map(Value::as_str)
        .collect();
    let name = words.join(" ");
    let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
    let state = match spec["State"].as_str() {
        Some("passed") => State::Passed,
        // One that nobody asked for has nothing to say.
        Some("skipped" | "pending") if message.is_empty() => State::NotRun,
        Some("skipped") => State::Skipped,
        _ => State::Failed,
    };
    Outcome {
        name: name.strip_prefix("[k8s.io] ").unwrap_or(&name).to_owned(),
        state,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_told_apart() {
        let text = br#"[{"SpecReports": [
            {"LeafNodeType": "BeforeSuite", "State": "passed", "LeafNodeText": ""},
            {"LeafNodeType": "It", "State": "passed", "ContainerHierarchyTexts": ["[k8s.io] A", "b"], "LeafNodeText": "c"},
            {"LeafNodeType": "It", "State": "skipped", "ContainerHierarchyTexts": null, "LeafNodeText": "d"},
            {"LeafNodeType": "It", "State": "skipped", "LeafNodeText": "e", "Failure": {"Message": "no"}},
            {"LeafNodeType": "It", "State": "timedout", "LeafNodeText": "f", "Failure": {"Message": "slow"}}
        ]}]"#;
        let outcomes = parse(text).unwrap();
        let seen: Vec<_> = outcomes
            .iter()
            .map(|it| (it.name.as_str(), it.state, it.message.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("A b c", State::Passed, ""),
                ("d", State::NotRun, ""),
                ("e", State::Skipped, "no"),
                ("f", State::Failed, "slow"),
            ]
        );
        assert!(parse(b"{}").is_err());
    }
}
