//! `bulkhead image inspect` and `history`: what the daemon knows of an image.

use anyhow::{Context, Result, anyhow};
use bulkhead_cri_api::v1::{Image, ImageSpec, ImageStatusRequest};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::args::Format;
use super::super::client::{Daemon, in_words};
use super::super::names::short_id;
use super::super::output;
use super::super::quantity::human_bytes;
use super::find;

/// An image, and what ImageStatus says of it when it is asked to say all.
pub(super) async fn whole(daemon: &mut Daemon, wanted: &str) -> Result<(Image, Value)> {
    let image = find(daemon, wanted).await?;
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image,
            ..ImageSpec::default()
        }),
        verbose: true,
    };
    let answer = daemon.images.image_status(request).await;
    let answer = answer.map_err(|status| in_words(&status))?.into_inner();
    let image = answer
        .image
        .ok_or_else(|| anyhow!("image {wanted:?} was removed meanwhile"))?;
    let info = answer.info.get("info").map_or("null", String::as_str);
    let info = serde_json::from_str(info).context("the daemon's answer is not JSON")?;
    Ok((image, info))
}

/// All of each image; as JSON where no other form is asked for.
pub(super) async fn inspect(daemon: &mut Daemon, images: &[String], format: Format) -> Result<()> {
    let mut all = Vec::new();
    for wanted in images {
        let (image, info) = whole(daemon, wanted).await?;
        all.push(json!({
            "id": image.id,
            "tags": image.repo_tags,
            "digests": image.repo_digests,
            "size_bytes": image.size,
            "pinned": image.pinned,
            "info": info,
        }));
    }
    let format = match format {
        Format::Table => Format::Json,
        other => other,
    };
    output::print(format, &all, &[], Vec::new)
}

/// A step of an image's building, and the layer that it made.
#[derive(Debug, PartialEq, Serialize)]
struct Step {
    created: String,
    created_by: String,
    comment: String,
    layer: Option<String>,
    size_bytes: u64,
}

pub(super) async fn history(daemon: &mut Daemon, wanted: &str, format: Format) -> Result<()> {
    let (_, info) = whole(daemon, wanted).await?;
    let steps = steps(&info);
    let columns = ["CREATED", "LAYER", "SIZE", "CREATED BY"];
    output::print(format, &steps, &columns, || steps.iter().map(row).collect())
}

/// The last step first. Layers that no step tells of come last.
fn steps(info: &Value) -> Vec<Step> {
    let list = |key: &str| info.get(key).and_then(Value::as_array).cloned();
    let mut layers = list("layers").unwrap_or_default().into_iter();
    let mut steps = Vec::new();
    for told in list("history").unwrap_or_default() {
        let text = |key: &str| {
            let text = told.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let empty = told.get("empty_layer").and_then(Value::as_bool);
        let layer = match empty {
            Some(true) => None,
            _ => layers.next(),
        };
        steps.push(step(
            (text("created"), text("created_by"), text("comment")),
            layer.as_ref(),
        ));
    }
    steps.extend(layers.map(|layer| step(Default::default(), Some(&layer))));
    steps.reverse();
    steps
}

fn step((created, created_by, comment): (String, String, String), layer: Option<&Value>) -> Step {
    let id = layer.and_then(|layer| layer.get("diffID")?.as_str());
    let size = layer.and_then(|layer| layer.get("erofsBytes")?.as_u64());
    Step {
        created,
        created_by,
        comment,
        layer: id.map(str::to_owned),
        size_bytes: size.unwrap_or(0),
    }
}

fn row(step: &Step) -> Vec<String> {
    let or_none = |text: &str| match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    };
    let layer = step.layer.as_deref().map_or("-", short_id);
    vec![
        or_none(&step.created),
        layer.to_owned(),
        human_bytes(step.size_bytes),
        or_none(step.created_by.trim()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_find_their_layers() {
        let info = json!({
            "history": [
                { "created_by": "ADD base", "created": "2024-01-01T00:00:00Z" },
                { "created_by": "ENV A=b", "empty_layer": true },
                { "created_by": "RUN make" },
            ],
            "layers": [
                { "diffID": "sha256:aa", "erofsBytes": 1 },
                { "diffID": "sha256:bb", "erofsBytes": 2 },
                { "diffID": "sha256:cc", "erofsBytes": 3 },
            ],
        });
        let steps = steps(&info);
        let seen: Vec<_> = steps
            .iter()
            .map(|step| {
                (
                    step.created_by.as_str(),
                    step.layer.as_deref(),
                    step.size_bytes,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("", Some("sha256:cc"), 3),
                ("RUN make", Some("sha256:bb"), 2),
                ("ENV A=b", None, 0),
                ("ADD base", Some("sha256:aa"), 1),
            ]
        );
        assert_eq!(super::steps(&Value::Null), []);
    }
}
