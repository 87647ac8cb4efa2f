//! A daemon on a world, with clients on its socket.

use std::{path::PathBuf, sync::Arc};

use bulkhead_cri_api::{
    MESSAGE_BYTES_MAX,
    operator::operator_client::OperatorClient,
    v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{FakeImages, FakeLauncher, FakeNetwork, MemoryRecords, World};
use crate::{
    cri::{Cri, Node as Facts},
    error::{Error, Result},
    observe::{calls::Calls, metrics::Metrics},
    operator::Uploads,
    pods::{Parts, Pods, Settings, placement::HostPods},
    reconcile,
};

/// A running daemon, ended when dropped.
pub struct Node {
    /// What exists beside it.
    pub world: Arc<World>,
    /// Its lifecycle.
    pub pods: Pods,
    /// Its network.
    pub network: Arc<FakeNetwork>,
    /// What its start found and did.
    pub report: reconcile::Report,
}

/// Clients of a daemon's socket.
pub struct Clients {
    /// `RuntimeService`.
    pub runtime: RuntimeServiceClient<Channel>,
    /// `ImageService`.
    pub images: ImageServiceClient<Channel>,
    /// The operator service.
    pub operator: OperatorClient<Channel>,
    directory: PathBuf,
    server: tokio::task::JoinHandle<()>,
}

impl Clients {
    /// The socket that they speak over.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("b.sock")
    }

    /// Names of the files in the socket's directory, which is where uploads go too.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Settings with a test's patience.
fn settings() -> Settings {
    use std::time::Duration;
    Settings {
        // As shipped.
        host_pods: HostPods {
            namespaces: vec!["kube-system".to_owned()],
            handlers: Vec::new(),
        },
        stop_grace: Duration::from_millis(50),
        kill_grace: Duration::from_millis(500),
        sampling: crate::stats::Sampling {
            interval: Duration::from_millis(100),
            ..Default::default()
        },
        ..Settings::default()
    }
}

impl Node {
    /// Starts a daemon on `world`, as it is.
    ///
    /// # Errors
    /// The reconciler's.
    pub async fn start(world: &Arc<World>) -> Result<Self> {
        Self::start_with(world, settings()).await
    }

    /// The same with an interval of measuring.
    ///
    /// # Errors
    /// The reconciler's.
    pub async fn sampling(world: &Arc<World>, interval: std::time::Duration) -> Result<Self> {
        let mut settings = settings();
        settings.sampling.interval = interval;
        Self::start_with(world, settings).await
    }

    async fn start_with(world: &Arc<World>, settings: Settings) -> Result<Self> {
        let network = Arc::new(FakeNetwork::new(Arc::clone(world)));
        let pods = Pods::new(Parts {
            records: Arc::new(MemoryRecords::new(Arc::clone(world))),
            launcher: Arc::new(FakeLauncher::new(Arc::clone(world))),
            network: network.clone(),
            images: Arc::new(FakeImages::new(Arc::clone(world))),
            settings,
            metrics: Metrics::default(),
        });
        let report = reconcile::start(&pods).await?;
        Ok(Self {
            world: Arc::clone(world),
            pods,
            network,
            report,
        })
    }

    /// Serves it on a socket of its own and connects to that.
    ///
    /// # Errors
    /// The socket can't be made.
    pub async fn serve(&self) -> Result<Clients> {
        let io = |error: std::io::Error| Error::internal(error.to_string());
        let name = format!("bulkhead-{}", &crate::ids::new_id()?[..16]);
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).map_err(io)?;
        let socket = directory.join("b.sock");
        let listener = UnixListener::bind(&socket).map_err(io)?;
        let (streaming, streams) = bulkhead_streaming::listen(&Default::default())
            .await
            .map_err(io)?;
        let cri = Cri::new(self.pods.clone(), Facts::default(), streaming);
        let uploads = Uploads {
            directory: directory.clone(),
            max_bytes: 1 << 20,
        };
        let pods = self.pods.clone();
        let server = tokio::spawn(async move {
            let end = std::future::pending();
            let calls = Calls::new(Metrics::default());
            let serving = crate::serve::serve(listener, calls, pods, cri, uploads, streams, end);
            if let Err(error) = serving.await {
                tracing::error!(%error, "server ended");
            }
        });
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Clients {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(2 * MESSAGE_BYTES_MAX),
            images: ImageServiceClient::new(channel.clone()),
            operator: OperatorClient::new(channel),
            directory,
            server,
        })
    }
}
