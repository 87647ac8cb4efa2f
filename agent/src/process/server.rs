//! The stdio port: each connection names a stream with its first frame.

use std::{sync::Arc, time::Duration};

use bulkhead_agent_api::{
    agent::{StdioHello, stdio_hello::Stream},
    stdio::{Frame, FrameError},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::stream::is_hangup;
use crate::{container::Containers, listen::Listener};

/// How long a peer may take for its `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves connections for as long as the agent lives.
pub async fn serve(listener: Listener, containers: Arc<Containers>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let containers = Arc::clone(&containers);
                tokio::spawn(async move {
                    match serve_one(connection, &containers).await {
                        Err(why) if !is_hangup(&why) => debug!("stdio connection: {why}"),
                        _ => {}
                    }
                });
            }
            Err(why) => {
                debug!("accept on the stdio port: {why}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_one<C>(mut connection: C, containers: &Containers) -> Result<(), FrameError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, Frame::read(&mut connection)).await {
        Ok(Ok(Some(Frame::Hello(hello)))) => hello,
        Ok(Ok(Some(_))) => return Err(FrameError::Malformed("the first frame is not a hello")),
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(why)) => return Err(why),
        Err(_elapsed) => return Err(FrameError::Malformed("no hello in time")),
    };
    let refusal = match containers.process(&hello.container_id, &hello.exec_id) {
        Err(why) => why.to_string(),
        Ok(process) => match hello.stream.enum_value_or_default() {
            Stream::STDIN => match process.stdin() {
                Some(stdin) => return stdin.serve(connection).await,
                None => no_stream(&hello, "stdin"),
            },
            Stream::STDOUT => match process.stdout() {
                Some(stdout) => return stdout.serve(connection, hello.offset).await,
                None => no_stream(&hello, "stdout"),
            },
            Stream::STDERR => match process.stderr() {
                Some(stderr) => return stderr.serve(connection, hello.offset).await,
                None => no_stream(&hello, "stderr"),
            },
            Stream::UNSPECIFIED => "the hello names no stream".to_owned(),
        },
    };
    Frame::Refused(refusal).write(&mut connection).await
}

fn no_stream(hello: &StdioHello, stream: &str) -> String {
    format!(
        "process {:?} of container {} has no {stream}",
        hello.exec_id, hello.container_id
    )
}
