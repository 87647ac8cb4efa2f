//! Telling the host that the agent serves: one frame on a connection out.

use std::{os::unix::net::UnixStream, path::Path};

use bulkhead_agent_api::{READY_PORT, agent::Ready, ready};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncWriteExt as _;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::error::{Context as _, Error, Result};

/// CLOCK_BOOTTIME in ns.
#[must_use]
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The kernel's release, as `uname -r` says it.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn message(main_ns: u64) -> Result<Vec<u8>> {
    let ready = Ready {
        agent_version: crate::VERSION.into(),
        kernel_release: kernel_release(),
        main_ns,
        ready_ns: boot_ns(),
        ..Default::default()
    };
    ready::encode(&ready).map_err(|why| Error::internal(why.to_string()))
}

/// Connects to the host and says ready. The connection lasts as long as the
/// value: the host sees it end when the guest does.
///
/// # Errors
/// When the host does not listen: then nobody waits for this guest.
pub async fn tell_host(main_ns: u64) -> Result<VsockStream> {
    let mut host = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT))
        .await
        .context(|| format!("connect to the host's vsock port {READY_PORT}"))?;
    host.write_all(&message(main_ns)?)
        .await
        .context(|| "tell the host that the agent is ready")?;
    Ok(host)
}

/// The same for a host pod: `ready.sock` in the agent's directory, if somebody
/// listens there.
///
/// # Errors
/// When the socket is there and cannot be used.
pub fn tell_socket(path: &Path, main_ns: u64) -> Result<Option<UnixStream>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut daemon =
        UnixStream::connect(path).context(|| format!("connect to {}", path.display()))?;
    std::io::Write::write_all(&mut daemon, &message(main_ns)?)
        .context(|| "say that the agent is ready")?;
    Ok(Some(daemon))
}
