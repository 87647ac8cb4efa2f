//! The VMM's side.

use std::{
    collections::HashMap,
    fs::File,
    io::{IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd},
    process,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bulkhead_agent_api::{agent::Ready, forward, ready};
use bulkhead_vmm_api::{CONFIG_FD_FLAG, EXIT_REPORT, ExitReason, ExitReport, vmm, vmm_ttrpc};
use protobuf::Message as _;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use ttrpc::{
    asynchronous::{Server, TtrpcContext, transport::Listener},
    error::get_rpc_status,
};

use crate::agent::Agent;

fn descriptor(number: u32) -> OwnedFd {
    let number = RawFd::try_from(number).unwrap();
    assert!(number > 2, "a descriptor is missing in the configuration");
    // SAFETY: the number comes from the launcher, which passed the descriptor on
    // for this process alone; each number is asked for once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn listener(number: u32) -> UnixListener {
    let listener = std::os::unix::net::UnixListener::from(descriptor(number));
    listener.set_nonblocking(true).unwrap();
    UnixListener::from_std(listener).unwrap()
}

/// Ends the process as a VMM does, with a report.
pub(crate) fn end(run_dir: &str, reason: ExitReason, message: &str) -> ! {
    let report = ExitReport {
        reason: reason.as_str().into(),
        message: message.into(),
        console: "a line\nKernel panic - not syncing: stand-in\n".into(),
        ..Default::default()
    };
    let path = std::path::Path::new(run_dir).join(EXIT_REPORT);
    std::fs::write(path, serde_json::to_vec(&report).unwrap()).unwrap();
    process::exit(i32::from(reason as u8))
}

/// Serves until it is stopped.
pub(crate) async fn run(arguments: &[String]) -> ! {
    let [flag, number] = arguments else {
        panic!("{arguments:?} in place of {CONFIG_FD_FLAG} NUMBER");
    };
    assert_eq!(flag, CONFIG_FD_FLAG);
    let mut bytes = Vec::new();
    File::from(descriptor(number.parse().unwrap()))
        .read_to_end(&mut bytes)
        .unwrap();
    let config = vmm::VmConfig::parse_from_bytes(&bytes).unwrap();
    let misbehaves = |how: &str| config.cmdline.split(' ').any(|word| word == how);
    println!(
        "stand-in for the VMM of {} in {}",
        config.pod_id, config.run_dir
    );
    if misbehaves("standin.kvm") {
        end(
            &config.run_dir,
            ExitReason::KvmUnusable,
            "cannot open /dev/kvm",
        );
    }
    if misbehaves("standin.panic") {
        end(
            &config.run_dir,
            ExitReason::GuestPanic,
            "the guest panicked",
        );
    }
    let mut kernel = [0_u8; 4];
    let kernel_file = File::from(descriptor(config.kernel_fd));
    (&kernel_file).read_exact(&mut kernel).unwrap();
    assert_eq!(&kernel, b"\x7fELF");

    let disks: Disks = Arc::default();
    disks.lock().unwrap().insert("scratch".into(), true);
    let run_dir = config.run_dir.clone();
    let agent = Agent::new(Arc::clone(&disks), &run_dir, config.cmdline.clone());
    let handed: Handed = Arc::default();
    tokio::spawn(take_descriptors(
        listener(config.handover_fd),
        Arc::clone(&handed),
    ));
    let service = Arc::new(Vmm {
        config: config.clone(),
        disks,
        handed,
    });
    let mut control = Server::new()
        .add_listener(Listener::new(UnixListenerStream::new(listener(
            config.control_fd,
        ))))
        .register_service(vmm_ttrpc::create_vmm(service));
    control.start().await.unwrap();
    tokio::spawn(serve_vsock(
        listener(config.vsock.listen_fd),
        Arc::clone(&agent),
    ));

    if misbehaves("standin.silent") {
        std::future::pending().await
    }
    let ready = format!("{}/{}_2048", config.run_dir, config.vsock.uds_prefix);
    let mut notice = UnixStream::connect(ready).await.unwrap();
    let message = Ready {
        agent_version: "stand-in".into(),
        kernel_release: "6.12.0-standin".into(),
        ..Default::default()
    };
    notice
        .write_all(&ready::encode(&message).unwrap())
        .await
        .unwrap();
    std::future::pending().await
}

/// Disks by serial, and whether the guest holds them.
pub(crate) type Disks = Arc<Mutex<HashMap<String, bool>>>;
type Handed = Arc<Mutex<HashMap<Vec<u8>, OwnedFd>>>;

async fn take_descriptors(listener: UnixListener, handed: Handed) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let taken = stream.async_io(Interest::READABLE, || {
            let mut bytes = [0; 16];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(
                stream.as_fd(),
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let fd = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            Ok((bytes.get(..got.bytes).map(<[u8]>::to_vec), fd))
        });
        // A daemon that is killed meanwhile says nothing, or does not listen any more.
        let Ok((Some(token), Some(fd))) = taken.await else {
            continue;
        };
        assert_eq!(token.len(), 16);
        handed.lock().unwrap().insert(token, fd);
        let _ = stream.write_all(&[0]).await;
    }
}

