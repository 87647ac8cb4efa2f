//! Ending a pod.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    Place, Pod,
    site::{DYING, kill},
};
use crate::error::{Error, ErrorKind, Result};

/// What an agent is given beyond the pod's grace to end its machine, or itself.
const POWER_OFF: Duration = Duration::from_secs(3);

impl<P: Place> Pod<P> {
    /// Ends the pod: by asking its agent, then its place, then the kernel.
    pub(super) async fn end(&self, grace: Duration) -> Result<()> {
        let asked = !grace.is_zero() && self.agent.shutdown(grace).await.is_ok();
        let patience = if asked {
            grace + POWER_OFF
        } else {
            Duration::ZERO
        };
        if !self.has_ended_within(patience).await
            && (self.place.stop().await.is_err()
                || !self.has_ended_within(Duration::from_secs(1)).await)
        {
            kill(&self.process).await?;
        }
        if self.has_ended_within(DYING).await {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Internal,
                format!("the pod's process {} does not end", self.process.pid()),
            ))
        }
    }

    async fn has_ended_within(&self, patience: Duration) -> bool {
        let mut exited = self.exited.clone();
        let ended = exited.wait_for(Option::is_some);
        matches!(timeout(patience, ended).await, Ok(Ok(_)))
    }
}
