//! Seccomp profiles of the OCI specification, compiled to one BPF filter.
//!
//! A profile is a default action and rules of (names, conditions, action). The
//! filter decides by architecture, then call, then arguments:
//!
//! ```text
//!   arch == x86-64 ──▶ nr of the x32 ABI ──▶ ENOSYS (the kernel has no x32)
//!                      nr == read   ──▶ return its action
//!                      nr == clone  ──▶ conditions … ──▶ action | default
//!                      …            ──▶ default action
//!   arch == i386   ──▶ the same with its own numbers, if the profile names it
//!   otherwise      ──▶ kill the process
//! ```
//!
//! Where several rules match a call, the strictest action wins, in the order the
//! kernel itself has for stacked filters (seccomp(2)). What cannot be enforced
//! is an error, never left out: user notification, unknown flags, architectures
//! that this machine cannot run are harmless and skipped. A name that the kernel
//! does not have cannot be called, so its rules are left out.
//!
//! Compiling is pure; the filter is installed in the container's process just
//! before its execve (`executor`).

mod bpf;
mod syscalls;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::error::{Error, Result};
use crate::sys::SockFilter;
use bpf::Program;

/// Arguments of a call that a filter can see.
const MAX_ARGS: usize = 6;
/// BPF_MAXINSNS of linux/bpf_common.h.
const MAX_INSTRUCTIONS: usize = 4096;

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(crate) program: Vec<SockFilter>,
    /// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
    pub(crate) flags: u64,
}

/// A return value of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action(u32);

impl Action {
    const KILL_PROCESS: u32 = 0x8000_0000;
    const KILL_THREAD: u32 = 0x0000_0000;
    const TRAP: u32 = 0x0003_0000;
    const ERRNO: u32 = 0x0005_0000;
    const TRACE: u32 = 0x7ff0_0000;
    const LOG: u32 = 0x7ffc_0000;
    const ALLOW: u32 = 0x7fff_0000;

    /// Largest errno the kernel passes on (MAX_ERRNO of linux/err.h).
    const MAX_ERRNO: u32 = 4095;

    fn new(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Self> {
        let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
        if errno > Self::MAX_ERRNO {
            return Err(Error::invalid(format!(
                "seccomp: errno {errno} is larger than {}",
                Self::MAX_ERRNO
            )));
        }
        Ok(Self(match action {
            LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
                Self::KILL_THREAD
            }
            LinuxSeccompAction::ScmpActKillProcess => Self::KILL_PROCESS,
            LinuxSeccompAction::ScmpActTrap => Self::TRAP,
            LinuxSeccompAction::ScmpActErrno => Self::ERRNO | errno,
            LinuxSeccompAction::ScmpActTrace => Self::TRACE | errno,
            LinuxSeccompAction::ScmpActLog => Self::LOG,
            LinuxSeccompAction::ScmpActAllow => Self::ALLOW,
            LinuxSeccompAction::ScmpActNotify => {
                return Err(Error::invalid(
                    "seccomp: SCMP_ACT_NOTIFY needs a listener on the host, which a microVM cannot have",
                ));
            }
        }))
    }

    /// The kernel's precedence: as a signed number, smaller is stricter.
    fn strictness(self) -> i32 {
        (self.0 & 0xffff_0000).cast_signed()
    }
}

/// One condition on one argument.
#[derive(Clone, Copy, Debug)]
struct Condition {
    index: usize,
    op: Op,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Ne(u64),
    Lt(u64),
    Le(u64),
    Eq(u64),
    Ge(u64),
    Gt(u64),
    MaskedEq { mask: u64, value: u64 },
}

impl Condition {
    fn new(arg: &LinuxSeccompArg) -> Result<Self> {
        let index = arg.index();
        if index >= MAX_ARGS {
            return Err(Error::invalid(format!(
                "seccomp: argument index {index} is past {}",
                MAX_ARGS - 1
            )));
        }
        let value = arg.value();
        let op = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => Op::Ne(value),
            LinuxSeccompOperator::ScmpCmpLt => Op::Lt(value),
            LinuxSeccompOperator::ScmpCmpLe => Op::Le(value),
            LinuxSeccompOperator::ScmpCmpEq => Op::Eq(value),
            LinuxSeccompOperator::ScmpCmpGe => Op::Ge(value),
            LinuxSeccompOperator::ScmpCmpGt => Op::Gt(value),
            LinuxSeccompOperator::ScmpCmpMaskedEq => Op::MaskedEq {
                mask: value,
                value: arg.value_two().unwrap_or(0),
            },
        };
        Ok(Self { index, op })
    }
}

