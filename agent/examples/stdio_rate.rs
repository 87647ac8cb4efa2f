//! How fast a process's output gets through the agent: a pipe, the stream, and
//! a unix socket to a reader that acknowledges as it goes. Prints MB/s.
//!
//! `cargo run -p bulkhead-agent --profile agent --example stdio_rate`

#![allow(clippy::print_stdout)] // what it is for

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, bail};
use bulkhead_agent::process::stream::{OutputStream, pipe};
use bulkhead_agent_api::stdio::{DEFAULT_BUFFER, Frame};
use tokio::net::UnixStream;

const BYTES: u64 = 4 << 30;
/// Unacknowledged bytes a reader lets stand.
const EVERY: u64 = 256 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (read, write) = rustix::pipe::pipe()?;
    std::thread::spawn(move || {
        let block = [0x61; 64 << 10];
        let mut left = BYTES;
        while left > 0 {
            match rustix::io::write(&write, &block) {
                Ok(count) => left = left.saturating_sub(count as u64),
                Err(_) => return,
            }
        }
    });
    let stream = Arc::new(OutputStream::new(pipe(read)?, DEFAULT_BUFFER));
    let (agent, mut daemon) = UnixStream::pair()?;
    let began = Instant::now();
    tokio::spawn({
        let stream = Arc::clone(&stream);
        async move { stream.pump().await }
    });
    tokio::spawn(async move { stream.serve(agent, 0).await });
    let (mut at, mut acknowledged) = (0, 0);
    loop {
        match Frame::read(&mut daemon)
            .await?
            .context("the stream broke off")?
        {
            Frame::Accepted(_) => {}
            Frame::Data(offset, bytes) => {
                at = offset + bytes.len() as u64;
                if at - acknowledged >= EVERY {
                    acknowledged = at;
                    Frame::Ack(at).write(&mut daemon).await?;
                }
            }
            Frame::Eof(_) => break,
            other => bail!("unexpected {other:?}"),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{} MB/s", (at / 1_000_000) as f64 / seconds);
    Ok(())
}
