//! Times as the CRI counts them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in nanoseconds, by the host's clock.
#[must_use]
pub fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
