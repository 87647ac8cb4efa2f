//! The daemon's side of a stdio connection.

use bulkhead_agent_api::{
    agent::{StdioHello, stdio_hello::Stream},
    stdio::Frame,
};
use tokio::io::{AsyncRead, AsyncWrite};

pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// One open stream.
pub struct Open {
    pub connection: Box<dyn Connection>,
    /// Where the agent stands, or starts from.
    pub offset: u64,
}

/// Says hello; `Err` is the agent's refusal.
pub async fn open(
    mut connection: Box<dyn Connection>,
    container_id: &str,
    exec_id: &str,
    stream: Stream,
    offset: u64,
) -> Result<Open, String> {
    let hello = StdioHello {
        container_id: container_id.into(),
        exec_id: exec_id.into(),
        stream: stream.into(),
        offset,
        ..Default::default()
    };
    Frame::Hello(hello).write(&mut connection).await.unwrap();
    match Frame::read(&mut connection).await.unwrap() {
        Some(Frame::Accepted(offset)) => Ok(Open { connection, offset }),
        Some(Frame::Refused(why)) => Err(why),
        other => panic!("{other:?} in answer to a hello"),
    }
}

impl Open {
    /// The next output; `None` at the stream's end.
    pub async fn read(&mut self) -> Option<Vec<u8>> {
        match Frame::read(&mut self.connection).await.unwrap().unwrap() {
            Frame::Data(at, bytes) => {
                assert_eq!(at, self.offset, "gap or repeat in the output");
                self.offset += bytes.len() as u64;
                Some(bytes)
            }
            Frame::Eof(at) => {
                assert_eq!(at, self.offset, "the end is not at the end");
                None
            }
            other => panic!("{other:?} in an output stream"),
        }
    }

    pub async fn acknowledge(&mut self) {
        Frame::Ack(self.offset)
            .write(&mut self.connection)
            .await
            .unwrap();
    }

    /// Reads until the output contains `text`.
    pub async fn read_until(&mut self, text: &str) -> String {
        let mut got = String::new();
        while !got.contains(text) {
            let Some(bytes) = self.read().await else {
                panic!("the output ended before {text:?}: {got:?}");
            };
            got.push_str(&String::from_utf8_lossy(&bytes));
            self.acknowledge().await;
        }
        got
    }

    /// Sends input and waits until the process has it.
    pub async fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(bulkhead_agent_api::stdio::MAX_DATA) {
            Frame::Data(self.offset, chunk.to_vec())
                .write(&mut self.connection)
                .await
                .unwrap();
            self.offset += chunk.len() as u64;
        }
        loop {
            match Frame::read(&mut self.connection).await.unwrap() {
                Some(Frame::Ack(at)) if at == self.offset => return,
                Some(Frame::Ack(_)) => {}
                other => panic!("{other:?} in an input stream"),
            }
        }
    }

    pub async fn end(&mut self) {
        Frame::Eof(self.offset)
            .write(&mut self.connection)
            .await
            .unwrap();
    }
}
