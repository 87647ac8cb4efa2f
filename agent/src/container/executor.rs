//! The last steps before a container's program runs, in its own process.
//!
//! libcontainer hands over with namespaces, root, user and capabilities in
//! place. What is left: the terminal's size, signal dispositions, the seccomp
//! filter, and the execve, whose error is the answer to Start and Exec. It goes
//! back over the status pipe, which a successful execve closes unwritten.
//!
//! ```text
//!  status pipe:  nothing, then EOF          the program runs
//!                errno: i32 le, UTF-8 text  it does not, and why
//! ```

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    rc::Rc,
};

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Process, Spec};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use ttrpc::Code;

use super::{protocol::Launch, seccomp::Filter};
use crate::{error::Error, sys};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest status text.
pub const MAX_STATUS: usize = 4 << 10;

/// Runs the user's program; see the module's head.
#[derive(Clone)]
pub struct Launcher {
    status: Rc<OwnedFd>,
    filter: Option<Rc<Filter>>,
    drop_sys_admin: bool,
    window: Option<(u32, u32)>,
    raw_env: Vec<Vec<u8>>,
}

impl Launcher {
    /// A launcher that reports to `status`.
    #[must_use]
    pub fn new(status: OwnedFd, launch: &Launch) -> Self {
        Self {
            status: Rc::new(status),
            filter: launch.filter().map(Rc::new),
            drop_sys_admin: launch.drop_sys_admin,
            window: launch.window,
            raw_env: launch.raw_env.clone(),
        }
    }

    /// Tells the agent and ends the process, as a shell would.
    fn fail(&self, errno: Errno, what: &str) -> ! {
        let mut status = errno.raw_os_error().to_le_bytes().to_vec();
        let end = what.floor_char_boundary(MAX_STATUS);
        status.extend_from_slice(what.get(..end).unwrap_or("").as_bytes());
        // If the agent is gone nobody wants to know.
        let _ = rustix::io::write(self.status.as_fd(), &status);
        sys::exit_now(if errno == Errno::NOENT { 127 } else { 126 })
    }

