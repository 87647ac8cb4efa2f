//! The handlers, one for each request.

use std::{fs::File, sync::Arc, time::Duration};

use async_trait::async_trait;
use bulkhead_vmm_api::{
    ExitReason,
    vmm::{
        AddDiskRequest, AddDiskResponse, ConsoleRequest, ConsoleResponse, DeviceStatus, Empty,
        ExitsRequest, ExitsResponse, PauseRequest, RemoveDiskRequest, ResumeRequest, StatusRequest,
        StatusResponse, StopRequest, Timings as WireTimings, status_response::State,
    },
    vmm_ttrpc,
};
use tokio::sync::Mutex;
use ttrpc::{Code, r#async::TtrpcContext};

use crate::{
    config::{self, Disk, Fd},
    machine::{self, AddError, Controlled},
    pci::{SlotError, VirtioFunction},
    timings::Milestone,
};

/// How long a pause may take: a vCPU may wait for a device to start or stop.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// How often a pause looks.
const PAUSE_POLL: Duration = Duration::from_millis(1);

/// The service.
pub(super) struct Service {
    vm: Arc<Controlled>,
    /// One change of devices, or one pause, at a time.
    changes: Mutex<()>,
}

impl Service {
    pub(super) fn new(vm: Arc<Controlled>) -> Self {
        Self {
            vm,
            changes: Mutex::new(()),
        }
    }
}

fn error(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.to_string()))
}

/// The device thread is gone: the VM is ending.
fn ending<E>(_: E) -> ttrpc::Error {
    error(Code::UNAVAILABLE, "the VM is ending")
}

#[async_trait]
impl vmm_ttrpc::Vmm for Service {
    async fn status(&self, _: &TtrpcContext, _: StatusRequest) -> ttrpc::Result<StatusResponse> {
        let mut response = StatusResponse::new();
        response.state = if self.vm.vcpus.is_paused() {
            State::PAUSED.into()
        } else {
            State::RUNNING.into()
        };
        response.version = env!("CARGO_PKG_VERSION").into();
        response.pid = std::process::id();
        response.timings = Some(self.timings()).into();
        response.devices = self
            .vm
            .bus
            .functions()
            .iter()
            .map(|function| device_status(function))
            .collect();
        Ok(response)
    }

    async fn exits(&self, _: &TtrpcContext, _: ExitsRequest) -> ttrpc::Result<ExitsResponse> {
        let mut response = ExitsResponse::new();
        response.total = self.vm.exits.total();
        response.by_reason = self.vm.exits.by_reason().into_iter().collect();
        response.by_device = self
            .vm
            .bus
            .functions()
            .iter()
            .map(|function| (function.name().to_owned(), function.exits()))
            .collect();
        Ok(response)
    }

    async fn pause(&self, _: &TtrpcContext, _: PauseRequest) -> ttrpc::Result<Empty> {
        let _one = self.changes.lock().await;
        let deadline = tokio::time::Instant::now() + PAUSE_LIMIT;
        loop {
            let busy = self
                .vm
                .vcpus
                .poll_pause()
                .map_err(|e| error(Code::INTERNAL, e))?;
            match busy {
                None => return Ok(Empty::new()),
                Some(vcpu) if tokio::time::Instant::now() >= deadline => {
                    self.vm.vcpus.resume();
                    return Err(error(
                        Code::DEADLINE_EXCEEDED,
                        format!("vCPU {vcpu} did not pause within {PAUSE_LIMIT:?}"),
                    ));
                }
                Some(_) => tokio::time::sleep(PAUSE_POLL).await,
            }
        }
    }

    async fn resume(&self, _: &TtrpcContext, _: ResumeRequest) -> ttrpc::Result<Empty> {
        let _one = self.changes.lock().await;
        self.vm.vcpus.resume();
        Ok(Empty::new())
    }

