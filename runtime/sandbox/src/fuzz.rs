//! Bodies of the fuzz targets: arbitrary bytes in, no panic out.

use bulkhead_agent_api::agent;
use protobuf::Message as _;

use crate::{
    agent::{
        figures,
        reply::{self, Lifetime},
    },
    log::resume::{Checkpoint, Scanner},
};

/// A log as a resuming daemon finds it, and its checkpoint.
pub fn log_resume(bytes: &[u8]) {
    let (chunk, log) = bytes.split_first().unwrap_or((&1, &[]));
    let mut scanner = Scanner::default();
    for piece in log.chunks(usize::from(*chunk).max(1)) {
        scanner.push(piece);
    }
    assert!(scanner.whole() <= log.len() as u64);
    assert!(scanner.streams().iter().sum::<u64>() <= scanner.whole());
    let _ = Checkpoint::decode(log);
}

/// Answers of an agent that has been taken over.
pub fn agent_replies(bytes: &[u8]) {
    let lifetime = Lifetime {
        from_unix_ns: 1,
        now_unix_ns: 2,
    };
    if let Ok(response) = agent::ListProcessesResponse::parse_from_bytes(bytes) {
        let _ = reply::processes(&response, lifetime);
    }
    if let Ok(response) = agent::WaitProcessResponse::parse_from_bytes(bytes) {
        let _ = reply::exit(response.exit.as_ref(), lifetime);
    }
    if let Ok(response) = agent::StatsResponse::parse_from_bytes(bytes) {
        let _ = figures::stats(&response);
    }
    if let Ok(response) = agent::CreateContainerResponse::parse_from_bytes(bytes) {
        let _ = reply::user(&response);
    }
    if let Ok(response) = agent::InfoResponse::parse_from_bytes(bytes) {
        let _ = reply::info(response);
    }
}
