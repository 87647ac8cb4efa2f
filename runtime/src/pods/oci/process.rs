//! The program, its arguments and directory.

use bulkhead_cri_api::v1::{ContainerConfig, LinuxContainerSecurityContext};
use bulkhead_image::ImageConfig;
use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Process};

use super::{capabilities, resources};
use crate::error::{Error, Result};

/// Open files: what programs get without asking, and how many they may ask for.
/// The first is what select(2) can bear.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

pub(super) fn process(
    config: &ContainerConfig,
    env: Vec<String>,
    image: &ImageConfig,
    security: &LinuxContainerSecurityContext,
) -> Result<Process> {
    let limits = config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES.0)
        .hard(OPEN_FILES.1)
        .build()
        .map_err(|error| Error::internal(error.to_string()))?;
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_args(Some(arguments(config, image)?))
        .set_env(Some(env))
        .set_cwd(directory(config, image)?.into())
        .set_capabilities(Some(capabilities::sets(
            security.capabilities.as_ref(),
            security.privileged,
        )?))
        .set_rlimits(Some(vec![files]))
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_apparmor_profile(None)
        .set_selinux_label(None)
        .set_oom_score_adj(resources::oom_score(limits)?);
    Ok(process)
}

/// The client's command replaces the image's entrypoint and with it the image's
/// arguments; the client's arguments replace only those.
fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    match all.first() {
        None => Err(Error::invalid(
            "no command: neither the configuration nor the image says what to run",
        )),
        Some(program) if program.is_empty() => Err(Error::invalid(
            "the command's first word is empty: it names no program",
        )),
        Some(_) => Ok(all),
    }
}

fn directory(config: &ContainerConfig, image: &ImageConfig) -> Result<String> {
    if !config.working_dir.is_empty() {
        if !config.working_dir.starts_with('/') || config.working_dir.contains('\0') {
            return Err(Error::invalid(format!(
                "working_dir {:?} must be an absolute path",
                config.working_dir
            )));
        }
        return Ok(config.working_dir.clone());
    }
    // Images say it in either way.
    Ok(format!("/{}", image.working_dir.trim_start_matches('/')))
}