    async fn stop(&self, _: &TtrpcContext, _: StopRequest) -> ttrpc::Result<Empty> {
        let end = self.vm.end.clone();
        tokio::spawn(async move {
            // The reply is on its way first.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let ending = (ExitReason::Stopped, "the daemon stopped the VM".to_owned());
            // Full only if the VM is ending already.
            let _ = end.try_send(ending);
        });
        Ok(Empty::new())
    }

    async fn console(&self, _: &TtrpcContext, _: ConsoleRequest) -> ttrpc::Result<ConsoleResponse> {
        let (tail, total) = self.vm.console.tail();
        let mut response = ConsoleResponse::new();
        response.tail = tail;
        response.total_bytes = total;
        Ok(response)
    }

    async fn add_disk(
        &self,
        _: &TtrpcContext,
        request: AddDiskRequest,
    ) -> ttrpc::Result<AddDiskResponse> {
        let invalid = |e: config::ConfigError| error(Code::INVALID_ARGUMENT, e);
        let fd = self.vm.handed.take(&request.token).ok_or_else(|| {
            error(
                Code::NOT_FOUND,
                "no descriptor was handed over under this token; hand it over again",
            )
        })?;
        let disk = Disk {
            serial: config::check_serial(&request.serial).map_err(invalid)?,
            file: Fd(-1),
            read_only: request.read_only,
            ephemeral: request.ephemeral,
            queues: config::check_queues(request.queues).map_err(invalid)?,
        };
        let _one = self.changes.lock().await;
        let name = format!("blk {}", disk.serial);
        if self.vm.bus.functions().iter().any(|f| f.name() == name) {
            return Err(error(
                Code::ALREADY_EXISTS,
                format!("there is a disk {}", disk.serial),
            ));
        }
        let vm = self.vm.clone();
        let added = self.vm.surroundings.device_thread.start_job(move || {
            let device = machine::new_disk(&disk, File::from(fd), &vm.pool).map_err(|e| {
                let reason = format!("disk {} cannot be used: {e}", disk.serial);
                error(Code::INVALID_ARGUMENT, reason)
            })?;
            machine::add(&vm.bus, device, &vm.surroundings).map_err(|e| match e {
                AddError::Slot(_) => error(Code::RESOURCE_EXHAUSTED, e),
                AddError::Function(_) => error(Code::INTERNAL, e),
            })
        });
        let function = added.await.map_err(ending)??;
        let mut response = AddDiskResponse::new();
        response.pci = function.devfn().to_string();
        Ok(response)
    }

    async fn remove_disk(
        &self,
        _: &TtrpcContext,
        request: RemoveDiskRequest,
    ) -> ttrpc::Result<Empty> {
        let _one = self.changes.lock().await;
        let bus = self.vm.bus.clone();
        let name = format!("blk {}", request.serial);
        let removed = self
            .vm
            .surroundings
            .device_thread
            .start_job(move || bus.remove(&name));
        match removed.await.map_err(ending)? {
            Ok(()) => Ok(Empty::new()),
            Err(e @ SlotError::Unknown(_)) => Err(error(Code::NOT_FOUND, e)),
            Err(e) => Err(error(Code::FAILED_PRECONDITION, e)),
        }
    }
}

impl Service {
    fn timings(&self) -> WireTimings {
        let at = |milestone| self.vm.timings.get(milestone);
        let mut timings = WireTimings::new();
        timings.spawn_ns = at(Milestone::Spawn);
        timings.main_ns = at(Milestone::Main);
        timings.configured_ns = at(Milestone::Configured);
        timings.vm_created_ns = at(Milestone::VmCreated);
        timings.loaded_ns = at(Milestone::Loaded);
        timings.devices_ns = at(Milestone::Devices);
        timings.confined_ns = at(Milestone::Confined);
        timings.first_run_ns = at(Milestone::FirstRun);
        timings
    }
}

fn device_status(function: &VirtioFunction) -> DeviceStatus {
    let mut status = DeviceStatus::new();
    status.name = function.name().to_owned();
    status.pci = function.devfn().to_string();
    if let Some(condition) = function.condition() {
        status.activated = condition.activated;
        status.failure = condition.failure.unwrap_or_default();
    }
    status
}
