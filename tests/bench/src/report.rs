//! The figures, gathered by subject and metric, and their two forms.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

/// A column of the table: its head, and the quantile it shows.
pub(crate) type Column = (&'static str, f64);

/// For few samples.
pub(crate) const SPREAD: &[Column] = &[("min", 0.0), ("median", 0.5), ("max", 1.0)];
/// For many.
pub(crate) const PERCENTILES: &[Column] = &[("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// Everything one call measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kernel: String,
    cpus: usize,
    /// How the figures were taken, in words.
    conditions: String,
    /// Subjects that could not be measured, and why.
    left_out: BTreeMap<String, String>,
    /// Subject ("bulkhead", "qemu microvm") → metric → its samples.
    samples: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(conditions: String) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            conditions,
            left_out: BTreeMap::new(),
            samples: BTreeMap::new(),
        }
    }

    /// Adds a sample. The metric's name ends in its unit: "to ready, ms".
    pub(crate) fn add(&mut self, subject: &str, metric: &str, value: f64) {
        self.samples
            .entry(subject.to_owned())
            .or_default()
            .entry(metric.to_owned())
            .or_default()
            .push(value);
    }

    /// Says that a subject could not be measured.
    pub(crate) fn leave_out(&mut self, subject: &str, reason: &str) {
        eprintln!("{subject} is left out: {reason}");
        self.left_out.insert(subject.to_owned(), reason.to_owned());
    }

    /// The given quantiles of every metric, and the number of samples behind them.
    pub(crate) fn table(&self, columns: &[Column]) -> String {
        let mut out = format!(
            "{}; {} CPUs, host kernel {}\n{:<18} {:<44} {:>5}",
            self.conditions, self.cpus, self.kernel, "subject", "metric", "n"
        );
        for (head, _) in columns {
            let _ = write!(out, " {head:>10}");
        }
        out.push('\n');
        for (subject, metrics) in &self.samples {
            for (metric, samples) in metrics {
                let _ = write!(out, "{subject:<18} {metric:<44} {:>5}", samples.len());
                for (_, q) in columns {
                    let _ = write!(out, " {:>10.2}", quantile(samples, *q));
                }
                out.push('\n');
            }
        }
        for (subject, reason) in &self.left_out {
            let _ = writeln!(out, "{subject} is left out: {reason}");
        }
        out
    }
}

/// The `q` quantile of samples, 0 to 1, between two of them by their distance; NaN
/// without samples.
fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // a place in a list that fits in memory
    let (place, below) = {
        let place = q.clamp(0.0, 1.0) * last as f64;
        (place, place.floor() as usize)
    };
    let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(f64::NAN);
    at(below) + (at(below + 1) - at(below)) * place.fract()
}

/// Mebibytes, to be shown.
#[allow(clippy::cast_precision_loss)] // far below 2^53
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        let samples = [4.0, 1.0, 2.0, 9.0];
        let close = |q: f64, want: f64| {
            let got = quantile(&samples, q);
            assert!((got - want).abs() < 1e-9, "{q}: {got}");
        };
        close(0.0, 1.0);
        close(0.5, 3.0);
        close(1.0, 9.0);
        close(0.9, 7.5);
        assert!((quantile(&[5.0], 0.99) - 5.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_table_has_a_line_for_every_metric() {
        let mut report = Report::new("2 runs".to_owned());
        report.add("a", "to ready, ms", 1.0);
        report.add("a", "to ready, ms", 3.0);
        let table = report.table(SPREAD);
        assert!(
            table
                .lines()
                .any(|l| l.starts_with("a ") && l.contains("2.00")),
            "{table}"
        );
    }
}
