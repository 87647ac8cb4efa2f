//! Pulls from a registry on the loopback, which a mirror file leads to.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;
use bulkhead_test_registry::{Answer, Content, Server};
use serde_json::json;

use super::{clean, look};
use bulkhead_e2e::{
    image::{Archive, Built, Compression, Layer, MANIFEST, busybox},
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config},
    world::World,
};

const NAME: &str = "registry.example/team/app:1";
const REPOSITORY: &str = "team/app";

fn built() -> Result<Built> {
    let words = Layer::default().file("words", 0o644, b"from a registry\n")?;
    Archive::default()
        .layer(&busybox()?.finish()?, Compression::Gzip)?
        .layer(&words.finish()?, Compression::Zstd)?
        .build(json!({ "Env": ["PATH=/bin"], "Cmd": ["cat", "/words"] }))
}

fn content(image: &Built) -> Content {
    let digest = image.manifest_digest();
    let content = Content::default()
        .manifest(REPOSITORY, "1", MANIFEST, &image.manifest)
        .manifest(REPOSITORY, &digest, MANIFEST, &image.manifest);
    let blobs = image.blobs.iter();
    blobs.fold(content, |content, (name, bytes)| {
        content.blob(REPOSITORY, &format!("sha256:{name}"), bytes)
    })
}

/// A node that asks `server` in place of the registry.
async fn node(programs: &Programs, name: &str, server: &Server) -> Result<(Node, World)> {
    let mut node = Node::new_online(programs, name, "")?;
    let directory = node.hosts_dir().join("registry.example");
    fs::create_dir_all(&directory)?;
    let hosts = format!("server = \"http://{}\"\n", server.address);
    fs::write(directory.join("hosts.toml"), hosts)?;
    node.start().await?;
    let world = look(&node)?;
    Ok((node, world))
}

async fn pull(node: &Node, image: &str) -> Result<String, tonic::Status> {
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let response = node.images().pull_image(request).await?;
    Ok(response.into_inner().image_ref)
}

async fn status(node: &Node, image: &str) -> Result<Option<cri::Image>> {
    let request = cri::ImageStatusRequest {
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        verbose: false,
    };
    Ok(node
        .images()
        .image_status(request)
        .await?
        .into_inner()
        .image)
}

async fn remove(node: &Node, image: &str) -> Result<()> {
    let request = cri::RemoveImageRequest {
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
    };
    node.images().remove_image(request).await?;
    Ok(())
}

fn is_blob(asked: &str) -> bool {
    asked.contains("/blobs/")
}

/// By tag and by digest it is the same image, fetched once; a pod runs from it.
pub(crate) async fn by_tag_and_by_digest(programs: &Programs) -> Result<()> {
    let image = built()?;
    let content = content(&image);
    let server = Server::plain(move |asked| content.answer(asked)).await;
    let (node, world) = node(programs, "pulls", &server).await?;
    let id = pull(&node, NAME).await?;
    let fetched = server.asked().iter().filter(|asked| is_blob(asked)).count();
    ensure!(fetched == 3, "{:?}", server.asked());

    let by_digest = format!("registry.example/team/app@{}", image.manifest_digest());
    ensure!(pull(&node, NAME).await? == id && pull(&node, &by_digest).await? == id);
    // The configuration, but no layer.
    let layers: Vec<_> = image
        .blobs
        .iter()
        .filter(|(_, it)| !it.starts_with(b"{"))
        .collect();
    for (name, _) in layers {
        let path = format!("GET /v2/{REPOSITORY}/blobs/sha256:{name}");
        let times = server
            .asked()
            .iter()
            .filter(|asked| **asked == path)
            .count();
        ensure!(times == 1, "{path}: {times} times");
    }
    for name in [NAME, &by_digest, &id] {
        let found = status(&node, name).await?.context("not there")?;
        ensure!(found.id == id, "{found:?}");
        ensure!(found.repo_tags == [NAME], "{found:?}");
        ensure!(found.repo_digests == [by_digest.clone()], "{found:?}");
    }

    let mut pod = Pod::run(&node, "pulls").await?;
    let config = cri::ContainerConfig {
        image: Some(cri::ImageSpec {
            image: id.clone(),
            ..Default::default()
        }),
        command: Vec::new(),
        args: Vec::new(),
        ..container_config("c", "")
    };
    let container = pod.create(config).await?;
    pod.start(&container).await?;
    let exited = pod.exited(&container, PATIENCE).await?;
    ensure!(exited.exit_code == 0, "{exited:?}");
    ensure!(pod.output("c", "stdout")? == "from a registry\n");
    looked_at(&node, NAME).await?;
    // What a container is of stays.
    ensure!(node.cli(&["image", "prune"]).await?.is_empty());
    pod.remove().await?;
    ensure!(node.cli(&["image", "prune"]).await? == format!("{NAME}\n"));
    ensure!(status(&node, NAME).await?.is_none(), "it is there still");
    clean(node, &world).await
}