async fn serve_vsock(listener: UnixListener, agent: Arc<Agent>) {
    let (to_agent, connections) = mpsc::channel::<std::io::Result<UnixStream>>(16);
    let mut server = Server::new()
        .add_listener(Listener::new(ReceiverStream::new(connections)))
        .register_service(bulkhead_agent_api::agent_ttrpc::create_agent(agent.clone()));
    server.start().await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (to_agent, agent) = (to_agent.clone(), Arc::clone(&agent));
        tokio::spawn(async move {
            let mut line = Vec::new();
            loop {
                match stream.read_u8().await {
                    Ok(b'\n') => break,
                    Ok(byte) => line.push(byte),
                    Err(_) => return,
                }
            }
            if stream.write_all(b"OK 1073741824\n").await.is_err() {
                return;
            }
            match line.as_slice() {
                b"CONNECT 1024" => to_agent.send(Ok(stream)).await.unwrap(),
                b"CONNECT 1025" => agent.serve_stream(stream).await,
                b"CONNECT 1026" => forward_to(stream).await,
                other => panic!("{other:?}"),
            }
        });
    }
}

/// Port 7 echoes; nothing listens on the others.
async fn forward_to(mut stream: UnixStream) {
    if forward::asked(&mut stream).await.unwrap() != 7 {
        return forward::answer(&mut stream, Some("connection refused"))
            .await
            .unwrap();
    }
    forward::answer(&mut stream, None).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    tokio::io::copy(&mut from, &mut to).await.unwrap();
}

struct Vmm {
    config: vmm::VmConfig,
    disks: Disks,
    handed: Handed,
}

#[async_trait]
impl vmm_ttrpc::Vmm for Vmm {
    async fn status(
        &self,
        _: &TtrpcContext,
        _: vmm::StatusRequest,
    ) -> ttrpc::Result<vmm::StatusResponse> {
        let mut devices: Vec<_> = self.disks.lock().unwrap().keys().cloned().collect();
        devices.sort();
        Ok(vmm::StatusResponse {
            version: "stand-in".into(),
            pid: process::id(),
            timings: Some(vmm::Timings {
                spawn_ns: self.config.spawn_monotonic_ns,
                main_ns: self.config.spawn_monotonic_ns + 1,
                first_run_ns: self.config.spawn_monotonic_ns + 2,
                ..Default::default()
            })
            .into(),
            devices: devices
                .into_iter()
                .map(|name| vmm::DeviceStatus {
                    name: format!("blk {name}"),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
    }

    async fn exits(
        &self,
        _: &TtrpcContext,
        _: vmm::ExitsRequest,
    ) -> ttrpc::Result<vmm::ExitsResponse> {
        Ok(vmm::ExitsResponse {
            by_reason: HashMap::from([("mmio".to_owned(), 7)]),
            total: 7,
            ..Default::default()
        })
    }

    async fn console(
        &self,
        _: &TtrpcContext,
        _: vmm::ConsoleRequest,
    ) -> ttrpc::Result<vmm::ConsoleResponse> {
        Ok(vmm::ConsoleResponse {
            tail: b"waiting for init\n".to_vec(),
            ..Default::default()
        })
    }

    async fn stop(&self, _: &TtrpcContext, _: vmm::StopRequest) -> ttrpc::Result<vmm::Empty> {
        let run_dir = self.config.run_dir.clone();
        tokio::spawn(async move { end(&run_dir, ExitReason::Stopped, "") });
        Ok(vmm::Empty::new())
    }

    async fn add_disk(
        &self,
        _: &TtrpcContext,
        request: vmm::AddDiskRequest,
    ) -> ttrpc::Result<vmm::AddDiskResponse> {
        let fd = self.handed.lock().unwrap().remove(&request.token);
        let mut start = Vec::new();
        File::from(fd.unwrap())
            .take(16)
            .read_to_end(&mut start)
            .unwrap();
        if start == b"broken" {
            let code = ttrpc::Code::INVALID_ARGUMENT;
            return Err(get_rpc_status(code, "the disk is broken"));
        }
        assert!(request.read_only);
        let before = self.disks.lock().unwrap().insert(request.serial, false);
        assert_eq!(before, None, "a disk twice");
        Ok(vmm::AddDiskResponse::new())
    }

    async fn remove_disk(
        &self,
        _: &TtrpcContext,
        request: vmm::RemoveDiskRequest,
    ) -> ttrpc::Result<vmm::Empty> {
        let mut disks = self.disks.lock().unwrap();
        match disks.get(&request.serial) {
            None => Err(get_rpc_status(ttrpc::Code::NOT_FOUND, "no such disk")),
            Some(true) => {
                let code = ttrpc::Code::FAILED_PRECONDITION;
                Err(get_rpc_status(
                    code,
                    "the guest's driver still runs the device",
                ))
            }
            Some(false) => {
                disks.remove(&request.serial);
                Ok(vmm::Empty::new())
            }
        }
    }
}
