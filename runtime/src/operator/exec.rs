//! Exec: a further process in a running container, connected to the caller.

use bulkhead_cri_api::operator::{
    ExecInput, ProcessExit, ProcessOutput, exec_input::Input as Wire,
};
use bulkhead_sandbox::ExecSpec;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::{
    Answers, Operator, first,
    session::{Input, Session, window},
};
use crate::{
    error::{Error, Kind, Result},
    pods::{Running, state::reason},
};

pub(super) async fn exec(
    operator: &Operator,
    mut messages: Streaming<ExecInput>,
) -> Result<Answers<ProcessOutput>> {
    let Some(Wire::Start(start)) = first(&mut messages).await?.input else {
        return Err(Error::invalid("the first message of Exec must be `start`"));
    };
    if start.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("the command is empty"));
    }
    let container = operator.pods.model().container(&start.container_id)?;
    let (sandbox, process) = operator.pods.begin_exec(&container)?;
    let running = Running {
        sandbox: sandbox.clone(),
        process: process.clone(),
    };
    let spec = ExecSpec {
        process: process.clone(),
        args: start.command,
        env: None,
        cwd: None,
        terminal: start.terminal,
        stdin: start.stdin,
        window: window(start.window),
    };
    sandbox.exec(spec).await.map_err(|error| {
        let error = Error::from(error);
        // NOT_FOUND means containers; a missing program is the command's fault.
        if error.kind() == Kind::NotFound {
            Error::invalid(error.to_string())
        } else {
            error
        }
    })?;
    let session = Session::open(
        sandbox.clone(),
        process.clone(),
        start.terminal,
        start.stdin,
    )
    .await?;
    let exit = async move {
        let exit = sandbox.wait(&process).await?;
        let word = match exit {
            _ if exit.oom_killed => reason::OOM_KILLED,
            _ if exit.code == 0 => reason::COMPLETED,
            _ => reason::ERROR,
        };
        Ok(ProcessExit {
            code: exit.code,
            reason: word.to_owned(),
            message: String::new(),
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
    Ok(session.connect(inputs, exit, running))
}
