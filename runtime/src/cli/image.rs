//! `bulkhead image`: bring in, list, remove.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use bulkhead_cri_api::operator::import_image_progress::Progress;
use bulkhead_cri_api::operator::import_image_request::Source;
use bulkhead_cri_api::operator::{ImportImageRequest, ImportedImage};
use bulkhead_cri_api::v1::{Image, ImageSpec, ListImagesRequest, RemoveImageRequest};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::args::{ImageAction, ImageArgs, OutputArgs};
use super::client::{Daemon, in_words};
use super::names::short_id;
use super::quantity::human_bytes;
use super::{Outcome, output, pull};

/// Bytes of an archive in a message; the protocol allows 1 MiB.
const CHUNK: usize = 256 << 10;
/// Messages on their way.
const IN_FLIGHT: usize = 4;

pub(super) async fn image(socket: &Path, args: ImageArgs) -> Outcome {
    let mut daemon = Daemon::connect(socket).await?;
    match args.action {
        ImageAction::Import { file, name, quiet } => {
            import(&mut daemon, &file, name.unwrap_or_default(), quiet).await?;
        }
        ImageAction::Pull(args) => pull::pull(&mut daemon, args).await?,
        ImageAction::Ls(OutputArgs { output }) => {
            let images = list(&mut daemon).await?;
            let columns = ["IMAGE", "ID", "SIZE"];
            output::print(output, &listed(&images), &columns, || rows(&images))?;
        }
        ImageAction::Rm { images } => {
            for wanted in &images {
                remove(&mut daemon, wanted).await?;
            }
        }
    }
    Ok(0)
}

/// Brings an archive in and prints the names of its images, one a line.
async fn import(daemon: &mut Daemon, file: &Path, tag: String, quiet: bool) -> Result<()> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let sending = async move {
        if file == Path::new("-") {
            send_stdin(&sender, tag).await
        } else {
            // The daemon has another working directory.
            let path = file
                .canonicalize()
                .with_context(|| format!("cannot import {}", file.display()))?;
            let Some(path) = path.to_str() else {
                bail!(
                    "cannot import {}: the name isn't UTF-8; rename the file",
                    path.display()
                );
            };
            let request = ImportImageRequest {
                source: Some(Source::Path(path.to_owned())),
                tag,
            };
            let _ = sender.send(request).await;
            Ok(())
        }
    };
    let receiving = async {
        let answer = daemon
            .operator
            .import_image(ReceiverStream::new(receiver))
            .await;
        let mut progress = answer.map_err(|status| in_words(&status))?.into_inner();
        let mut images = None;
        while let Some(message) = progress
            .message()
            .await
            .map_err(|status| in_words(&status))?
        {
            match message.progress {
                Some(Progress::Step(step)) if !quiet => writeln!(std::io::stderr(), "{step}")?,
                Some(Progress::Done(done)) => images = Some(done.images),
                _ => {}
            }
        }
        images.ok_or_else(|| anyhow!("the daemon hung up before the image was in"))
    };
    // Reading the file may fail first, or the daemon refuse it before it is read.
    tokio::pin!(sending, receiving);
    let images = tokio::select! {
        images = &mut receiving => images?,
        sent = &mut sending => {
            sent?;
            receiving.await?
        }
    };
    output::print_text(&imported(&images))?;
    Ok(())
}

async fn send_stdin(sender: &mpsc::Sender<ImportImageRequest>, mut tag: String) -> Result<()> {
    let mut stdin = tokio::io::stdin();
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = stdin
            .read(&mut chunk)
            .await
            .context("cannot read standard input")?;
        if length == 0 {
            return Ok(());
        }
        chunk.truncate(length);
        let source = Some(Source::Chunk(chunk.into()));
        let request = ImportImageRequest {
            source,
            tag: std::mem::take(&mut tag),
        };
        if sender.send(request).await.is_err() {
            // The daemon has said why, or will.
            return Ok(());
        }
    }
}

/// Names of images, or ids of those without, one a line.
fn imported(images: &[ImportedImage]) -> String {
    let mut text = String::new();
    for image in images {
        let names = if image.references.is_empty() {
            std::slice::from_ref(&image.id)
        } else {
            &image.references
        };
        for name in names {
            text.push_str(name);
            text.push('\n');
        }
    }
    text
}

/// All images.
async fn list(daemon: &mut Daemon) -> Result<Vec<Image>> {
    let answer = daemon
        .images
        .list_images(ListImagesRequest::default())
        .await;
    Ok(answer
        .map_err(|status| in_words(&status))?
        .into_inner()
        .images)
}

#[derive(Debug, Serialize)]
struct ListedImage<'a> {
    id: &'a str,
    tags: &'a [String],
    digests: &'a [String],
    size_bytes: u64,
}

fn listed(images: &[Image]) -> Vec<ListedImage<'_>> {
    images
        .iter()
        .map(|image| ListedImage {
            id: &image.id,
            tags: &image.repo_tags,
            digests: &image.repo_digests,
            size_bytes: image.size,
        })
        .collect()
}

/// A row for each name.
fn rows(images: &[Image]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for image in images {
        let mut names: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
        if names.is_empty() {
            names.extend(image.repo_digests.iter().map(String::as_str));
        }
        if names.is_empty() {
            names.push("-");
        }
        for name in names {
            let size = human_bytes(image.size);
            rows.push(vec![name.to_owned(), short_id(&image.id).to_owned(), size]);
        }
    }
    rows.sort();
    rows
}

