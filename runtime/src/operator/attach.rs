//! Attach: a container's own process, connected to the caller from now on.

use bulkhead_cri_api::operator::{AttachInput, ProcessOutput, attach_input::Input as Wire};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::{
    Answers, Operator, first,
    session::{Input, connect, window},
};
use crate::error::{Error, Result};

pub(super) async fn attach(
    operator: &Operator,
    mut messages: Streaming<AttachInput>,
) -> Result<Answers<ProcessOutput>> {
    let Some(Wire::Start(start)) = first(&mut messages).await?.input else {
        return Err(Error::invalid(
            "the first message of Attach must be `start`",
        ));
    };
    let container = operator.pods.model().container(&start.container_id)?;
    let record = container.record();
    if start.stdin && !record.config.stdin {
        return Err(Error::precondition(format!(
            "container {} was created without stdin",
            container.id
        )));
    }
    let session = operator.pods.attach(&container.id, start.stdin).await?;
    if let Some(window) = window(start.window).filter(|_| record.config.tty) {
        session.target().resize(window).await;
    }
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
