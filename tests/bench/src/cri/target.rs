//! One CRI runtime under load, and the requests that kubelet would send it.

use std::{
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bulkhead_cri_api::v1::{
    self as cri, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use bulkhead_e2e::node::channel;
use tonic::transport::Channel;

use crate::report::Report;

/// Where a runtime is, and what it is called in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) name: String,
    /// RuntimeClass handler; empty: the runtime's default.
    pub(crate) handler: String,
    pub(crate) socket: PathBuf,
}

impl FromStr for Address {
    type Err = String;

    /// `[NAME[/HANDLER]=]PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (label, path) = text.split_once('=').unwrap_or((text, text));
        let (name, handler) = if label == path {
            (label, "")
        } else {
            label.split_once('/').unwrap_or((label, ""))
        };
        if name.is_empty() || path.is_empty() {
            return Err(format!("{text:?} is not [NAME[/HANDLER]=]PATH"));
        }
        Ok(Self {
            name: name.to_owned(),
            handler: handler.to_owned(),
            socket: path.trim_start_matches("unix://").into(),
        })
    }
}

/// A runtime.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    handler: String,
    image: cri::ImageSpec,
    logs: PathBuf,
    runtime: RuntimeServiceClient<Channel>,
}

/// A pod of a target, which stands until it is removed.
pub(crate) struct Pod {
    pub(crate) id: String,
    config: cri::PodSandboxConfig,
}

impl Pod {
    /// Where a container's log is.
    pub(crate) fn log(&self, container: &str) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(format!("{container}.log"))
    }
}

impl Target {
    /// Connects, and checks that the image is there.
    pub(crate) async fn connect(address: Address, image: &str) -> Result<Self> {
        let channel = channel(address.socket.clone());
        let mut runtime = RuntimeServiceClient::new(channel.clone());
        let version = runtime
            .version(cri::VersionRequest::default())
            .await
            .with_context(|| format!("asking {} for its version", address.socket.display()))?
            .into_inner();
        eprintln!(
            "{}: {} {}",
            address.name, version.runtime_name, version.runtime_version
        );
        let image = cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(image.clone()),
            verbose: false,
        };
        let status = ImageServiceClient::new(channel).image_status(request).await;
        if status.context("ImageStatus")?.into_inner().image.is_none() {
            bail!(
                "{} has no image {}: import or pull it first",
                address.name,
                image.image
            );
        }
        let logs = std::env::temp_dir().join(format!("bulkhead-bench-{}", std::process::id()));
        Ok(Self {
            logs: logs.join(&address.name),
            name: address.name,
            handler: address.handler,
            image,
            runtime,
        })
    }

    /// A client for requests of a workload's own.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// RunPodSandbox.
    pub(crate) async fn run_pod(&self, name: &str) -> Result<Pod> {
        let uid = format!("{}-{}", std::process::id(), name);
        let log_directory = self.logs.join(name);
        std::fs::create_dir_all(&log_directory)?;
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: log_directory.display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: self.handler.clone(),
        };
        let response = self.runtime().run_pod_sandbox(request).await;
        let id = response
            .with_context(|| format!("{}: RunPodSandbox", self.name))?
            .into_inner()
            .pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// CreateContainer with a shell script.
    pub(crate) async fn create(&self, pod: &Pod, name: &str, script: &str) -> Result<String> {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(self.image.clone()),
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let response = self.runtime().create_container(request).await;
        Ok(response
            .with_context(|| format!("{}: CreateContainer", self.name))?
            .into_inner()
            .container_id)
    }

    /// StartContainer.
    pub(crate) async fn start(&self, container: &str) -> Result<()> {
        let request = cri::StartContainerRequest {
            container_id: container.to_owned(),
        };
        let response = self.runtime().start_container(request).await;
        response
            .map(drop)
            .with_context(|| format!("{}: StartContainer", self.name))
    }

    /// ExecSync, whose command must succeed.
    pub(crate) async fn exec(&self, container: &str, command: &[&str]) -> Result<Vec<u8>> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 120,
        };
        // Up to 16 MiB of output and what frames it.
        let mut runtime = self.runtime().max_decoding_message_size(32 << 20);
        let response = runtime
            .exec_sync(request)
            .await
            .with_context(|| format!("{}: ExecSync", self.name))?
            .into_inner();
        anyhow::ensure!(
            response.exit_code == 0,
            "{}: {command:?} exited with {}: {}",
            self.name,
            response.exit_code,
            String::from_utf8_lossy(&response.stderr)
        );
        Ok(response.stdout.to_vec())
    }

    /// ContainerStatus.
    pub(crate) async fn status(&self, container: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let response = self.runtime().container_status(request).await;
        response
            .with_context(|| format!("{}: ContainerStatus", self.name))?
            .into_inner()
            .status
            .context("ContainerStatus answered without a status")
    }

    /// StopContainer without grace.
    pub(crate) async fn stop(&self, container: &str) -> Result<()> {
        let request = cri::StopContainerRequest {
            container_id: container.to_owned(),
            timeout: 0,
        };
        let response = self.runtime().stop_container(request).await;
        response
            .map(drop)
            .with_context(|| format!("{}: StopContainer", self.name))
    }

    /// RemoveContainer.
    pub(crate) async fn remove(&self, container: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        let response = self.runtime().remove_container(request).await;
        response
            .map(drop)
            .with_context(|| format!("{}: RemoveContainer", self.name))
    }

    /// StopPodSandbox.
    pub(crate) async fn stop_pod(&self, pod: &Pod) -> Result<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        let response = self.runtime().stop_pod_sandbox(request).await;
        response
            .map(drop)
            .with_context(|| format!("{}: StopPodSandbox", self.name))
    }

    /// RemovePodSandbox.
    pub(crate) async fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        let response = self.runtime().remove_pod_sandbox(request).await;
        response
            .map(drop)
            .with_context(|| format!("{}: RemovePodSandbox", self.name))
    }

    /// Waits for something and adds how long it took.
    pub(crate) async fn time<T>(
        &self,
        report: &mut Report,
        metric: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let began = Instant::now();
        let value = work.await?;
        report.add(&self.name, metric, milliseconds(began.elapsed()));
        Ok(value)
    }
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_name_and_a_handler_or_none() {
        let parse = |text: &str| {
            let address: Address = text.parse().unwrap();
            let socket = address.socket.display().to_string();
            (address.name, address.handler, socket)
        };
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(parse("/run/a.sock"), own("/run/a.sock", "", "/run/a.sock"));
        assert_eq!(parse("a=unix:///run/a"), own("a", "", "/run/a"));
        assert_eq!(parse("a/b=/run/a"), own("a", "b", "/run/a"));
        assert!("=x".parse::<Address>().is_err() && "x=".parse::<Address>().is_err());
    }
}
