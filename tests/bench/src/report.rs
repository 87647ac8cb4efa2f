//! The figures, gathered by subject and metric, and their two forms.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

/// Everything one call measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kernel: String,
    cpus: usize,
    runs: u32,
    memory_mib: u64,
    /// Subject ("bulkhead", "qemu microvm") → metric → one sample a run.
    samples: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(runs: u32, memory_mib: u64) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            runs,
            memory_mib,
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

    /// Minimum, median and maximum of every metric.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "{} runs in turn, {} MiB guests, {} CPUs, host kernel {}\n{:<18} {:<44} {:>10} {:>10} {:>10}\n",
            self.runs,
            self.memory_mib,
            self.cpus,
            self.kernel,
            "subject",
            "metric",
            "min",
            "median",
            "max"
        );
        for (subject, metrics) in &self.samples {
            for (metric, samples) in metrics {
                if let Some([min, median, max]) = summary(samples) {
                    let _ = writeln!(
                        out,
                        "{subject:<18} {metric:<44} {min:>10.2} {median:>10.2} {max:>10.2}"
                    );
                }
            }
        }
        out
    }
}

fn summary(samples: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some([min, f64::midpoint(lower, upper), max])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(summary(&[4.0, 1.0, 2.0, 9.0]), Some([1.0, 3.0, 9.0]));
        assert_eq!(summary(&[5.0]), Some([5.0, 5.0, 5.0]));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn the_table_has_a_line_for_every_metric() {
        let mut report = Report::new(2, 256);
        report.add("a", "to ready, ms", 1.0);
        report.add("a", "to ready, ms", 3.0);
        let table = report.table();
        assert!(
            table
                .lines()
                .any(|l| l.starts_with("a") && l.contains("2.00")),
            "{table}"
        );
    }
}