/// All conditions hold: this action.
#[derive(Clone, Debug)]
struct Rule {
    conditions: Vec<Condition>,
    action: Action,
}

/// Compiles a profile.
///
/// # Errors
/// `INVALID_ARGUMENT` for a profile that cannot be enforced here.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    if profile.listener_path().is_some() {
        return Err(Error::invalid(
            "seccomp: listenerPath names a socket on the host, which a microVM cannot reach",
        ));
    }
    let default = Action::new(profile.default_action(), profile.default_errno_ret())?;
    let calls = profile.syscalls().as_deref().unwrap_or(&[]);
    let architectures = profile.architectures().as_deref().unwrap_or(&[]);
    let i386 = architectures.contains(&Arch::ScmpArchX86);

    let mut program = Program::default();
    let native = block(&rules_by_number(calls, syscalls::X86_64)?, default)?;
    let foreign = if i386 {
        block(&rules_by_number(calls, syscalls::I386)?, default)?
    } else {
        Program::default()
    };
    program.dispatch(native, foreign, Action::KILL_PROCESS)?;
    let program = program.finish();
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid(format!(
            "seccomp: the profile needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
            program.len()
        )));
    }
    Ok(Filter {
        program,
        flags: flags(profile)?,
    })
}

fn flags(profile: &LinuxSeccomp) -> Result<u64> {
    let mut bits = 0;
    for flag in profile.flags().as_deref().unwrap_or(&[]) {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
            // One thread only: there is nobody to synchronise with.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            other => {
                return Err(Error::invalid(format!(
                    "seccomp: the flag {other:?} cannot be honoured"
                )));
            }
        };
    }
    Ok(bits)
}

/// The rules for each call that exists, strictest first.
fn rules_by_number(
    calls: &[LinuxSyscall],
    table: &[(&str, u32)],
) -> Result<BTreeMap<u32, Vec<Rule>>> {
    let mut all: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for call in calls {
        let action = Action::new(call.action(), call.errno_ret())?;
        let conditions = call
            .args()
            .as_deref()
            .unwrap_or(&[])
            .iter()
            .map(Condition::new)
            .collect::<Result<Vec<_>>>()?;
        for name in call.names() {
            let Some(number) = syscalls::number(table, name) else {
                continue;
            };
            let rules = all.entry(number).or_default();
            if names_an_argument_twice(&conditions) {
                // Container engines read repeated conditions on one argument as
                // alternatives, and all the others with them.
                rules.extend(conditions.iter().map(|condition| Rule {
                    conditions: vec![*condition],
                    action,
                }));
            } else {
                rules.push(Rule {
                    conditions: conditions.clone(),
                    action,
                });
            }
        }
    }
    for rules in all.values_mut() {
        rules.sort_by_key(|rule| rule.action.strictness());
    }
    Ok(all)
}

fn names_an_argument_twice(conditions: &[Condition]) -> bool {
    let mut seen = [false; MAX_ARGS];
    conditions.iter().any(|condition| {
        seen.get_mut(condition.index)
            .is_some_and(|seen| std::mem::replace(seen, true))
    })
}

/// The part of a filter for one architecture; the call's number is loaded.
fn block(rules: &BTreeMap<u32, Vec<Rule>>, default: Action) -> Result<Program> {
    let mut out = Program::default();
    for (number, rules) in rules {
        let mut body = Program::default();
        let mut decided = false;
        for rule in rules {
            body.rule(rule)?;
            if rule.conditions.is_empty() {
                decided = true;
                break;
            }
        }
        if !decided {
            body.give(default.0);
        }
        out.when_equal(*number, body)?;
    }
    out.give(default.0);
    Ok(out)
}

#[cfg(test)]
mod tests;
