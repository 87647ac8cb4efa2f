//! The client's side of pods and containers: the requests kubelet would send,
//! with what a test usually leaves at its default.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use bulkhead_cri_api::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use tonic::transport::Channel;

use crate::{image, node::Node};

/// A pod under test.
pub struct Pod {
    /// The CRI's id for it.
    pub id: String,
    /// What it was asked to be.
    pub config: cri::PodSandboxConfig,
    client: RuntimeServiceClient<Channel>,
    logs: PathBuf,
}

/// A pod's configuration as kubelet would send it.
pub fn pod_config(node: &Node, name: &str, attempt: u32) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt,
        }),
        hostname: name.to_owned(),
        log_directory: node.logs().join(name).display().to_string(),
        dns_config: Some(cri::DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [("note".to_owned(), "kept".to_owned())].into(),
        ..Default::default()
    }
}

/// A container's configuration: the demo image with a shell command.
pub fn container_config(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: image::DEMO.to_owned(),
            ..Default::default()
        }),
        args: vec![script.to_owned()],
        log_path: format!("{name}/0.log"),
        ..Default::default()
    }
}

impl Pod {
    /// Runs a pod with default settings.
    pub async fn run(node: &Node, name: &str) -> Result<Self> {
        Self::run_with(node, pod_config(node, name, 0)).await
    }

    /// Runs a pod.
    pub async fn run_with(node: &Node, config: cri::PodSandboxConfig) -> Result<Self> {
        Self::run_as(node, config, "").await
    }

    /// Runs a pod with a runtime handler.
    pub async fn run_as(node: &Node, config: cri::PodSandboxConfig, handler: &str) -> Result<Self> {
        let mut client = node.runtime();
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let id = client
            .run_pod_sandbox(request)
            .await
            .context("RunPodSandbox")?
            .into_inner()
            .pod_sandbox_id;
        Ok(Self::attach(node, id, config))
    }

    /// A pod that is there already.
    pub fn attach(node: &Node, id: String, config: cri::PodSandboxConfig) -> Self {
        let logs = PathBuf::from(&config.log_directory);
        Self {
            id,
            config,
            client: node.runtime(),
            logs,
        }
    }

    /// Creates a container.
    pub async fn create(&mut self, config: cri::ContainerConfig) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let response = self.client.create_container(request).await;
        Ok(response
            .context("CreateContainer")?
            .into_inner()
            .container_id)
    }

    /// Starts a container.
    pub async fn start(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.client.start_container(request).await.map(drop)
    }

    /// Creates and starts the demo image with a shell script.
    pub async fn sh(&mut self, name: &str, script: &str) -> Result<String> {
        let id = self.create(container_config(name, script)).await?;
        self.start(&id).await.context("StartContainer")?;
        Ok(id)
    }

    /// ExecSync of a shell script; no deadline of its own.
    pub async fn exec(&mut self, id: &str, script: &str) -> Result<cri::ExecSyncResponse> {
        let response = self.exec_within(id, &["/bin/sh", "-c", script], 0).await;
        response.context("ExecSync")
    }

    /// ExecSync with a timeout in seconds.
    pub async fn exec_within(
        &mut self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout,
        };
        Ok(self.client.exec_sync(request).await?.into_inner())
    }

    /// A container's status.
    pub async fn status(&mut self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        let response = self.client.container_status(request).await;
        response
            .context("ContainerStatus")?
            .into_inner()
            .status
            .context("ContainerStatus answered without a status")
    }

    /// The pod's own status.
    pub async fn pod_status(&mut self) -> Result<cri::PodSandboxStatus, tonic::Status> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            ..Default::default()
        };
        let response = self.client.pod_sandbox_status(request).await?.into_inner();
        response
            .status
            .ok_or_else(|| tonic::Status::internal("PodSandboxStatus answered without a status"))
    }

    /// The pod's first address.
    pub async fn address(&mut self) -> Result<std::net::IpAddr> {
        let network = self.pod_status().await?.network.context("no network")?;
        Ok(network.ip.parse()?)
    }

    /// Waits until a container has exited, at most `patience`.
    pub async fn exited(&mut self, id: &str, patience: Duration) -> Result<cri::ContainerStatus> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let status = self.status(id).await?;
            if status.state() == cri::ContainerState::ContainerExited {
                return Ok(status);
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "container {id} has not exited after {patience:?}: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The path of a container's log.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(name).join("0.log")
    }

    /// A container's log, raw.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = self.log_path(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// What one stream of the log says, without the CRI framing.
    pub fn output(&self, name: &str, stream: &str) -> Result<String> {
        payload(&self.log(name)?, stream)
    }

    /// Stops a container.
    pub async fn stop_container(&mut self, id: &str, grace: i64) -> Result<(), tonic::Status> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace,
        };
        self.client.stop_container(request).await.map(drop)
    }

    /// Removes a container.
    pub async fn remove_container(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.client.remove_container(request).await.map(drop)
    }

    /// Stops the pod.
    pub async fn stop(&mut self) -> Result<(), tonic::Status> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.client.stop_pod_sandbox(request).await.map(drop)
    }

    /// Stops the pod and removes it.
    pub async fn remove(&mut self) -> Result<(), tonic::Status> {
        self.stop().await?;
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.client.remove_pod_sandbox(request).await.map(drop)
    }
}

/// One stream's bytes out of a CRI log: full lines with their newline, partial
/// ones without.
pub fn payload(log: &str, stream: &str) -> Result<String> {
    let mut out = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (Some(time), Some(name), Some(tag), Some(content)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            anyhow::bail!("not a CRI log line: {line:?}");
        };
        anyhow::ensure!(
            time.len() >= 20 && time.contains('T'),
            "not a CRI timestamp: {line:?}"
        );
        if name != stream {
            continue;
        }
        out.push_str(content);
        match tag {
            "F" => out.push('\n'),
            "P" => {}
            other => anyhow::bail!("unknown log tag {other:?}"),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn partial_lines_join() {
        let log = "2026-01-01T00:00:00.000000000Z stdout P ab\n\
                   2026-01-01T00:00:00.000000001Z stderr F no\n\
                   2026-01-01T00:00:00.000000002Z stdout F c d\n";
        assert_eq!(payload(log, "stdout").unwrap(), "abc d\n");
        assert!(payload("gibberish\n", "stdout").is_err());
    }
}
