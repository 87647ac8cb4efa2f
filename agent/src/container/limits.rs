//! Resource limits (setrlimit(2)) that this process may set.
//!
//! In a guest the agent may raise every limit. A host pod's agent has what the node's
//! service manager left to the daemon: without `CAP_SYS_RESOURCE` no hard limit can be
//! raised, and a container whose specification asks for more would not start at all.

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Process};
use rustix::{
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

use crate::error::{Error, Result};

/// Lowers the limit of open files to what this process can give.
pub(super) fn fit(process: &mut Process) -> Result<()> {
    let may_raise =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE));
    match getrlimit(Resource::Nofile).maximum {
        Some(own) if !may_raise => lower_open_files(process, own),
        _ => Ok(()),
    }
}

fn lower_open_files(process: &mut Process, most: u64) -> Result<()> {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for limit in &mut limits {
        if limit.typ() == PosixRlimitType::RlimitNofile && limit.hard() > most {
            *limit = PosixRlimitBuilder::default()
                .typ(limit.typ())
                .soft(limit.soft().min(most))
                .hard(most)
                .build()
                .map_err(|why| Error::internal(format!("lower the open files: {why}")))?;
        }
    }
    process.set_rlimits(Some(limits));
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::PosixRlimit;

    use super::*;

    fn limit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
        let builder = PosixRlimitBuilder::default();
        builder.typ(typ).soft(soft).hard(hard).build().unwrap()
    }

    fn lowered(limits: Vec<PosixRlimit>, most: u64) -> Vec<PosixRlimit> {
        let mut process = Process::default();
        process.set_rlimits(Some(limits));
        lower_open_files(&mut process, most).unwrap();
        process.rlimits().clone().unwrap()
    }

    #[test]
    fn open_files_are_lowered_to_what_can_be_had() {
        let files = |soft, hard| limit(PosixRlimitType::RlimitNofile, soft, hard);
        let cases = [
            ((1024, 524_288), 20_000, (1024, 20_000)),
            ((1024, 524_288), 512, (512, 512)),
            ((1024, 4096), 20_000, (1024, 4096)),
        ];
        for ((soft, hard), most, (new_soft, new_hard)) in cases {
            assert_eq!(
                lowered(vec![files(soft, hard)], most),
                [files(new_soft, new_hard)]
            );
        }
    }

    #[test]
    fn other_limits_stay() {
        let core = limit(PosixRlimitType::RlimitCore, 5_000_000, 6_000_000);
        assert_eq!(lowered(vec![core], 20_000), [core]);
    }
}
