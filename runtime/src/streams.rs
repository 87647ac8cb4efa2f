//! What the streaming server reaches: processes and ports of pods.

mod counted;

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_sandbox::WindowSize;
use bulkhead_streaming::{
    Command, Connection, Failure, Output, Ports, Process, Standard, Terminal,
};
use tokio::sync::mpsc;

use self::counted::Counted;
use crate::{
    error::Error,
    observe::metrics::{OpenStream, StreamKind},
    pods::{self, Event, Pods, Session, Target},
};

/// A command that is run when its client is there.
pub(crate) struct Exec {
    pub(crate) pods: Pods,
    pub(crate) container_id: String,
    pub(crate) args: Vec<String>,
    pub(crate) streams: Standard,
}

/// A container's own process.
pub(crate) struct Attach {
    pub(crate) pods: Pods,
    pub(crate) container_id: String,
    pub(crate) streams: Standard,
}

/// The ports of a pod.
pub(crate) struct PodPorts {
    pub(crate) pods: Pods,
    pub(crate) pod_id: String,
}

fn failure(error: &Error) -> Failure {
    Failure(error.to_string())
}

#[async_trait]
impl Command for Exec {
    async fn start(&self) -> Result<Box<dyn Process>, Failure> {
        let command = pods::Command {
            args: self.args.clone(),
            terminal: self.streams.tty,
            stdin: self.streams.stdin,
            window: None,
        };
        let session = self.pods.exec(&self.container_id, command).await;
        connected(&self.pods, StreamKind::Exec, session, true)
    }
}

#[async_trait]
impl Command for Attach {
    async fn start(&self) -> Result<Box<dyn Process>, Failure> {
        let stdin = self.streams.stdin;
        let session = self.pods.attach(&self.container_id, stdin).await;
        connected(&self.pods, StreamKind::Attach, session, false)
    }
}

fn connected(
    pods: &Pods,
    kind: StreamKind,
    session: crate::error::Result<Session>,
    tells_exit: bool,
) -> Result<Box<dyn Process>, Failure> {
    match session {
        Ok(session) => Ok(Box::new(Connected {
            session,
            tells_exit,
            _open: pods.metrics().stream_opened(kind),
        })),
        Err(error) => {
            pods.metrics().stream_failed(kind);
            Err(failure(&error))
        }
    }
}

/// A session of [`pods`].
struct Connected {
    session: Session,
    /// Whether the process's exit status is the session's: an attach has done what
    /// it was asked for however the container ended, and its status tells how.
    tells_exit: bool,
    _open: OpenStream,
}

#[async_trait]
impl Process for Connected {
    async fn next(&mut self) -> Output {
        match self.session.next().await {
            Event::Stdout(bytes) => Output::Stdout(bytes.into()),
            Event::Stderr(bytes) => Output::Stderr(bytes.into()),
            Event::End(Ok(ended)) if self.tells_exit => Output::End(Ok(ended.code)),
            Event::End(Ok(_)) => Output::End(Ok(0)),
            Event::End(Err(error)) => Output::End(Err(failure(&error))),
        }
    }

    fn stdin(&mut self) -> Option<mpsc::Sender<Vec<u8>>> {
        self.session.take_stdin()
    }

    fn terminal(&self) -> Arc<dyn Terminal> {
        Arc::new(Tty(self.session.target()))
    }
}

struct Tty(Target);

#[async_trait]
impl Terminal for Tty {
    async fn resize(&self, size: bulkhead_streaming::WindowSize) {
        let window = WindowSize {
            rows: size.rows.into(),
            columns: size.columns.into(),
        };
        self.0.resize(window).await;
    }
}

#[async_trait]
impl Ports for PodPorts {
    async fn dial(&self, port: u16) -> Result<Box<dyn Connection>, Failure> {
        let metrics = self.pods.metrics();
        match self.pods.dial(&self.pod_id, port).await {
            Ok(connection) => {
                let open = metrics.stream_opened(StreamKind::PortForward);
                Ok(Box::new(Counted::new(connection, open)))
            }
            Err(error) => {
                metrics.stream_failed(StreamKind::PortForward);
                Err(failure(&error))
            }
        }
    }
}

#[cfg(test)]
mod tests;
