//! Connecting to the daemon, and its errors in words.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use bulkhead_cri_api::MESSAGE_BYTES_MAX;
use bulkhead_cri_api::operator::operator_client::OperatorClient;
use bulkhead_cri_api::v1::image_service_client::ImageServiceClient;
use bulkhead_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// The daemon's services over one connection.
#[derive(Clone)]
pub(super) struct Daemon {
    pub(super) runtime: RuntimeServiceClient<Channel>,
    pub(super) images: ImageServiceClient<Channel>,
    pub(super) operator: OperatorClient<Channel>,
}

impl Daemon {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// With what to do, by the reason: no socket, nobody behind it, no permission.
    pub(super) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        // The channel reports failed connections in words of its own: try by hand first.
        UnixStream::connect(socket)
            .await
            .map_err(|error| unreachable(socket, &error))?;
        let path = PathBuf::from(socket);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is only a formality: the connector knows the way.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            operator: OperatorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
        })
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> anyhow::Error {
    let next = match error.kind() {
        io::ErrorKind::NotFound => {
            "the daemon isn't running, or has another socket: start it with `bulkhead serve`, or \
             name its socket with --socket"
        }
        io::ErrorKind::ConnectionRefused => {
            "the daemon isn't running: start it with `bulkhead serve`"
        }
        io::ErrorKind::PermissionDenied => "only root may: run the command as root",
        _ => "is the daemon running?",
    };
    anyhow!("cannot connect to {}: {error}; {next}", socket.display())
}

/// A refusal of the daemon.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    pub(super) code: Code,
    message: String,
}

/// A gRPC error in words: the message is meant for people, the code only where there
/// is none.
pub(super) fn in_words(status: &Status) -> anyhow::Error {
    let message = match (status.code(), status.message()) {
        (Code::Unavailable, message) if message.is_empty() || message.contains("transport") => {
            "the daemon went away; pods it was running go on, look with `bulkhead ps`".to_owned()
        }
        (Code::Unimplemented, "") => "the daemon is of another version and doesn't know this; \
                                      see `bulkhead version`"
            .to_owned(),
        (code, "") => format!("the daemon refused: {code}"),
        (_, message) => message.to_owned(),
    };
    Refusal {
        code: status.code(),
        message,
    }
    .into()
}

/// The code of the refusal that an error is about.
pub(super) fn refusal_code(error: &anyhow::Error) -> Option<Code> {
    error.downcast_ref::<Refusal>().map(|refusal| refusal.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_daemon_is_explained() {
        let error = match Daemon::connect(Path::new("/nonexistent/bulkhead.sock")).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("connected"),
        };
        assert!(error.contains("/nonexistent/bulkhead.sock"), "{error}");
        assert!(error.contains("bulkhead serve"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_without_a_daemon_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = Daemon::connect(&path).await.err().unwrap().to_string();
        assert!(error.contains("isn't running"), "{error}");
    }

    #[test]
    fn messages_speak_for_themselves() {
        let error = in_words(&Status::not_found("image \"x\" is not there; import it"));
        assert_eq!(error.to_string(), "image \"x\" is not there; import it");
        assert_eq!(refusal_code(&error), Some(Code::NotFound));
        assert!(
            in_words(&Status::new(Code::Aborted, ""))
                .to_string()
                .contains("refused")
        );
        let gone = in_words(&Status::unavailable("transport error"));
        assert!(gone.to_string().contains("went away"));
    }
}
