//! `bulkhead image du`: what images take on disk, and what they share.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::super::args::Format;
use super::super::client::Daemon;
use super::super::output;
use super::super::quantity::human_bytes;
use super::{inspect, list};

/// What an image takes.
#[derive(Debug, PartialEq, Serialize)]
struct Usage {
    id: String,
    name: String,
    size_bytes: u64,
    /// Of layers that other images have, too.
    shared_bytes: u64,
    /// What its removal would free.
    unique_bytes: u64,
}

#[derive(Debug, Serialize)]
struct All {
    images: Vec<Usage>,
    /// Each layer counted once.
    total_bytes: u64,
}

pub(super) async fn du(daemon: &mut Daemon, format: Format) -> Result<()> {
    let mut images = Vec::new();
    for image in list(daemon).await? {
        let (image, info) = inspect::whole(daemon, &image.id).await?;
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        let name = names.map(String::as_str).next().unwrap_or("-").to_owned();
        images.push((image.id, name, layers(&info)));
    }
    let all = count(images);
    let columns = ["IMAGE", "SIZE", "SHARED", "UNIQUE"];
    output::print(format, &all, &columns, || {
        let row = |name: &str, bytes: [u64; 3]| {
            let [size, shared, unique] = bytes.map(human_bytes);
            vec![name.to_owned(), size, shared, unique]
        };
        let mut rows: Vec<_> = all
            .images
            .iter()
            .map(|it| row(&it.name, [it.size_bytes, it.shared_bytes, it.unique_bytes]))
            .collect();
        let unique = all.images.iter().map(|it| it.unique_bytes).sum::<u64>();
        let shared = all.total_bytes.saturating_sub(unique);
        rows.push(row("in all", [all.total_bytes, shared, unique]));
        rows
    })
}

/// Layers' files and their bytes.
fn layers(info: &Value) -> Vec<(String, u64)> {
    let layers = info.get("layers").and_then(Value::as_array);
    let layer = |layer: &Value| {
        let id = layer.get("file")?.as_str()?;
        Some((id.to_owned(), layer.get("erofsBytes")?.as_u64()?))
    };
    layers.into_iter().flatten().filter_map(layer).collect()
}

/// An image's id, name and layers.
type Listed = (String, String, Vec<(String, u64)>);

fn count(images: Vec<Listed>) -> All {
    let mut users: HashMap<String, (u64, u32)> = HashMap::new();
    for (id, bytes) in images.iter().flat_map(|(.., layers)| layers) {
        let entry = users.entry(id.clone()).or_insert((*bytes, 0));
        entry.1 += 1;
    }
    let mut all = All {
        images: Vec::new(),
        total_bytes: users.values().map(|(bytes, _)| bytes).sum(),
    };
    for (id, name, layers) in images {
        let is_shared = |id: &String| users.get(id).is_some_and(|(_, users)| *users > 1);
        let size = layers.iter().map(|(_, bytes)| bytes).sum();
        let shared = layers.iter().filter(|(id, _)| is_shared(id));
        let shared = shared.map(|(_, bytes)| bytes).sum();
        all.images.push(Usage {
            id,
            name,
            size_bytes: size,
            shared_bytes: shared,
            unique_bytes: size.saturating_sub(shared),
        });
    }
    all.images.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_counts_once() {
        let layer = |id: &str, bytes| (id.to_owned(), bytes);
        let image = |name: &str, layers| (name.to_owned(), name.to_owned(), layers);
        let all = count(vec![
            image("b", vec![layer("base", 10), layer("b", 2)]),
            image("a", vec![layer("base", 10), layer("a", 1)]),
            image("empty", vec![]),
        ]);
        assert_eq!(all.total_bytes, 13);
        let seen: Vec<_> = all
            .images
            .iter()
            .map(|it| {
                (
                    it.name.as_str(),
                    it.size_bytes,
                    it.shared_bytes,
                    it.unique_bytes,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [("a", 11, 10, 1), ("b", 12, 10, 2), ("empty", 0, 0, 0)]
        );
    }
}
