//! Hearing that a guest's agent is ready: the guest connects out, nobody polls.

use std::{io, path::Path, time::Duration};

use bulkhead_agent_api::{agent::Ready, ready};
use tokio::{net::UnixListener, time::timeout};

use crate::{rpc, sockets};

/// Longest time between the guest's connection and its notice.
const NOTICE: Duration = Duration::from_secs(5);
/// Connections without a notice before the guest is given up.
const MAX_STRANGERS: usize = 8;
/// Most bytes of a version text.
const MAX_TEXT: usize = 128;

/// Waits for a guest's notice.
#[derive(Debug)]
pub struct ReadyListener {
    listener: UnixListener,
}

impl ReadyListener {
    /// Listens at `path`; the VMM connects there on the guest's behalf.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = sockets::listen(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
        })
    }

    /// The notice. A connection that sends none is closed, and another waited for.
    ///
    /// # Errors
    /// When the socket fails, or the guest talks nonsense again and again.
    pub async fn wait(&self) -> io::Result<Ready> {
        for _ in 0..MAX_STRANGERS {
            let (mut stream, _) = self.listener.accept().await?;
            match timeout(NOTICE, ready::read(&mut stream)).await {
                Ok(Ok(mut notice)) => {
                    rpc::shorten(&mut notice.agent_version, MAX_TEXT);
                    rpc::shorten(&mut notice.kernel_release, MAX_TEXT);
                    return Ok(notice);
                }
                Ok(Err(e)) => tracing::warn!("a guest's ready notice is none: {e}"),
                Err(_) => tracing::warn!("a guest connected and sent no ready notice"),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the guest connected eight times and sent no ready notice",
        ))
    }
}
