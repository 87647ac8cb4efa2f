//! Bodies of fuzz targets: what must hold for any input at all.

use crate::config::ImageConfig;
use crate::decompress::{Bounded, Decompressor};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::manifest::{Compression, Document, parse_docker};
use crate::reference::Reference;

/// Parses a manifest or index, what docker archives have in their place, and an
/// image configuration.
pub fn manifests(input: &[u8]) {
    let limits = Limits::default();
    match Document::parse(input, "input", &limits) {
        Ok(Document::Manifest(manifest)) => {
            for layer in &manifest.layers {
                let _ = Compression::of_layer(layer);
            }
        }
        Ok(Document::Index(entries)) => assert!(entries.len() <= limits.index_entries),
        Err(error) => drop(error.to_string()),
    }
    let _ = parse_docker(input, &limits);
    if let Ok(config) = ImageConfig::parse(input) {
        assert!(config.diff_ids.len() <= crate::config::LAYERS_MAX);
    }
}

/// Parses a reference; its normal form must parse to the same.
pub fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string());
        assert_eq!(again.as_ref(), Ok(&reference));
    }
    let _ = text.parse::<Digest>();
}

/// Decompresses a layer of any form and converts what comes out.
pub fn layer(input: &[u8]) {
    let Ok((decoder, _)) = Decompressor::detect(input, 20) else {
        return;
    };
    let limits = bulkhead_erofs::Limits {
        metadata_bytes: 1 << 20,
        entries: 10_000,
        data_bytes: 16 << 20,
        ..bulkhead_erofs::Limits::default()
    };
    let options = bulkhead_erofs::Options {
        limits,
        ..Default::default()
    };
    let archive = Bounded::new(decoder, 32 << 20);
    let _ = bulkhead_erofs::convert(archive, std::io::Cursor::new(Vec::new()), &options);
}
