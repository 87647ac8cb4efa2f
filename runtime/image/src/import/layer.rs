//! Conversion of one layer: checked, decompressed and written in one pass.
//!
//! ```text
//! blob ─► digest ─► decompress ─► bound ─► diff id ─► EROFS writer ─► file
//! ```

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bulkhead_erofs::Beneath;

use super::layers::Place;
use super::source::{Blob, check_digest};
use super::{LayerSource, Totals};
use crate::decompress::{Bounded, Decompressor};
use crate::digest::{Digest, HashingReader};
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::records::{Changes, LayerRecord};
use crate::space::Meter;
use crate::steps;
use crate::store::{self, Inner};

/// Report progress each time so many compressed bytes were read.
const REPORT_EVERY: u64 = 1 << 20;

/// Sees to it that the layer is in the store. `open` is called if it has to be
/// read, `beneath` if it leans on others, `report` with the compressed bytes read.
/// Returns what it is kept under, and what was done: one layer, made or here already.
///
/// Two imports that need one layer in one place at the same time convert it once: the
/// second waits for the first and, should that fail, does it itself.
pub(super) fn ensure(
    store: &Arc<Inner>,
    place: &Place,
    layer: &LayerSource,
    open: impl Fn() -> Result<Blob>,
    beneath: &dyn Beneath,
    report: &dyn Fn(u64, u64),
) -> Result<(Digest, Totals)> {
    let mut state = store.lock();
    loop {
        for key in place.keys() {
            if let Some(record) = state.layers.get(&key)
                && place.is(record)
                && std::fs::metadata(store.layer_path(record))
                    .is_ok_and(|meta| meta.len() == record.erofs_bytes)
            {
                let reused = Totals {
                    reused: 1,
                    ..Totals::default()
                };
                return Ok((key, reused));
            }
        }
        if state.converting.insert(place.chain_id) {
            break;
        }
        state = store.wait_converted(state);
    }
    drop(state);
    let _turn = Turn {
        store,
        chain_id: &place.chain_id,
    };
    convert(store, place, layer, open()?, beneath, report)
}

/// The right to convert a layer; others may when it is dropped.
struct Turn<'a> {
    store: &'a Inner,
    chain_id: &'a Digest,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.store.lock().converting.remove(self.chain_id);
        self.store.converted.notify_all();
    }
}

fn convert(
    store: &Inner,
    place: &Place,
    layer: &LayerSource,
    blob: Blob,
    beneath: &dyn Beneath,
    report: &dyn Fn(u64, u64),
) -> Result<(Digest, Totals)> {
    let diff_id = &place.diff_id;
    let what = || match &layer.expected {
        Some((digest, _)) => format!("layer {digest}"),
        None => format!("layer {:?}", layer.name),
    };
    if let Some((_, expected)) = layer.expected
        && expected != blob.size
    {
        return Err(Error::WrongSize {
            what: what(),
            expected,
            actual: blob.size,
        });
    }
    let limits = &store.limits;
    let total = blob.size;
    // A registry may say of any length that it is there.
    if total > limits.layer_bytes {
        return Err(Error::Limit {
            what: what(),
            limit: limits.layer_bytes,
            unit: "bytes compressed",
        });
    }
    let decompress_error = |source: io::Error| match Error::of_download(source) {
        Ok(error) => error,
        Err(source) => Error::Decompress {
            layer: what(),
            source,
        },
    };

    let input = HashingReader::new(Reporting {
        inner: blob.reader,
        report,
        done: 0,
        next: 0,
        total,
    });
    let decoder = match layer.compression {
        Some(compression) => Decompressor::new(input, compression, limits.zstd_window_log),
        None => Decompressor::detect(input, limits.zstd_window_log).map(|(decoder, _)| decoder),
    };
    let decoder = decoder.map_err(decompress_error)?;
    let mut archive = Uncompressed::new(decoder, limits.layer_bytes);

    let tmp_dir = store.tmp_dir();
    let file = tempfile::NamedTempFile::new_in(&tmp_dir).at("create a file in", &tmp_dir)?;
    let options = bulkhead_erofs::Options {
        limits: limits.erofs.clone(),
        uuid: uuid_of(diff_id),
    };
    let meter = Meter::new(store);
    let image = meter.over(file.as_file());
    let converted = bulkhead_erofs::convert_over(&mut archive, image, &options, beneath);
    // A download that broke off, and no room for more, say better what happened than the
    // digest of what came; and then the rest is not fetched.
    let converted = match converted {
        Ok(report) => Ok(report),
        Err(error) => Err(own(error)?),
    };

    let (own_diff_id, bounded) = archive.finish();
    let (exceeded, tar_bytes) = (bounded.exceeded(), bounded.passed());
    let mut decoder = bounded.into_inner().0;
    let is_limit = converted
        .as_ref()
        .is_err_and(bulkhead_erofs::Error::is_limit);
    // What is beyond a bound is refused whatever the rest of it is: it is not fetched.
    let drained = match exceeded || is_limit {
        true => Ok(0),
        // What follows the compressed stream counts for the digest as well. A wrong
        // digest is the better explanation of whatever went wrong with the content.
        false => io::copy(decoder.get_mut(), &mut io::sink()),
    };
    let (digest, read, _) = decoder.into_input().finish();
    if exceeded {
        let limit = limits.layer_bytes;
        return Err(Error::Limit {
            what: what(),
            limit,
            unit: "bytes decompressed",
        });
    }
    if let (Ok(_), Some((expected, _)), false) = (&drained, &layer.expected, is_limit) {
        check_digest(what, expected, &digest)?;
    }
    let converted = converted.map_err(|error| match error {
        bulkhead_erofs::Error::Read(source) => decompress_error(source),
        source => Error::Layer {
            layer: what(),
            source,
        },
    })?;
    drained.map_err(decompress_error)?;
    check_digest(
        || format!("{} (uncompressed)", what()),
        diff_id,
        &own_diff_id.unwrap_or(digest),
    )?;
    if converted.dropped_xattrs > 0 || converted.implied_directories > 1 {
        tracing::debug!(
            layer = %diff_id,
            dropped_xattrs = converted.dropped_xattrs,
            implied_directories = converted.implied_directories,
            "layer is not as it would be unpacked"
        );
    }

    let (_, sum) = store::sum_of(file.path())?;
    steps::reached("layer written");
    // Layers hold no secret from who may enter the store's directory, and VMMs
    // that are given one run under users of their own.
    let readable = std::fs::Permissions::from_mode(0o444);
    file.as_file()
        .set_permissions(readable)
        .at("change the mode of", file.path())?;
    let (leans, bytes) = (converted.leans, converted.image_bytes);
    let record = LayerRecord::new(*diff_id, leans, place.base, bytes, tar_bytes, sum);
    let key = record.key();
    files::persist(file, &store.layer_path(&record))?;
    steps::reached("layer renamed");
    store.records.commit(&Changes {
        put_layers: vec![&record],
        ..Changes::default()
    })?;
    steps::reached("layer recorded");
    store.lock().layers.insert(key, record);
    let done = Totals {
        read,
        written: converted.image_bytes,
        converted: 1,
        reused: 0,
    };
    Ok((key, done))
}

