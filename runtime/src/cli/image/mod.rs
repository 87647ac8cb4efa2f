//! `bulkhead image`: one file a command; here what they share, `ls` and `rm`.

mod check;
mod export;
mod import;
mod inspect;
mod progress;
mod prune;
mod pull;
mod usage;

use std::path::Path;

use anyhow::{Result, bail};
use bulkhead_cri_api::v1::{Image, ImageSpec, ListImagesRequest, RemoveImageRequest};
use serde::Serialize;

use super::args::{ImageAction, ImageArgs, OutputArgs};
use super::client::{Daemon, in_words};
use super::names::short_id;
use super::quantity::human_bytes;
use super::{Outcome, output};

pub(super) async fn image(socket: &Path, args: ImageArgs) -> Outcome {
    let mut daemon = Daemon::connect(socket).await?;
    match args.action {
        ImageAction::Import { file, name, quiet } => {
            import::import(&mut daemon, &file, name.unwrap_or_default(), quiet).await?;
        }
        ImageAction::Export {
            images,
            output,
            quiet,
        } => export::export(&mut daemon, &images, output.as_deref(), quiet).await?,
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
        ImageAction::Inspect { images, output } => {
            inspect::inspect(&mut daemon, &images, output.output).await?;
        }
        ImageAction::History { image, output } => {
            inspect::history(&mut daemon, &image, output.output).await?;
        }
        ImageAction::Du(OutputArgs { output }) => usage::du(&mut daemon, output).await?,
        ImageAction::Prune { dry_run } => prune::prune(&mut daemon, dry_run).await?,
        ImageAction::Check { repair, output } => {
            return check::check(&mut daemon, repair, output.output).await;
        }
    }
    Ok(0)
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
}
