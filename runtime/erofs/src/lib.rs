//! Streaming writer of EROFS images from layer tarballs, and a reader of them.
//!
//! [`convert`] reads an uncompressed layer archive once, front to back, and
//! writes an EROFS image: file content as it arrives, directories and inodes at
//! the end, the superblock last. Nothing is unpacked, and memory is bounded by
//! [`Limits`] whatever the archive says.
//!
//! The image is uncompressed and plain enough for any kernel since 5.15: blocks
//! of 4096 bytes, extended inodes, inline tails for directories and link
//! targets, chunks for sparse files. OCI whiteouts become those of overlayfs:
//! `.wh.NAME` a character device 0:0, `.wh..wh..opq` the attribute
//! `trusted.overlay.opaque`.
//!
//! The same archive gives the same bytes: there are no times, random ids or
//! addresses in the image but those of the archive.
//!
//! ```text
//!   tar stream ─► tar::TarReader ─► build::Builder ─► finish ─► image
//!                 (form)            (meaning, content) (inodes)
//!                                        ▲
//!                                       lean ◄─ below ◄─ read ◄─ layers beneath
//! ```

#![forbid(unsafe_code)]
// Tests say what they expect by unwrapping it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arena;
mod below;
mod build;
mod data;
mod disk;
mod error;
mod export;
mod finish;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
mod lean;
mod limits;
pub mod read;
pub mod tar;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tree;
mod xattr;

use std::io::{self, BufReader, Read, Seek, Write};

pub use below::{Beneath, Nothing};
pub use error::{ArchiveFault, EntryFault, Error, Name};
pub use export::export;
pub use limits::Limits;

/// Changes whenever the same layer would give other bytes.
pub const WRITER_VERSION: u32 = 2;

/// Read at once for headers; payloads are read directly into place.
const READ_BUFFER: usize = 64 * 1024;

/// How to convert.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Bounds on the layer.
    pub limits: Limits,
    /// The file system's UUID. Derive it from the layer's digest, or leave it
    /// zero.
    pub uuid: [u8; 16],
}

/// What was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Entries of the archive.
    pub entries: u64,
    /// Inodes of the image.
    pub inodes: u64,
    /// Length of the image in bytes, a multiple of 4096.
    pub image_bytes: u64,
    /// Whiteouts of single names.
    pub whiteouts: u64,
    /// Directories that neither the archive nor a layer beneath it has an entry for. They
    /// are owned by root with mode 0755.
    pub implied_directories: u64,
    /// Whether the image depends on the layers beneath it, too: the layer has hard links
    /// to their files, or entries in their directories.
    pub leans: bool,
    /// Extended attributes that were dropped (see the `xattr` module).
    pub dropped_xattrs: u64,
}

/// Converts a base layer: [`convert_over`] with nothing beneath it.
///
/// # Errors
/// As of [`convert_over`].
pub fn convert<R: Read, W: Write + Seek>(
    archive: R,
    image: W,
    options: &Options,
) -> Result<Report, Error> {
    convert_over(archive, image, options, &Nothing)
}

/// Converts a layer archive into an EROFS image. `beneath` is what the layer is on.
///
/// `archive` is read to its end, also past the end of the tar archive in it, so
/// that a digest over the whole can be checked. `image` must be empty, with its
/// position at the start: runs of zeros are skipped by seeking.
///
/// # Errors
/// Whatever the error, what was written so far is of no use.
pub fn convert_over<R: Read, W: Write + Seek>(
    archive: R,
    image: W,
    options: &Options,
    beneath: &dyn Beneath,
) -> Result<Report, Error> {
    let limits = &options.limits;
    // Block numbers have 32 bits, of which the last stands for holes.
    let max = limits
        .data_bytes
        .min(u64::from(u32::MAX - 1) * disk::BLOCK as u64);
    let mut archive = tar::TarReader::new(BufReader::with_capacity(READ_BUFFER, archive));
    let mut builder = build::Builder::new(data::ImageWriter::new(image, max), limits);
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            let limit = limits.entries;
            return Err(Error::Limit {
                what: "the number of entries",
                limit,
                unit: "entries",
            });
        }
        builder.add(entry, &mut archive)?;
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(Error::Read)?;
    let (whiteouts, dropped_xattrs) = (builder.whiteouts, builder.dropped_xattrs);
    let mut lean = lean::Lean::new(beneath);
    let finished = finish::finish(builder, &mut lean, options.uuid)?;
    drop(finished.out);
    Ok(Report {
        entries,
        inodes: finished.inodes,
        image_bytes: u64::from(finished.blocks) * disk::BLOCK as u64,
        whiteouts,
        implied_directories: finished.implied_directories,
        leans: lean.leans,
        dropped_xattrs,
    })
}