/// An error of ours that went through the writer; any other as it was.
fn own(error: bulkhead_erofs::Error) -> Result<bulkhead_erofs::Error> {
    use bulkhead_erofs::Error as Writer;
    let (error, again): (_, fn(io::Error) -> Writer) = match error {
        Writer::Read(error) => (error, Writer::Read),
        Writer::Write(error) => (error, Writer::Write),
        Writer::Beneath(error) => (error, Writer::Beneath),
        other => return Ok(other),
    };
    match Error::of_download(error) {
        Ok(ours) => Err(ours),
        Err(error) => Ok(again(error)),
    }
}

/// The layer's archive on its way, hashed for its diff id. Of one that is not compressed
/// the blob's digest is that, too: it is hashed once.
enum Uncompressed<R: Read> {
    Hashed(HashingReader<Bounded<Whole<R>>>),
    AsStored(Bounded<Whole<R>>),
}

impl<R: Read> Uncompressed<R> {
    /// What comes out of `decoder`, and fails beyond `max` bytes.
    fn new(decoder: Decompressor<R>, max: u64) -> Self {
        let plain = matches!(decoder, Decompressor::None(_));
        let bounded = Bounded::new(Whole(decoder), max);
        match plain {
            true => Self::AsStored(bounded),
            false => Self::Hashed(HashingReader::new(bounded)),
        }
    }

    /// The digest, where it is another one than the blob's.
    fn finish(self) -> (Option<Digest>, Bounded<Whole<R>>) {
        match self {
            Self::Hashed(reader) => {
                let (digest, _, bounded) = reader.finish();
                (Some(digest), bounded)
            }
            Self::AsStored(bounded) => (None, bounded),
        }
    }
}

impl<R: Read> Read for Uncompressed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Hashed(reader) => reader.read(buf),
            Self::AsStored(reader) => reader.read(buf),
        }
    }
}

/// A decompressor that, once its stream has ended, reads what follows it: a layer may
/// wait for others at its end, and must not keep a download open meanwhile.
struct Whole<R: Read>(Decompressor<R>);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        if n == 0 && !buf.is_empty() {
            io::copy(self.0.get_mut(), &mut io::sink())?;
        }
        Ok(n)
    }
}

/// A UUID from the layer's identity, of version 8 (RFC 9562, section 5.8).
fn uuid_of(diff_id: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&diff_id.bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

struct Reporting<'a> {
    inner: Box<dyn Read>,
    report: &'a dyn Fn(u64, u64),
    done: u64,
    next: u64,
    total: u64,
}

impl Read for Reporting<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.done += n as u64;
        if self.done >= self.next {
            (self.report)(self.done, self.total);
            self.next = self.done + REPORT_EVERY;
        }
        Ok(n)
    }
}
