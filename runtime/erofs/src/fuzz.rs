//! Bodies of fuzz targets: what must hold for any input at all.

use std::io::Cursor;

use crate::{Limits, Options, convert};

/// Converts any bytes as an archive. It must neither panic nor exceed small
/// limits, and what it accepts must come out the same twice.
pub fn archive(input: &[u8]) {
    let options = Options {
        limits: Limits {
            metadata_bytes: 1 << 20,
            entries: 10_000,
            data_bytes: 16 << 20,
            ..Limits::default()
        },
        uuid: [0; 16],
    };
    let mut first = Cursor::new(Vec::new());
    if let Ok(report) = convert(input, &mut first, &options) {
        let first = first.into_inner();
        assert_eq!(first.len() as u64, report.image_bytes);
        let mut second = Cursor::new(Vec::new());
        assert_eq!(convert(input, &mut second, &options).ok(), Some(report));
        assert!(first == second.into_inner(), "two conversions differ");
    }
}
