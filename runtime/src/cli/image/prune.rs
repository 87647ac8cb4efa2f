//! `bulkhead image prune`: removes images that no container uses.

use std::collections::HashSet;
use std::io::{self, Write as _};

use anyhow::Result;
use bulkhead_cri_api::v1::{Image, ImageSpec, ListContainersRequest, RemoveImageRequest};

use super::super::client::{Daemon, in_words};
use super::super::output;
use super::super::quantity::human_bytes;
use super::list;

/// Removes them, or with `dry_run` only says which. A container that is created
/// meanwhile keeps the layers that it uses.
pub(super) async fn prune(daemon: &mut Daemon, dry_run: bool) -> Result<()> {
    let request = ListContainersRequest::default();
    let containers = daemon.runtime.list_containers(request).await;
    let containers = containers.map_err(|status| in_words(&status))?.into_inner();
    let used = containers.containers.into_iter().map(|it| it.image_id);
    let images = unused(list(daemon).await?, &used.collect());
    let mut bytes = 0;
    for image in &images {
        bytes += image.size;
        if !dry_run {
            let image = Some(ImageSpec {
                image: image.id.clone(),
                ..ImageSpec::default()
            });
            let request = RemoveImageRequest { image };
            let answer = daemon.images.remove_image(request).await;
            answer.map_err(|status| in_words(&status))?;
        }
        let name = image.repo_tags.first().unwrap_or(&image.id);
        output::print_text(&format!("{name}\n"))?;
    }
    let (count, size) = (images.len(), human_bytes(bytes));
    let done = if dry_run {
        "would be removed"
    } else {
        "removed"
    };
    writeln!(
        io::stderr(),
        "{count} images {done}, {size} with what they share"
    )?;
    Ok(())
}

/// Those that no container is of, and that are not pinned.
fn unused(images: Vec<Image>, used: &HashSet<String>) -> Vec<Image> {
    images
        .into_iter()
        .filter(|image| !image.pinned && !used.contains(&image.id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_or_pinned_stays() {
        let image = |id: &str, pinned| Image {
            id: id.to_owned(),
            pinned,
            ..Image::default()
        };
        let images = vec![
            image("used", false),
            image("kept", true),
            image("old", false),
        ];
        let left = unused(images, &HashSet::from(["used".to_owned()]));
        assert_eq!(left, [image("old", false)]);
    }
}
