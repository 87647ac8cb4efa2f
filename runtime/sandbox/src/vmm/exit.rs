//! Why a VMM ended: its exit report where there is one, else its exit status.

use std::{fs::File, io::Read as _, path::Path};

use bulkhead_vmm_api::{EXIT_REPORT, ExitReason, ExitReport, MAX_EXIT_REPORT};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::{process::Ended, spec::SandboxExit};

/// Console lines that a message quotes.
const QUOTED_LINES: usize = 12;
/// What Linux says before anything else of a panic (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";
/// Most bytes of a message.
const MAX_MESSAGE: usize = 4096;

/// Reads the exit report from the VMM's directory. The VMM owns the directory,
/// so no link is followed, nothing but a regular file is read, and not much.
#[must_use]
pub fn read_report(vm_dir: &Path) -> Option<ExitReport> {
    let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(vm_dir, path_only, Mode::empty()).ok()?;
    let fd = rustix::fs::openat2(
        &dir,
        EXIT_REPORT,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
    .ok()?;
    let file = File::from(fd);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    file.take(MAX_EXIT_REPORT).read_to_end(&mut content).ok()?;
    serde_json::from_slice(&content).ok()
}

/// Puts together what is known of an end.
#[must_use]
pub fn explain(ended: Ended, report: Option<&ExitReport>, at_unix_ns: i64) -> SandboxExit {
    let status = match ended {
        Ended::Exited(status) => ExitReason::from_status(status),
        Ended::Signalled(_) | Ended::Unknown => None,
    };
    // A report is believed where the status does not contradict it: a VMM that
    // was killed after it wrote one was killed.
    let reported = report.filter(|report| {
        let named = ALL
            .into_iter()
            .find(|reason| reason.as_str() == report.reason);
        named.is_some() && (status == named || ended == Ended::Unknown)
    });
    let (reason, what) = match (reported, ended) {
        (Some(report), _) => {
            let said = if report.message.is_empty() {
                String::new()
            } else {
                format!(": {}", report.message)
            };
            (
                report.reason.clone(),
                format!("the virtual machine ended ({}){said}", report.reason),
            )
        }
        (None, Ended::Exited(code)) => match status {
            Some(reason) => (
                reason.as_str().to_owned(),
                format!("the virtual machine ended ({})", reason.as_str()),
            ),
            None => (
                ExitReason::Internal.as_str().to_owned(),
                format!("the VMM exited with status {code}, which is none of its own"),
            ),
        },
        (None, Ended::Signalled(signal)) => (
            "killed".to_owned(),
            format!("the VMM was killed by signal {signal}{}", hint(signal)),
        ),
        (None, Ended::Unknown) => (
            "killed".to_owned(),
            "the VMM is gone and left no report: it was killed".to_owned(),
        ),
    };
    let console = report
        .map(|report| last_words(&report.console))
        .unwrap_or_default();
    let mut message = printable(&what);
    if !console.is_empty() {
        message.push_str("; the guest's last words:\n");
        message.push_str(&console);
    }
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    SandboxExit {
        reason,
        message,
        at_unix_ns,
    }
}

const ALL: [ExitReason; 7] = [
    ExitReason::Shutdown,
    ExitReason::Internal,
    ExitReason::BadConfig,
    ExitReason::KvmUnusable,
    ExitReason::Reset,
    ExitReason::GuestPanic,
    ExitReason::Stopped,
];

fn hint(signal: i32) -> &'static str {
    match signal {
        9 => " (the out-of-memory killer, or somebody's kill -9)",
        31 => " (a system call that its seccomp filter forbids)",
        _ => "",
    }
}

/// The last lines of a console, fit for a message.
#[must_use]
pub fn last_words(console: &str) -> String {
    let lines: Vec<&str> = console
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    // A panic says its cause first and its call trace last.
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let from = panic.unwrap_or_else(|| lines.len().saturating_sub(QUOTED_LINES));
    let quoted: Vec<String> = lines
        .iter()
        .skip(from)
        .take(QUOTED_LINES)
        .map(|line| printable(line).chars().take(200).collect())
        .collect();
    quoted.join("\n")
}

