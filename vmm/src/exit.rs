//! The last act: a report for the daemon, and a status.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use bulkhead_vmm_api::{EXIT_REPORT, ExitReason, ExitReport, MAX_EXIT_REPORT};

/// An error that ends the process, by whose fault.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// The exit status.
    pub reason: ExitReason,
    /// For an operator.
    pub message: String,
}

impl Fatal {
    /// An error of this kind; the message includes its sources.
    pub fn new(reason: ExitReason, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self { reason, message }
    }

    /// The configuration's fault.
    pub fn config(error: &dyn std::error::Error) -> Self {
        Self::new(ExitReason::BadConfig, error)
    }

    /// The host's fault, or ours.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self::new(ExitReason::Internal, error)
    }
}

/// Where the report will go: opened while the process may still open files.
#[derive(Debug)]
pub struct ReportFile(File);

impl ReportFile {
    /// Creates the report, empty, in the run directory.
    ///
    /// # Errors
    /// When the directory is missing or not writable, or something that is not a plain
    /// file has the report's name.
    pub fn create(run_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(run_dir.join(EXIT_REPORT))?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(file))
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&mut self, report: &ExitReport) -> io::Result<()> {
        self.0.write_all(&render(report))
    }
}

/// The report as JSON within its bound: a console that escapes to more loses its
/// beginning.
fn render(report: &ExitReport) -> Vec<u8> {
    let mut report = report.clone();
    loop {
        let json = serde_json::to_vec(&report).unwrap_or_default();
        if json.len() as u64 <= MAX_EXIT_REPORT || report.console.is_empty() {
            return json;
        }
        let half = report.console.len() / 2;
        let cut = (half..=report.console.len())
            .find(|&at| report.console.is_char_boundary(at))
            .unwrap_or(report.console.len());
        report.console.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let report = ExitReport {
            reason: ExitReason::GuestPanic.as_str().into(),
            message: "it panicked".into(),
            console: "Kernel panic\n".into(),
            ..ExitReport::default()
        };
        ReportFile::create(dir.path())
            .unwrap()
            .write(&report)
            .unwrap();
        let bytes = std::fs::read(dir.path().join(EXIT_REPORT)).unwrap();
        assert_eq!(
            serde_json::from_slice::<ExitReport>(&bytes).unwrap(),
            report
        );
    }

    #[test]
    fn a_report_stays_within_its_bound() {
        let report = ExitReport {
            console: "\u{1}".repeat(200_000),
            ..ExitReport::default()
        };
        let json = render(&report);
        assert!(json.len() as u64 <= MAX_EXIT_REPORT);
        let cut: ExitReport = serde_json::from_slice(&json).unwrap();
        assert!(!cut.console.is_empty());
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(EXIT_REPORT)).unwrap();
        assert!(ReportFile::create(dir.path()).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn causes_are_told_once() {
        let cause = io::Error::from_raw_os_error(libc::ENOENT);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot do it")]
        struct Outer(#[source] io::Error);
        let fatal = Fatal::config(&Outer(cause));
        assert_eq!(fatal.reason, ExitReason::BadConfig);
        assert!(fatal.message.starts_with("cannot do it: No such file"));
    }
}
