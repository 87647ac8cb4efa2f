//! Making a container, up to but not including its program's first instruction.

use std::sync::Arc;

use bulkhead_cri_api::v1::{ContainerConfig, Int64Value};
use bulkhead_sandbox::{ContainerSpec, ErrorKind, Sandbox, User};
use tracing::Instrument;

use super::{Inner, Pods, model::Container, model::Pod, monitor::Seen, oci, run::UNDO_AGAIN};
use crate::{
    clock,
    error::{Error, Kind, Result},
    ids,
    pods::images::ImageHold,
    store::{Change, ContainerPhase, ContainerRecord},
};

impl Pods {
    /// Makes a container in a pod, joins the making of it, or finds it made:
    /// returns its id.
    ///
    /// # Errors
    /// Whatever failed, and then nothing is left of it; or
    /// [`Kind::AlreadyExists`] where a container with the same key but another
    /// configuration is there.
    pub async fn create(&self, pod_id: &str, config: ContainerConfig) -> Result<String> {
        let pod = self.inner.model.pod(pod_id)?;
        pod.ready_sandbox()?;
        let record = ContainerRecord {
            id: String::new(),
            pod_id: pod.id.clone(),
            phase: ContainerPhase::Creating,
            config: config.clone(),
            image_id: String::new(),
            image_ref: String::new(),
            created_at: 0,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            user: None,
            stop_signal: 0,
            log: oci::log_target(&pod.record().config, &config)?,
            resources: None,
        };
        let key = record.key();
        let attempted = format!("create container {key}");
        let finished = || self.finished_container(&record);
        let inner = Arc::clone(&self.inner);
        let span = tracing::Span::current();
        let to_make = record.clone();
        let start =
            move || async move { inner.make_container(&pod, to_make).await }.instrument(span);
        self.inner
            .creating_containers
            .join_or_start(key, &config, finished, start)
            .await
            .map_err(|error| error.while_(attempted))
    }

    fn finished_container(&self, wanted: &ContainerRecord) -> Option<Result<String>> {
        let container = self.inner.model.container_by_key(&wanted.key())?;
        if container.record().config == wanted.config {
            return Some(Ok(container.id.clone()));
        }
        Some(Err(Error::new(
            Kind::AlreadyExists,
            format!(
                "it exists as {}, made from another configuration; remove that one, or use another \
                 attempt number",
                container.id
            ),
        )))
    }
}

impl Inner {
    async fn make_container(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        mut record: ContainerRecord,
    ) -> Result<String> {
        let name = record
            .config
            .image
            .as_ref()
            .map_or("", |image| image.image.as_str());
        let image = self.images.resolve(name)?;
        let hold = self.images.hold(&image.id)?;
        record.id = ids::new_id()?;
        record.created_at = clock::now_ns();
        record.image_id = image.id.to_string();
        record.image_ref = image
            .repo_digests
            .first()
            .unwrap_or(&record.image_id)
            .clone();
        record.stop_signal = oci::stop_signal(&record.config, &image.config)?;
        let (pod_config, place) = {
            let pod = pod.record();
            (pod.config.clone(), pod.place)
        };
        // Looks at paths that the client names: not here.
        let (spec, record) = tokio::task::spawn_blocking(move || {
            oci::container_spec(&pod_config, &record, &image, place).map(|spec| (spec, record))
        })
        .await
        .map_err(|error| Error::internal(error.to_string()))??;

        let container = self.model.insert_container(record)?;
        let span = tracing::info_span!("create", pod = %pod.id, container = %container.id);
        async {
            let _turn = container.turn.lock().await;
            match self.build_container(pod, &container, spec, hold).await {
                Ok(()) => {
                    tracing::info!(key = %container.key, "container is created");
                    Ok(container.id.clone())
                }
                Err(error) => {
                    tracing::warn!(key = %container.key, %error, "container could not be made");
                    self.unwind_container(pod, &container).await;
                    Err(error)
                }
            }
        }
        .instrument(span)
        .await
    }

