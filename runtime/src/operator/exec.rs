//! Exec: a further process in a running container, connected to the caller.

use bulkhead_cri_api::operator::{ExecInput, ProcessOutput, exec_input::Input as Wire};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::{
    Answers, Operator, first,
    session::{Input, connect, window},
};
use crate::{
    error::{Error, Result},
    pods::Command,
};

pub(super) async fn exec(
    operator: &Operator,
    mut messages: Streaming<ExecInput>,
) -> Result<Answers<ProcessOutput>> {
    let Some(Wire::Start(start)) = first(&mut messages).await?.input else {
        return Err(Error::invalid("the first message of Exec must be `start`"));
    };
    let command = Command {
        args: start.command,
        terminal: start.terminal,
        stdin: start.stdin,
        window: window(start.window),
    };
    let session = operator.pods.exec(&start.container_id, command).await?;
    let inputs = messages
        .map_while(Result::ok)
        .filter_map(|message| match message.input? {
            Wire::Stdin(bytes) => Some(Input::Stdin(bytes.into())),
            Wire::CloseStdin(_) => Some(Input::CloseStdin),
            Wire::Resize(size) => window(Some(size)).map(Input::Resize),
            Wire::Signal(signal) => Some(Input::Signal(signal)),
            Wire::Start(_) => None,
        });
    Ok(connect(session, inputs))
}
