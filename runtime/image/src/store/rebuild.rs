//! A database that is lost, made anew from the files.
//!
//! An image's configuration names its layers, and layers' files are named by their
//! keys: which images there are, and what they are made of, can be told without the
//! database. Their names can't; a pull brings them back, and fetches nothing but the
//! manifest for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::check;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::import::{Place, places};
use crate::limits::Limits;
use crate::records::{Changes, ImageRecord, LayerRecord, Loaded, Records};

/// The database's file in the store.
const DATABASE: &str = "images.redb";
/// One that is being made.
const NEW: &str = "images.redb.new";
/// How one that can't be read is kept.
const DAMAGED: &str = "images.redb.damaged";

/// Opens the database and reads it; one that is missing or damaged is made anew. Returns
/// what is to be told of that, too.
///
/// # Errors
/// It is in use, or can't be written.
pub(super) fn open(dir: &Path, limits: &Limits) -> Result<(Records, Loaded, Option<String>)> {
    let path = dir.join(DATABASE);
    let layers = layers(dir)?;
    let read = |path: &Path| {
        let records = Records::open(path)?;
        let loaded = records.load()?;
        Ok((records, loaded))
    };
    let lost = match fs::metadata(&path) {
        // One of no length was made and never written.
        Ok(meta) if meta.len() > 0 || layers.is_empty() => match read(&path) {
            Ok((records, loaded)) => return Ok((records, loaded, None)),
            Err(Error::Database {
                reason,
                damaged: true,
                ..
            }) => {
                // It is somebody's to look at.
                let kept = dir.join(DAMAGED);
                fs::rename(&path, &kept).at("rename", &path)?;
                let (path, kept) = (path.display(), kept.display());
                format!("{path}: {reason}; it is kept as {kept}")
            }
            Err(error) => return Err(error),
        },
        Ok(_) => format!("{} is empty", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if layers.is_empty() {
                // A new store.
                let (records, loaded) = read(&path)?;
                return Ok((records, loaded, None));
            }
            format!("{} is missing", path.display())
        }
        Err(error) => return Err(Error::io("look at", &path, error)),
    };
    // Whole or not at all: a database without records would have every layer removed.
    let new = dir.join(NEW);
    files::remove_file(&new)?;
    let count = {
        let (images, layers) = images(dir, limits, &layers)?;
        let records = Records::open(&new)?;
        records.commit(&Changes {
            put_images: images.iter().collect(),
            put_layers: layers.iter().collect(),
            ..Changes::default()
        })?;
        images.len()
    };
    fs::rename(&new, &path).at("rename", &new)?;
    files::sync_dir(dir)?;
    let told = format!(
        "{lost}; {count} images were found again by their files, without their names: pull \
         them again, which fetches no layer"
    );
    tracing::error!("{told}");
    let (records, loaded) = read(&path)?;
    Ok((records, loaded, Some(told)))
}

/// A layer's file: its name has its key, and who wrote it.
struct Found {
    path: PathBuf,
    writer: u32,
}

fn layers(dir: &Path) -> Result<BTreeMap<Digest, Found>> {
    let dir = dir.join("layers");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let path = entry.at("list", &dir)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((key, writer)) = name.and_then(parse) else {
            continue;
        };
        found.insert(key, Found { path, writer });
    }
    Ok(found)
}

/// `KEY.vWRITER.erofs`: see [`LayerRecord::file_name`].
fn parse(name: &str) -> Option<(Digest, u32)> {
    let (key, writer) = name.strip_suffix(".erofs")?.split_once(".v")?;
    Some((Digest::from_hex(key).ok()?, writer.parse().ok()?))
}

/// Images whose layers all have files, and the layers that can be read. An image keeps its
/// other layers if one can't be: it is damaged then, and a pull fetches only what is missing.
fn images(
    dir: &Path,
    limits: &Limits,
    found: &BTreeMap<Digest, Found>,
) -> Result<(Vec<ImageRecord>, Vec<LayerRecord>)> {
    let blobs = dir.join("blobs/sha256");
    let (mut images, mut layers) = (Vec::new(), BTreeMap::new());
    for entry in fs::read_dir(&blobs).at("list", &blobs)? {
        let path = entry.at("list", &blobs)?.path();
        let Ok(json) = files::read_bounded(&path, limits.config_bytes) else {
            continue;
        };
        let id = Digest::of(&json);
        let named = path.file_name().is_some_and(|name| *name == *id.hex());
        let Some(config) = ImageConfig::parse(&json).ok().filter(|_| named) else {
            // A manifest, or something damaged.
            continue;
        };
        let places = places(&config.diff_ids);
        let key_of = |place: &Place| place.keys().into_iter().find(|key| found.contains_key(key));
        let Some(keys) = places.iter().map(key_of).collect::<Option<Vec<_>>>() else {
            continue;
        };
        for (place, key) in places.iter().zip(&keys) {
            if !layers.contains_key(key)
                && let Some(record) = found.get(key).and_then(|file| record(place, key, file))
            {
                layers.insert(*key, record);
            }
            // What is on something and has its own name does not lean on that.
            if let Some(layer) = layers.get_mut(key)
                && place.base.is_some()
                && *key == place.diff_id
            {
                layer.leans = false;
            }
        }
        let mut image = ImageRecord::new(id);
        image.layers = crate::import::stack(&keys);
        image.blobs = vec![id];
        image.imported_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        images.push(image);
    }
    Ok((images, layers.into_values().collect()))
}

fn record(place: &Place, key: &Digest, file: &Found) -> Option<LayerRecord> {
    let (bytes, sum) = check::sum_of(&file.path).ok()?;
    // Of one that is on nothing it can't be told: then nobody else gets it.
    let leans = *key == place.chain_id;
    // How long the archive was is lost.
    Some(LayerRecord {
        writer: file.writer,
        ..LayerRecord::new(place.diff_id, leans, place.base, bytes, 0, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers() {
        let key = Digest::of(b"x");
        let record = LayerRecord::new(key, false, None, 0, 0, 0);
        assert_eq!(parse(&record.file_name()), Some((key, record.writer)));
        for wrong in ["", "x.v1.erofs", "x", &format!("{}.erofs", key.hex())] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
