//! Bodies of fuzz targets: what must hold for any input at all.

use crate::{blob, challenge, keyless, retry};

/// Reads what a registry says in its headers.
pub fn headers(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    // Each challenge takes some of the text.
    assert!(challenge::parse(text).len() <= text.len());
    let _ = retry::retry_after(text, jiff::Timestamp::UNIX_EPOCH);
    let _ = blob::begin(text);
}

/// Reads what lies beside a signature: an entry of a log, or a certificate.
pub fn signature(input: &[u8]) {
    keyless::fuzz(input);
}
