//! `bulkhead doctor`

use super::args::Format;
use super::{Outcome, output};
use crate::config::{Config, ConfigError};
use crate::doctor::{Check, Level, examine, worst};

pub(super) fn doctor(config: &Result<Config, ConfigError>, format: Format) -> Outcome {
    let checks = examine(config);
    let verdict = worst(&checks);
    match format {
        Format::Table => output::print_text(&report(&checks))?,
        _ => output::print(format, &checks, &[], Vec::new)?,
    }
    Ok(u8::from(verdict == Level::Fail))
}

/// A line for each check, and below it what to do where it isn't well.
fn report(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        text.push_str(&format!(
            "{level:<4}  {:<width$}  {}\n",
            check.name, check.found
        ));
        if let Some(mend) = &check.mend {
            text.push_str(&format!("      {:<width$}  -> {mend}\n", ""));
        }
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    text.push_str(&match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "Pods can run here.\n".to_owned(),
        (0, warned) => format!("Pods can run here; {warned} to look at.\n"),
        (failed, _) => format!("Pods can't run here: {failed} to mend.\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_to_do() {
        let check = |name, level, mend: Option<&str>| Check {
            name,
            level,
            found: "found".to_owned(),
            mend: mend.map(str::to_owned),
        };
        let ok = check("kvm", Level::Ok, None);
        assert_eq!(
            report(std::slice::from_ref(&ok)),
            "ok    kvm  found\nPods can run here.\n"
        );
        let bad = check("long name", Level::Fail, Some("do this"));
        let text = report(&[ok, bad]);
        assert!(
            text.contains("FAIL  long name  found\n                 -> do this\n"),
            "{text}"
        );
        assert!(text.ends_with("Pods can't run here: 1 to mend.\n"));
    }
}
