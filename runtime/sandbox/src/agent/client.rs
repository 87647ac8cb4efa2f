//! Calls to the guest agent: one ttrpc connection, made when first used and anew
//! after it broke; every call has a deadline and ends when the sandbox does.

use std::{future::Future, time::Duration};

use bulkhead_agent_api::{AGENT_PORT, agent_ttrpc::AgentClient};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout_at},
};
use ttrpc::{asynchronous::transport::Socket, context::Context};

use super::{Dialer, reply::Lifetime};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
    rpc,
    spec::SandboxExit,
};

/// First and longest pause before a call is tried again on a new connection.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// May a call be made twice?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A second one changes nothing: tried again when the connection breaks.
    Safe,
    /// It would do it twice: an error tells the caller that nobody knows.
    Never,
}

/// The agent of one guest.
#[derive(Debug)]
pub struct Agent {
    dialer: Dialer,
    /// For calls that wait for nothing.
    pub(super) deadline: Duration,
    started_unix_ns: i64,
    exited: watch::Receiver<Option<SandboxExit>>,
    connection: Mutex<Slot>,
}

/// The connection under way, and how many there were: so that a call that failed
/// on an old one does not close its successor.
#[derive(Default)]
struct Slot {
    client: Option<AgentClient>,
    generation: u64,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({}, {})", self.client.is_some(), self.generation)
    }
}

impl Agent {
    /// The agent behind `dialer`, of a sandbox started at `started_unix_ns`.
    #[must_use]
    pub fn new(
        dialer: Dialer,
        deadline: Duration,
        started_unix_ns: i64,
        exited: watch::Receiver<Option<SandboxExit>>,
    ) -> Self {
        Self {
            dialer,
            deadline,
            started_unix_ns,
            exited,
            connection: Mutex::default(),
        }
    }

    /// Reaches the guest's other ports.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Between which times the guest's events lie, as of now.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        Lifetime {
            from_unix_ns: self.started_unix_ns,
            now_unix_ns: clock::unix_ns(),
        }
    }

    /// The error of a call to a sandbox that has ended, once it has.
    pub async fn sandbox_dead(&self) -> Error {
        let mut exited = self.exited.clone();
        let message = match exited.wait_for(Option::is_some).await {
            Ok(exit) => exit.as_ref().map(|exit| exit.message.clone()),
            Err(_) => None,
        };
        let message = message.unwrap_or_else(|| "the sandbox has ended".to_owned());
        Error::new(ErrorKind::SandboxDead, message)
    }

    /// Whether the sandbox is known to have ended.
    #[must_use]
    pub fn exit_known(&self) -> bool {
        self.exited.borrow().is_some()
    }

    async fn client(&self) -> std::io::Result<(AgentClient, u64)> {
        let mut slot = self.connection.lock().await;
        if let Some(client) = &slot.client {
            return Ok((client.clone(), slot.generation));
        }
        let stream = self.dialer.dial(AGENT_PORT).await?;
        let client = AgentClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)));
        slot.client = Some(client.clone());
        slot.generation += 1;
        Ok((client, slot.generation))
    }

    async fn forget_connection(&self, generation: u64) {
        let mut slot = self.connection.lock().await;
        if slot.generation == generation {
            slot.client = None;
        }
    }

    /// Makes a call. `deadline` of `None` waits as long as the sandbox lives.
    pub(super) async fn call<T, F, Fut>(
        &self,
        name: &str,
        repeat: Repeat,
        deadline: Option<Duration>,
        make: F,
    ) -> Result<T>
    where
        F: Fn(AgentClient, Context) -> Fut + Send + Sync,
        Fut: Future<Output = ttrpc::Result<T>> + Send,
    {
        tokio::select! {
            biased;
            result = self.call_until(name, repeat, deadline, make) => result,
            dead = self.sandbox_dead() => Err(dead),
        }
    }

    async fn call_until<T, F, Fut>(
        &self,
        name: &str,
        repeat: Repeat,
        deadline: Option<Duration>,
        make: F,
    ) -> Result<T>
    where
        F: Fn(AgentClient, Context) -> Fut + Send + Sync,
        Fut: Future<Output = ttrpc::Result<T>> + Send,
    {
        let late = || {
            Error::new(
                ErrorKind::DeadlineExceeded,
                format!("the guest agent did not answer {name} in time"),
            )
        };
        let until = deadline.map(|d| Instant::now() + d);
        let mut pause = RETRY.0;
        loop {
            let attempt = async {
                let (client, generation) = match self.client().await {
                    Ok(connected) => connected,
                    Err(e) => {
                        let e = Error::new(ErrorKind::Internal, "cannot reach the guest agent")
                            .caused_by(e);
                        // Nothing was sent: trying again is safe for every call.
                        return Err((e, true));
                    }
                };
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                let context = left.map_or_else(Context::default, ttrpc::context::with_duration);
                match make(client, context).await {
                    Ok(reply) => Ok(reply),
                    Err(e) => {
                        let broken = rpc::is_transport(&e);
                        if broken {
                            self.forget_connection(generation).await;
                        }
                        let again = broken && repeat == Repeat::Safe;
                        Err((rpc::error("guest agent", name, &e), again))
                    }
                }
            };
            let result = match until {
                Some(until) => timeout_at(until, attempt).await.map_err(|_| late())?,
                None => attempt.await,
            };
            match result {
                Ok(reply) => return Ok(reply),
                Err((e, false)) => return Err(e),
                Err((e, true)) => {
                    if until.is_some_and(|until| Instant::now() + pause >= until) {
                        return Err(e);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }
}
