//! Connections to servers in the pod, dialled by the agent.

use std::{io, time::Duration};

use bulkhead_agent_api::{FORWARD_PORT, forward};
use tokio::{net::UnixStream, time::timeout};

use super::Agent;
use crate::error::{Error, ErrorKind, Result};

/// Longest time for the way to the agent, its dialling of both addresses, and its
/// answer.
const DIALLING: Duration = Duration::from_secs(15);

impl Agent {
    /// Connects to a TCP port of the pod.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] with the reason when the server cannot be
    /// reached, [`ErrorKind::DeadlineExceeded`] when the guest does not answer.
    pub async fn dial_server(&self, port: u16) -> Result<UnixStream> {
        let dialled = async {
            let mut connection = self.dialer().dial(FORWARD_PORT).await?;
            forward::ask(&mut connection, port).await?;
            let refusal = forward::answered(&mut connection).await?;
            Ok::<_, io::Error>((connection, refusal))
        };
        let attempted = || format!("forward to port {port} of the pod");
        tokio::select! {
            biased;
            dead = self.sandbox_dead() => Err(dead),
            dialled = timeout(DIALLING, dialled) => match dialled {
                Ok(Ok((connection, None))) => Ok(connection),
                Ok(Ok((_, Some(why)))) => Err(Error::new(ErrorKind::FailedPrecondition, why)),
                Ok(Err(e)) => Err(Error::new(ErrorKind::Internal, attempted()).caused_by(e)),
                Err(_elapsed) => Err(Error::new(
                    ErrorKind::DeadlineExceeded,
                    format!("{}: the guest agent did not answer in time", attempted()),
                )),
            },
        }
    }
}
