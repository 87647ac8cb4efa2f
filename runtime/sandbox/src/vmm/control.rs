//! Calls to a running VMM.

use std::{os::fd::BorrowedFd, path::PathBuf, time::Duration};

use bulkhead_vmm_api::{vmm, vmm_ttrpc::VmmClient};
use tokio::sync::Mutex;
use ttrpc::asynchronous::transport::Socket;

use super::handover;
use crate::{
    error::{Error, ErrorKind, Result},
    rpc, sockets,
};

/// Most entries taken from a list in a VMM's reply.
const MAX_ENTRIES: usize = 256;
/// Most bytes of a text in a VMM's reply.
const MAX_TEXT: usize = 256;

/// A VMM's control and handover sockets. Connects when first used, and anew
/// after the connection broke.
#[derive(Debug)]
pub struct VmmControl {
    control: PathBuf,
    handover: PathBuf,
    deadline: Duration,
    client: Mutex<Option<Connected>>,
}

struct Connected(VmmClient);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

impl VmmControl {
    /// The sockets at these paths; every call may take `deadline`.
    #[must_use]
    pub fn new(control: PathBuf, handover: PathBuf, deadline: Duration) -> Self {
        Self {
            control,
            handover,
            deadline,
            client: Mutex::new(None),
        }
    }

    async fn client(&self) -> Result<VmmClient> {
        let mut slot = self.client.lock().await;
        if let Some(Connected(client)) = slot.as_ref() {
            return Ok(client.clone());
        }
        let stream = sockets::connect(&self.control).await.map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot reach the VMM at {}", self.control.display()),
            )
            .caused_by(e)
        })?;
        let client = VmmClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)));
        *slot = Some(Connected(client.clone()));
        Ok(client)
    }

    async fn settle<T>(&self, call: &str, result: ttrpc::Result<T>) -> Result<T> {
        if let Err(e) = &result
            && rpc::is_transport(e)
        {
            *self.client.lock().await = None;
        }
        result.map_err(|e| rpc::error("VMM", call, &e))
    }

    fn context(&self) -> ttrpc::context::Context {
        ttrpc::context::with_duration(self.deadline)
    }

    /// State, timings and devices.
    ///
    /// # Errors
    /// When the VMM does not answer.
    pub async fn status(&self) -> Result<vmm::StatusResponse> {
        let client = self.client().await?;
        let reply = client
            .status(self.context(), &vmm::StatusRequest::new())
            .await;
        let mut reply = self.settle("Status", reply).await?;
        rpc::shorten(&mut reply.version, MAX_TEXT);
        reply.devices.truncate(MAX_ENTRIES);
        for device in &mut reply.devices {
            rpc::shorten(&mut device.name, MAX_TEXT);
            rpc::shorten(&mut device.pci, MAX_TEXT);
            rpc::shorten(&mut device.failure, MAX_TEXT);
        }
        Ok(reply)
    }

    /// Exits to user space by reason.
    ///
    /// # Errors
    /// When the VMM does not answer.
    pub async fn exits(&self) -> Result<Vec<(String, u64)>> {
        let client = self.client().await?;
        let reply = client
            .exits(self.context(), &vmm::ExitsRequest::new())
            .await;
        let reply = self.settle("Exits", reply).await?;
        let mut exits: Vec<(String, u64)> = reply
            .by_reason
            .into_iter()
            .take(MAX_ENTRIES)
            .map(|(mut reason, count)| {
                rpc::shorten(&mut reason, MAX_TEXT);
                (reason, count)
            })
            .collect();
        exits.sort();
        Ok(exits)
    }

    /// The end of the guest's console.
    ///
    /// # Errors
    /// When the VMM does not answer.
    pub async fn console(&self) -> Result<String> {
        let client = self.client().await?;
        let reply = client
            .console(self.context(), &vmm::ConsoleRequest::new())
            .await;
        let reply = self.settle("Console", reply).await?;
        let from = reply
            .tail
            .len()
            .saturating_sub(bulkhead_vmm_api::MAX_CONSOLE_TAIL);
        Ok(String::from_utf8_lossy(reply.tail.get(from..).unwrap_or_default()).into_owned())
    }

    /// Asks the VMM to end.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stop(&self) -> Result<()> {
        let client = self.client().await?;
        let context = ttrpc::context::with_duration(self.deadline.min(Duration::from_secs(2)));
        let reply = client.stop(context, &vmm::StopRequest::new()).await;
        self.settle("Stop", reply).await.map(drop)
    }

    /// Adds a disk backed by `fd`.
    ///
    /// # Errors
    /// When the descriptor cannot be handed over or the VMM refuses the disk.
    pub async fn add_disk(&self, serial: &str, read_only: bool, fd: BorrowedFd<'_>) -> Result<()> {
        let token = handover::give(&self.handover, fd).await.map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot hand disk {serial} over to the VMM"),
            )
            .caused_by(e)
        })?;
        let request = vmm::AddDiskRequest {
            token: token.to_vec(),
            serial: serial.to_owned(),
            read_only,
            ..Default::default()
        };
        let client = self.client().await?;
        let reply = client.add_disk(self.context(), &request).await;
        self.settle("AddDisk", reply).await.map(drop)
    }

    /// Takes a disk away that the guest has let go of. One that is not there is
    /// no error.
    ///
    /// # Errors
    /// When the VMM refuses.
    pub async fn remove_disk(&self, serial: &str) -> Result<()> {
        let request = vmm::RemoveDiskRequest {
            serial: serial.to_owned(),
            ..Default::default()
        };
        let client = self.client().await?;
        let reply = client.remove_disk(self.context(), &request).await;
        match self.settle("RemoveDisk", reply).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}
