//! Tries to reach the agent over vsock from where it runs: in a container, for
//! the test that it cannot. Says what came of each attempt, one a line.

#![allow(clippy::print_stdout)] // what it is for

use std::time::Duration;

use bulkhead_agent_api::{
    AGENT_PORT, GUEST_CID, STDIO_PORT,
    agent::{StdioHello, stdio_hello::Stream},
    stdio::Frame,
};
use tokio_vsock::{VMADDR_CID_LOCAL, VsockAddr, VsockStream};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let own = std::env::args()
        .nth(1)
        .and_then(|cid| cid.parse().ok())
        .unwrap_or(GUEST_CID);
    for cid in [VMADDR_CID_LOCAL, own] {
        for port in [AGENT_PORT, STDIO_PORT] {
            let attempt = tokio::time::timeout(Duration::from_secs(5), reach(cid, port));
            let outcome = attempt.await.unwrap_or_else(|_| "no answer".to_owned());
            println!("{cid}:{port} {outcome}");
        }
    }
}

async fn reach(cid: u32, port: u32) -> String {
    let mut agent = match VsockStream::connect(VsockAddr::new(cid, port)).await {
        Ok(agent) => agent,
        Err(why) => return format!("refused: {why}"),
    };
    let hello = StdioHello {
        container_id: "probe".into(),
        stream: Stream::STDOUT.into(),
        ..Default::default()
    };
    if let Err(why) = Frame::Hello(hello).write(&mut agent).await {
        return format!("cut off: {why}");
    }
    match Frame::read(&mut agent).await {
        Ok(None) | Err(_) => "cut off".to_owned(),
        Ok(Some(frame)) => format!("ANSWERED {frame:?}"),
    }
}
