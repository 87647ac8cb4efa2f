//! Attach: a container's own process, connected to the caller from now on.

use bulkhead_cri_api::operator::{
    AttachInput, ProcessExit, ProcessOutput, attach_input::Input as Wire,
};
use bulkhead_sandbox::ProcessId;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::{
    Answers, Operator, first,
    session::{Input, Session, window},
};
use crate::{
    error::{Error, Result},
    store::ContainerPhase,
};

pub(super) async fn attach(
    operator: &Operator,
    mut messages: Streaming<AttachInput>,
) -> Result<Answers<ProcessOutput>> {
    let Some(Wire::Start(start)) = first(&mut messages).await?.input else {
        return Err(Error::invalid(
            "the first message of Attach must be `start`",
        ));
    };
    let model = operator.pods.model();
    let container = model.container(&start.container_id)?;
    let record = container.record();
    // A created container may be attached to, so that nothing is missed once it
    // is started.
    if !record.phase.is_alive() {
        return Err(Error::precondition(format!(
            "container {} has exited",
            container.id
        )));
    }
    if start.stdin && !record.config.stdin {
        return Err(Error::precondition(format!(
            "container {} was created without stdin",
            container.id
        )));
    }
    let sandbox = model.pod(&container.key.pod_id)?.ready_sandbox()?;
    let process = ProcessId::init(container.id.as_str());
    let session = Session::open(
        sandbox.clone(),
        process.clone(),
        record.config.tty,
        start.stdin,
    )
    .await?;
    if let Some(window) = window(start.window).filter(|_| record.config.tty) {
        sandbox.resize(&process, window).await?;
    }
    drop(sandbox);
    let exit = async move {
        let mut phases = container.phases();
        // An error: it was removed, and its last record stands.
        let _ = phases
            .wait_for(|phase| matches!(phase, ContainerPhase::Exited | ContainerPhase::Removing))
            .await;
        let record = container.record();
        Ok(ProcessExit {
            code: record.exit_code,
            reason: record.reason.clone(),
            message: record.message.clone(),
        })
    };
    let inputs = messages
        .map_while(Result::ok)
        .filter_map(|message| match message.input? {
            Wire::Stdin(bytes) => Some(Input::Stdin(bytes.into())),
            Wire::CloseStdin(_) => Some(Input::CloseStdin),
            Wire::Resize(size) => window(Some(size)).map(Input::Resize),
            Wire::Signal(signal) => Some(Input::Signal(signal)),
            Wire::Start(_) => None,
        });
    Ok(session.connect(inputs, exit, ()))
}