/// Removes one image; one that isn't there is an error, unlike for kubelet.
async fn remove(daemon: &mut Daemon, wanted: &str) -> Result<()> {
    let image = find(daemon, wanted).await?;
    let spec = ImageSpec {
        image,
        ..Default::default()
    };
    let request = RemoveImageRequest { image: Some(spec) };
    daemon
        .images
        .remove_image(request)
        .await
        .map_err(|status| in_words(&status))?;
    Ok(())
}

/// What the daemon knows the image as that the user means.
///
/// # Errors
/// None or several are meant, or the daemon's refusal.
pub(super) async fn find(daemon: &mut Daemon, wanted: &str) -> Result<String> {
    let images = list(daemon).await?;
    choose(&images, wanted)
}

fn choose(images: &[Image], wanted: &str) -> Result<String> {
    let bare = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let by_id: Vec<&Image> = images
        .iter()
        .filter(|image| {
            let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
            bare.len() >= 4 && id.starts_with(bare)
        })
        .collect();
    let by_name = |image: &&Image| {
        image
            .repo_tags
            .iter()
            .chain(&image.repo_digests)
            .any(|name| names_agree(name, wanted))
    };
    // Several names of one image mean that image.
    if images.iter().any(|image| by_name(&image)) {
        return Ok(wanted.to_owned());
    }
    match by_id.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => {
            let known: Vec<&str> = images
                .iter()
                .flat_map(|image| &image.repo_tags)
                .map(String::as_str)
                .collect();
            let known = if known.is_empty() {
                "there are none".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            bail!(
                "there is no image {wanted:?} on this node ({known}); bring it in with `bulkhead \
                 image pull NAME` or `bulkhead image import FILE`"
            )
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|image| short_id(&image.id)).collect();
            bail!(
                "{wanted:?} is the beginning of several: {}; give more of it",
                ids.join(", ")
            )
        }
    }
}

/// Whether a full name is what the user means by a short one: `busybox` stands for
/// `docker.io/library/busybox:latest`, as everywhere.
fn names_agree(full: &str, wanted: &str) -> bool {
    let tagged = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains(':') || last.contains('@') {
            name.to_owned()
        } else {
            format!("{name}:latest")
        }
    };
    let wanted = tagged(wanted);
    full == wanted
        || full.strip_prefix("docker.io/") == Some(&wanted)
        || full.strip_prefix("docker.io/library/") == Some(&wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str]) -> Image {
        Image {
            id: format!("sha256:{id}"),
            repo_tags: tags.iter().map(ToString::to_string).collect(),
            size: 1536,
            ..Default::default()
        }
    }

    #[test]
    fn short_names_mean_what_they_mean_elsewhere() {
        let full = "docker.io/library/busybox:latest";
        for wanted in [
            "busybox",
            "busybox:latest",
            "library/busybox",
            "docker.io/library/busybox",
        ] {
            assert!(names_agree(full, wanted), "{wanted}");
        }
        for wanted in ["box", "busybox:1", "localhost/busybox", "docker.io/busybox"] {
            assert!(!names_agree(full, wanted), "{wanted}");
        }
        assert!(names_agree("localhost:5000/a:latest", "localhost:5000/a"));
        assert!(names_agree("a/b@sha256:12", "a/b@sha256:12"));
    }

    #[test]
    fn images_are_found_by_name_and_by_the_beginning_of_their_id() {
        let images = [
            image("abcd1111", &["localhost/one:latest"]),
            image("abcd2222", &["docker.io/library/two:1"]),
        ];
        assert_eq!(choose(&images, "localhost/one").unwrap(), "localhost/one");
        assert_eq!(choose(&images, "two:1").unwrap(), "two:1");
        assert_eq!(choose(&images, "abcd2").unwrap(), "sha256:abcd2222");
        assert_eq!(choose(&images, "sha256:abcd1").unwrap(), "sha256:abcd1111");
        let error = choose(&images, "abcd").unwrap_err().to_string();
        assert!(error.contains("several"), "{error}");
        let error = choose(&images, "three").unwrap_err().to_string();
        assert!(
            error.contains("image import") && error.contains("localhost/one"),
            "{error}"
        );
        assert!(choose(&images, "abc").is_err(), "too short to be an id");
    }

    #[test]
    fn each_name_has_a_row_and_images_without_have_one() {
        let images = [image("abcd1111", &["b:1", "a:1"]), image("abcd2222", &[])];
        let rows = rows(&images);
        let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["-", "a:1", "b:1"]);
        assert_eq!(rows[1][2], "1.5 KiB");
    }

    #[test]
    fn what_was_imported_can_be_passed_on() {
        let images = [
            ImportedImage {
                id: "sha256:aa".to_owned(),
                references: vec!["x:1".to_owned(), "x:2".to_owned()],
                size_bytes: 1,
            },
            ImportedImage {
                id: "sha256:bb".to_owned(),
                references: vec![],
                size_bytes: 1,
            },
        ];
        assert_eq!(imported(&images), "x:1\nx:2\nsha256:bb\n");
    }
}