    fn confine(&self) -> Result<(), (Errno, String)> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        sys::seccomp_filter(&filter.program, filter.flags)
            .map_err(|why| (errno_of(&why), format!("install the seccomp filter: {why}")))?;
        if self.drop_sys_admin {
            let drop = || {
                let mut sets = capabilities(None)?;
                sets.effective.remove(CapabilitySet::SYS_ADMIN);
                sets.permitted.remove(CapabilitySet::SYS_ADMIN);
                set_capabilities(None, sets)
            };
            drop().map_err(|why| {
                let hint = "does the seccomp profile deny capget and capset?";
                (
                    why,
                    format!(
                        "drop CAP_SYS_ADMIN after installing the seccomp filter: {why}; {hint}"
                    ),
                )
            })?;
        }
        Ok(())
    }

    fn run(&self, process: &Process) -> (Errno, String) {
        fn bytes(list: &Option<Vec<String>>) -> Vec<Vec<u8>> {
            let words = list.iter().flatten();
            words.map(|one| one.clone().into_bytes()).collect()
        }
        // The agent has refused zero bytes long before.
        let text = |list: Vec<Vec<u8>>| -> Vec<CString> {
            list.into_iter()
                .filter_map(|one| CString::new(one).ok())
                .collect()
        };
        let mut env = bytes(process.env());
        env.extend_from_slice(&self.raw_env);
        let Some(name) = process.args().as_ref().and_then(|args| args.first()) else {
            return (Errno::INVAL, "no program to run".to_owned());
        };
        let candidates = candidates(name, &env);
        let (args, env) = (text(bytes(process.args())), text(env));
        let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
        let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();

        if let Some((rows, columns)) = self.window {
            // Descriptor 0 is the terminal by now.
            let _ = crate::process::resize(&std::io::stdin(), rows, columns);
        }
        sys::reset_signals();
        if let Err(failure) = self.confine() {
            return failure;
        }
        let mut denied = None;
        for path in &candidates {
            let why = errno_of(&sys::execve(path, &args, &env));
            match why {
                Errno::NOENT | Errno::NOTDIR => {
                    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
                    if path.exists() {
                        return (
                            why,
                            format!(
                                "exec: {name:?}: the file exists, but its interpreter does not"
                            ),
                        );
                    }
                }
                Errno::ACCESS => denied = denied.or(Some(why)),
                why => return (why, format!("exec: {name:?}: {}", describe(why))),
            }
        }
        match denied {
            Some(why) => (why, format!("exec: {name:?}: {}", describe(why))),
            None if name.contains('/') => (
                Errno::NOENT,
                format!("exec: {name:?}: stat {name}: no such file or directory"),
            ),
            None => (
                Errno::NOENT,
                format!("exec: {name:?}: executable file not found in $PATH"),
            ),
        }
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn describe(why: Errno) -> String {
    match why {
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        why => std::io::Error::from(why).to_string(),
    }
}

/// Paths to try, in order.
fn candidates(name: &str, env: &[Vec<u8>]) -> Vec<CString> {
    if name.contains('/') {
        return CString::new(name).into_iter().collect();
    }
    let path = env
        .iter()
        .find_map(|one| one.strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH.as_bytes());
    path.split(|byte| *byte == b':')
        .map(|dir| if dir.is_empty() { b"." } else { dir })
        .filter_map(|dir| CString::new([dir, b"/", name.as_bytes()].concat()).ok())
        .collect()
}

/// The error behind a status that is not empty.
#[must_use]
pub fn error_from_status(status: &[u8]) -> Error {
    let (errno, text) = match status.split_first_chunk::<4>() {
        Some((errno, text)) => (i32::from_le_bytes(*errno), text),
        None => (0, status),
    };
    let code = match errno {
        libc::ENOENT | libc::ENOTDIR => Code::NOT_FOUND,
        libc::EACCES | libc::EPERM => Code::PERMISSION_DENIED,
        libc::ENOEXEC | libc::E2BIG | libc::EISDIR => Code::INVALID_ARGUMENT,
        _ => Code::INTERNAL,
    };
    Error::new(code, String::from_utf8_lossy(text))
}

impl Executor for Launcher {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let (errno, what) = self.run(process);
        self.fail(errno, &what)
    }

    // A missing program is the answer to Start, not to Create.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    // The environment goes to the execve directly.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(name: &str, env: &[&str]) -> Vec<String> {
        let env: Vec<Vec<u8>> = env.iter().map(|one| one.as_bytes().to_vec()).collect();
        candidates(name, &env)
            .into_iter()
            .map(|path| path.into_string().unwrap())
            .collect()
    }

    #[test]
    fn programs_are_looked_for_in_path() {
        assert_eq!(
            paths("sh", &["PATH=/bin::/x"]),
            ["/bin/sh", "./sh", "/x/sh"]
        );
        assert_eq!(paths("./sh", &["PATH=/bin"]), ["./sh"]);
        assert_eq!(paths("sh", &["HOME=/"]).len(), 6);
        let raw = candidates("sh", &[b"PATH=/\xff".to_vec()]);
        assert_eq!(raw[0].as_bytes(), b"/\xff/sh");
    }

    #[test]
    fn statuses_become_codes() {
        let status = |errno: Errno, text: &str| {
            let mut status = errno.raw_os_error().to_le_bytes().to_vec();
            status.extend_from_slice(text.as_bytes());
            error_from_status(&status)
        };
        let missing = status(
            Errno::NOENT,
            "exec: \"foo\": executable file not found in $PATH",
        );
        assert_eq!(missing.code(), Code::NOT_FOUND);
        assert!(missing.to_string().contains("\"foo\""));
        assert_eq!(status(Errno::ACCESS, "").code(), Code::PERMISSION_DENIED);
        assert_eq!(status(Errno::NOEXEC, "").code(), Code::INVALID_ARGUMENT);
        assert_eq!(error_from_status(b"x").code(), Code::INTERNAL);
    }
}
