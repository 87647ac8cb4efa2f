//! The control service: what the daemon may ask of a running VM (vmm.proto).
//!
//! One thread serves it, the main one. Requests that need a device thread or all
//! vCPUs wait without blocking it. The daemon may come, go and come again.

mod service;

use std::{io, os::unix::net::UnixListener, sync::Arc};

use bulkhead_vmm_api::vmm_ttrpc;
use ttrpc::r#async::{Server, transport::Listener};

use self::service::Service;
use crate::{handover, machine::Controlled};

/// Serves both sockets in the background, for as long as the result is kept.
///
/// # Errors
/// When a socket cannot be used.
pub async fn serve(
    control: UnixListener,
    handed_over: Option<UnixListener>,
    controlled: Arc<Controlled>,
) -> io::Result<Server> {
    if let Some(listener) = handed_over {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tokio::spawn(handover::serve(listener, controlled.handed.clone()));
    }
    let listener = tokio::net::UnixListener::from_std(control)?;
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(vmm_ttrpc::create_vmm(Arc::new(Service::new(controlled))));
    server.start().await.map_err(io::Error::other)?;
    Ok(server)
}