/// What the command line says of an image of two layers.
async fn looked_at(node: &Node, name: &str) -> Result<()> {
    let json = async |words: &[&str]| -> Result<serde_json::Value> {
        let said = node.cli(&[words, &["--output", "json"]].concat()).await?;
        serde_json::from_str(&said).with_context(|| format!("{words:?}: {said}"))
    };
    let checked = json(&["image", "check"]).await?;
    ensure!(
        checked["layers"] == 2 && checked["problems"] == json!([]),
        "{checked}"
    );
    let inspected = json(&["image", "inspect", name]).await?;
    ensure!(inspected[0]["tags"] == json!([name]), "{inspected}");
    ensure!(
        inspected[0]["info"]["config"]["Cmd"] == json!(["cat", "/words"]),
        "{inspected}"
    );
    let history = json(&["image", "history", name]).await?;
    ensure!(
        history.as_array().is_some_and(|steps| steps.len() == 2),
        "{history}"
    );
    let used = json(&["image", "du"]).await?;
    let size = &inspected[0]["size_bytes"];
    ensure!(
        &used["total_bytes"] == size && &used["images"][0]["unique_bytes"] == size,
        "{used}"
    );
    Ok(())
}

/// Each refusal has its code, and names what was asked; nothing stays.
pub(crate) async fn what_a_registry_refuses(programs: &Programs) -> Result<()> {
    let image = built()?;
    let content = content(&image);
    let (damaged, bytes) = image.blobs.iter().next().context("no blob")?;
    let (damaged, length) = (damaged.clone(), bytes.len());
    let server = Server::plain(move |asked| {
        let path = asked.path();
        if path.contains("/secret/") {
            return Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if path.ends_with(&damaged) {
            return Answer::new(200, vec![0; length]);
        }
        content.answer(asked)
    })
    .await;
    let (node, world) = node(programs, "refuses", &server).await?;
    let gone = node.hosts_dir().join("gone.example");
    fs::create_dir_all(&gone)?;
    // A port that nobody listens on: one that was given out, and given back.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.local_addr()?.port()
    };
    let hosts = format!("server = \"http://127.0.0.1:{port}\"\n");
    fs::write(gone.join("hosts.toml"), hosts)?;
    for (image, code, words) in [
        (
            "registry.example/team/app:2",
            tonic::Code::NotFound,
            "/v2/team/app/manifests/2",
        ),
        (
            "registry.example/team/secret/x",
            tonic::Code::PermissionDenied,
            "without credentials",
        ),
        (
            "gone.example/team/app",
            tonic::Code::Unavailable,
            "RegistryUnavailable",
        ),
        (NAME, tonic::Code::InvalidArgument, "sha256:"),
        (
            "registry.example/Team",
            tonic::Code::InvalidArgument,
            "Team",
        ),
    ] {
        let Err(refused) = pull(&node, image).await else {
            anyhow::bail!("{image} was pulled");
        };
        ensure!(
            refused.code() == code && refused.message().contains(words),
            "{image}: {refused:?}"
        );
        ensure!(
            status(&node, image).await.ok().flatten().is_none(),
            "{image} is there"
        );
    }
    fs::remove_dir_all(&gone)?;
    clean(node, &world).await
}

/// The daemon dies while a layer is on its way: nothing of it is seen then, and the
/// next pull succeeds.
pub(crate) async fn daemon_killed(programs: &Programs) -> Result<()> {
    let image = built()?;
    let content = content(&image);
    let largest = image.blobs.iter().max_by_key(|(_, bytes)| bytes.len());
    let largest = largest.context("no blob")?.0.clone();
    let stalls = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&stalls);
    let server = Server::plain(move |asked| {
        let answer = content.answer(asked);
        match asked.path().ends_with(&largest) && still.load(Ordering::Relaxed) {
            true => answer.stall(100_000),
            false => answer,
        }
    })
    .await;
    let (mut node, world) = node(programs, "killed", &server).await?;
    let under_way = {
        let request = cri::PullImageRequest {
            image: Some(cri::ImageSpec {
                image: NAME.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut images = node.images();
        tokio::spawn(async move { images.pull_image(request).await })
    };
    let deadline = Instant::now() + PATIENCE;
    while server.asked().iter().filter(|asked| is_blob(asked)).count() < 3 {
        ensure!(Instant::now() < deadline, "{:?}", server.asked());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Some of it is being written.
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.kill().await?;
    ensure!(under_way.await?.is_err(), "an answer of a dead daemon");
    node.start().await?;
    ensure!(status(&node, NAME).await?.is_none(), "half an image");
    stalls.store(false, Ordering::Relaxed);
    pull(&node, NAME).await?;
    remove(&node, NAME).await?;
    super::clean_after_restart(node, &world).await
}