/// Control characters of a guest's do not reach an operator's terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn report(reason: ExitReason) -> ExitReport {
        ExitReport {
            reason: reason.as_str().into(),
            message: "said so".into(),
            console: "boot\n\nKernel panic - not syncing: \x1b[31mbad\r\n".into(),
            ..Default::default()
        }
    }

    #[test]
    fn all_reasons_are_known_by_name() {
        for status in 0..=255 {
            if let Some(reason) = ExitReason::from_status(status) {
                assert!(ALL.contains(&reason));
            }
        }
    }

    #[test]
    fn a_report_speaks_for_its_vmm_and_quotes_the_console() {
        let exit = explain(Ended::Exited(11), Some(&report(ExitReason::GuestPanic)), 7);
        assert_eq!(exit.reason, "guest-panic");
        assert!(exit.message.contains("said so"));
        assert!(exit.message.contains("Kernel panic - not syncing"));
        assert!(!exit.message.contains('\x1b'));
        assert_eq!(exit.at_unix_ns, 7);
        let adopted = explain(Ended::Unknown, Some(&report(ExitReason::Reset)), 7);
        assert_eq!(adopted.reason, "reset");
    }

    #[test]
    fn the_cause_of_a_panic_is_quoted_before_its_trace() {
        let trace = "[ 1.0]  ? panic+0x2fb\n".repeat(40);
        let console = format!("booting\n[ 1.0] {PANIC}: No init found\n{trace}");
        let words = last_words(&console);
        assert!(words.starts_with(&format!("[ 1.0] {PANIC}: No init found")));
        assert_eq!(words.lines().count(), QUOTED_LINES);
        assert_eq!(last_words("a\n\nb\n"), "a\nb");
    }

    #[test]
    fn a_report_that_contradicts_the_status_is_not_believed() {
        let exit = explain(Ended::Signalled(9), Some(&report(ExitReason::Shutdown)), 0);
        assert_eq!(exit.reason, "killed");
        let exit = explain(Ended::Exited(1), Some(&report(ExitReason::Shutdown)), 0);
        assert_eq!(exit.reason, "internal-error");
        let mut lie = report(ExitReason::Reset);
        lie.reason = "all is well".into();
        assert_eq!(explain(Ended::Unknown, Some(&lie), 0).reason, "killed");
    }

    #[test]
    fn without_a_report_the_status_speaks() {
        assert_eq!(explain(Ended::Exited(3), None, 0).reason, "kvm-unusable");
        assert!(explain(Ended::Exited(101), None, 0).message.contains("101"));
        assert!(
            explain(Ended::Signalled(31), None, 0)
                .message
                .contains("seccomp")
        );
        assert_eq!(explain(Ended::Unknown, None, 0).reason, "killed");
    }

    #[test]
    fn a_hostile_vmm_directory_is_not_followed_and_bounds_hold() {
        let dir = tempfile::tempdir().unwrap();
        let vm = dir.path().join("vm");
        fs::create_dir(&vm).unwrap();
        assert!(read_report(&vm).is_none());
        let json = serde_json::to_vec(&report(ExitReason::Reset)).unwrap();
        fs::write(dir.path().join("elsewhere"), &json).unwrap();
        symlink("../elsewhere", vm.join(EXIT_REPORT)).unwrap();
        assert!(read_report(&vm).is_none());
        fs::remove_file(vm.join(EXIT_REPORT)).unwrap();
        fs::write(vm.join(EXIT_REPORT), &json).unwrap();
        assert_eq!(read_report(&vm).unwrap().reason, "reset");
        let huge = ExitReport {
            console: "x\n".repeat(100_000),
            ..report(ExitReason::Reset)
        };
        assert!(explain(Ended::Unknown, Some(&huge), 0).message.len() <= MAX_MESSAGE);
    }
}
