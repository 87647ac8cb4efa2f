//! Further processes in a running container.

use std::{fs, sync::Arc};

use bulkhead_agent_api::agent::ExecRequest;
use oci_spec::runtime::Process as OciProcess;
use ttrpc::Code;

use super::{
    Containers, ExecSlot, check_id,
    create::{make, read_status},
    executor, lock,
    protocol::{Exec, Job, Launch},
    report_exit, spec,
};
use crate::{
    error::{Context as _, Error, Result},
    process::{Process, StdioOptions, stream},
};

impl Containers {
    /// Runs a further process in a container; returns its pid.
    ///
    /// # Errors
    /// The execve's own, as for a start; `FAILED_PRECONDITION` when the container
    /// does not run, `ALREADY_EXISTS` for a taken id. Nothing is left behind.
    pub async fn exec(&self, request: ExecRequest) -> Result<u32> {
        check_id(&request.exec_id, "exec")?;
        let container = self.get(&request.container_id)?;
        if container.init.started_unix_ns() == 0 || container.init.exit().is_some() {
            return Err(Error::precondition(format!(
                "container {} does not run",
                container.id
            )));
        }
        let exec_id = request.exec_id.clone();
        {
            let mut execs = lock(&container.execs);
            if execs.contains_key(&exec_id) {
                return Err(Error::new(
                    Code::ALREADY_EXISTS,
                    format!("container {} has a process {exec_id:?}", container.id),
                ));
            }
            execs.insert(exec_id.clone(), ExecSlot::Starting);
        }
        match self.try_exec(&container, request).await {
            Ok(process) => {
                let pid = process.pid().as_raw_nonzero().get().unsigned_abs();
                lock(&container.execs).insert(exec_id, ExecSlot::Ready(process));
                Ok(pid)
            }
            Err(why) => {
                if let Err(why) = container.exec_cgroup(&exec_id).remove().await {
                    tracing::error!("clean up after exec {exec_id}: {why}");
                }
                lock(&container.execs).remove(&exec_id);
                Err(why.within(format_args!("exec in container {}", container.id)))
            }
        }
    }

    async fn try_exec(
        &self,
        container: &super::Container,
        request: ExecRequest,
    ) -> Result<Arc<Process>> {
        let process: OciProcess = serde_json::from_slice(&request.oci_process)
            .map_err(|why| Error::invalid(format!("the OCI process does not parse: {why}")))?;
        let mut process = spec::check_process(process)?;
        let mut launch = Launch::default().with_seccomp(container.seccomp.as_ref());
        if container.seccomp.is_some() {
            launch.drop_sys_admin = spec::lend_sys_admin(&mut process);
        }
        launch.raw_env = spec::check_raw_env(request.raw_env)?;
        launch.window = request.window.as_ref().map(|w| (w.rows, w.columns));
        let options = StdioOptions {
            terminal: process.terminal().unwrap_or(false),
            stdin: request.stdin,
            stdin_once: request.stdin_once,
            output_buffer: request.output_buffer_bytes,
        };
        let cgroup = container.exec_cgroup(&request.exec_id);
        cgroup.create()?;
        let name = format!("exec-{}", request.exec_id);
        let job = Job::Exec(Box::new(Exec {
            dir: container.dir.clone(),
            name: name.clone(),
            init: container.init.pid().as_raw_nonzero().get(),
            process,
            user: request.user.as_ref().map(Into::into),
            cgroup: name.clone(),
            launch,
        }));
        let made = make(self, job, &options, &container.dir, &name).await;
        // What the helper needed on the way; see there.
        let _ = fs::remove_dir_all(container.dir.join(&name));
        let made = made?;
        let status = stream::pipe(made.status).context(|| "poll the status pipe")?;
        let text = read_status(&status).await?;
        if !text.is_empty() {
            return Err(executor::error_from_status(&text));
        }
        let process = Process::new(&container.id, &request.exec_id, made.pid, made.streams);
        process.mark_started();
        let process = Arc::new(process);
        report_exit(Arc::clone(&process), cgroup, made.exit);
        Ok(process)
    }
}
