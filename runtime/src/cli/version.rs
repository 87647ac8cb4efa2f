//! `bulkhead version`

use std::path::Path;

use bulkhead_cri_api::v1::VersionRequest;
use serde::Serialize;

use super::args::Format;
use super::client::{Daemon, in_words};
use super::{Outcome, output};

#[derive(Debug, Serialize)]
struct Versions {
    /// This program.
    client: &'static str,
    /// The daemon; absent if it doesn't answer.
    daemon: Option<String>,
    /// The daemon's version of the CRI.
    cri: Option<String>,
}

pub(super) async fn version(socket: &Path, format: Format) -> Outcome {
    let mut versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
        daemon: None,
        cri: None,
    };
    let mut absent = String::from("-");
    match ask(socket).await {
        Ok((daemon, cri)) => {
            versions.daemon = Some(daemon);
            versions.cri = Some(cri);
        }
        // Not an error: the question is also about this program alone.
        Err(error) => absent = format!("- ({error})"),
    }
    output::print(format, &versions, &["COMPONENT", "VERSION"], || {
        let or_absent = |version: &Option<String>| version.clone().unwrap_or(absent);
        vec![
            vec!["bulkhead".to_owned(), versions.client.to_owned()],
            vec!["daemon".to_owned(), or_absent(&versions.daemon)],
            vec![
                "cri".to_owned(),
                versions.cri.clone().unwrap_or("-".to_owned()),
            ],
        ]
    })?;
    Ok(0)
}

async fn ask(socket: &Path) -> anyhow::Result<(String, String)> {
    let mut daemon = Daemon::connect(socket).await?;
    let answer = daemon.runtime.version(VersionRequest::default()).await;
    let answer = answer.map_err(|status| in_words(&status))?.into_inner();
    Ok((answer.runtime_version, answer.runtime_api_version))
}