    /// The create itself. Whatever it returns, [`Inner::unwind_container`] undoes it.
    async fn build_container(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Arc<Container>,
        spec: ContainerSpec,
        hold: ImageHold,
    ) -> Result<()> {
        container.set_hold(Some(hold));
        let record = container.record();
        self.records
            .commit(vec![Change::PutContainer(Arc::clone(&record))])
            .await?;

        let sandbox = pod.ready_sandbox()?;
        let made = sandbox
            .create_container(spec)
            .await
            .map_err(unresolved_user)?;
        expect_user(&record, &made.user)?;

        let mut created = ContainerRecord::clone(&record);
        created.phase = ContainerPhase::Created;
        created.user = Some(made.user);
        let created = Arc::new(created);
        self.records
            .commit(vec![Change::PutContainer(Arc::clone(&created))])
            .await?;
        // A sandbox that ended meanwhile has taken it along. Looked at before the
        // container shows: a create must not succeed in a pod that is over.
        pod.ready_sandbox()?;
        self.show_container(container, created);
        self.watch_container(container, sandbox, Seen::AtOnce);
        Ok(())
    }

    /// Undoes a create, in the background for as long as that takes if need be.
    async fn unwind_container(self: &Arc<Self>, pod: &Arc<Pod>, container: &Arc<Container>) {
        self.model.free_container_key(container);
        if let Err(error) = self.undo_container(pod, container).await {
            tracing::error!(%error, "half a container is left and will be undone later");
            let inner = Arc::clone(self);
            let (pod, container) = (Arc::clone(pod), Arc::clone(container));
            tokio::spawn(
                async move {
                    loop {
                        tokio::time::sleep(UNDO_AGAIN).await;
                        let _turn = container.turn.lock().await;
                        // The pod's removal takes it along.
                        if !inner.model.has_container(&container.id) {
                            break;
                        }
                        match inner.undo_container(&pod, &container).await {
                            Ok(()) => break,
                            Err(error) => tracing::error!(%error, "half a container is still left"),
                        }
                    }
                }
                .in_current_span(),
            );
        }
    }

    /// Undoes, in reverse order, whatever of a create has happened. Repeatable.
    async fn undo_container(&self, pod: &Pod, container: &Container) -> Result<()> {
        if let Some(sandbox) = pod.sandbox() {
            remove_in_guest(sandbox.as_ref(), &container.id).await?;
        }
        self.records
            .commit(vec![Change::DropContainer(container.id.clone())])
            .await?;
        self.model.remove_container(&container.id);
        Ok(())
    }
}

/// Removes a container in its guest; a guest that has ended has removed it.
pub(super) async fn remove_in_guest(sandbox: &dyn Sandbox, id: &str) -> Result<()> {
    match sandbox.remove_container(id).await {
        Err(error) if error.kind() == ErrorKind::SandboxDead => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

/// A guest that runs a program as somebody else than the number asked for has been
/// outwitted, by an image or altogether (CVE-2026-46680).
fn expect_user(record: &ContainerRecord, user: &User) -> Result<()> {
    let asked = record
        .config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let wrong = |what: &str, asked: &Option<Int64Value>, given: u32| match asked {
        Some(asked) if asked.value != i64::from(given) => Some(Error::internal(format!(
            "the guest made its first process of {what} {given}, not {}; it is not started",
            asked.value
        ))),
        _ => None,
    };
    let wrong = asked.and_then(|asked| {
        wrong("user", &asked.run_as_user, user.uid)
            .or_else(|| wrong("group", &asked.run_as_group, user.gid))
    });
    wrong.map_or(Ok(()), Err)
}

/// NOT_FOUND means pods, containers and images in the CRI. What the guest can't
/// find while it makes a container is something that the configuration names.
fn unresolved_user(error: bulkhead_sandbox::Error) -> Error {
    let kind = error.kind();
    let error = Error::from(error);
    if kind == ErrorKind::NotFound {
        Error::invalid(error.to_string())
    } else {
        error
    }
}
