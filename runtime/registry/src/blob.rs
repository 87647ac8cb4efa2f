//! A blob's bytes: a download that goes on where it broke off.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE},
};

use bulkhead_image::Digest;

use crate::{
    error::{Attempt, Error, Kind, Result},
    server::{self, Shared},
};

/// How often a download may break off without a byte in between.
const BREAKS_MAX: u32 = 5;
/// How often in all: a server that sends a byte at a time is left.
const BREAKS_IN_ALL_MAX: u32 = 200;
/// What comes more slowly than this, in bytes a second, counts as broken off: a server
/// could keep a pull for ever with a byte now and then.
const RATE_MIN: u64 = 1 << 10;

/// A download. Nothing is verified here: whoever stores it does that as it comes.
#[derive(Debug)]
pub struct Blob {
    servers: Vec<Shared>,
    repository: String,
    digest: Digest,
    size: u64,
    /// How much has been given out.
    offset: u64,
    /// What is being read, and from which server.
    response: Option<(Response, usize)>,
    /// Of an answer that had to be passed over in part: what comes first.
    rest: Option<Bytes>,
    /// Breaks since the last byte.
    breaks: u32,
    breaks_in_all: u32,
    /// How long a download may be slow.
    patience: Duration,
    /// Since when, and from which byte on, its rate is taken.
    rated: Option<(Instant, u64)>,
    /// How often it was too slow.
    slow: u32,
}

impl Blob {
    pub(crate) fn new(
        servers: Vec<Shared>,
        repository: &str,
        digest: Digest,
        size: u64,
        patience: Duration,
    ) -> Self {
        Self {
            servers,
            repository: repository.to_owned(),
            digest,
            size,
            offset: 0,
            response: None,
            rest: None,
            breaks: 0,
            breaks_in_all: 0,
            patience,
            rated: None,
            slow: 0,
        }
    }

    /// Whether all of it was given out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.offset >= self.size
    }

    /// The next bytes, none at the end: `size` of them in all, never more.
    ///
    /// # Errors
    /// No server has it, or all of them break off again and again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.size {
            if self.response.is_none() {
                self.response = Some(self.open().await?);
                self.rated = None;
            }
            let Some((response, _)) = &mut self.response else {
                continue;
            };
            let next = match self.rest.take() {
                Some(rest) => Ok(Some(rest)),
                None => response.chunk().await,
            };
            let why = match next {
                Ok(Some(bytes)) if bytes.is_empty() => continue,
                Ok(Some(mut bytes)) => {
                    let rest = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
                    bytes.truncate(rest);
                    self.offset += bytes.len() as u64;
                    self.breaks = 0;
                    if self.is_slow() {
                        self.slow += 1;
                        let seconds = self.patience.as_secs_f32();
                        self.broke(format!(
                            "less than {RATE_MIN} bytes a second for {seconds} s"
                        ))?;
                    }
                    return Ok(Some(bytes));
                }
                Ok(None) => format!("it ends after {} of {} bytes", self.offset, self.size),
                Err(error) => server::without_url(error),
            };
            self.broke(why)?;
        }
        Ok(None)
    }

    /// Opens it at the offset, at the first server that gives it.
    async fn open(&mut self) -> Result<(Response, usize)> {
        let what = format!("blobs/{}", self.digest);
        let mut failed = Vec::new();
        // One that broke off is not the first to be asked again.
        let turn = usize::try_from(self.breaks_in_all).unwrap_or(0);
        let order = (0..self.servers.len()).map(|n| (n + turn) % self.servers.len());
        for (n, server) in order.filter_map(|n| Some((n, self.servers.get(n)?))) {
            let mut headers = HeaderMap::new();
            if self.offset > 0
                && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.offset))
            {
                headers.insert(RANGE, range);
            }
            let mut response = match server.get(&self.repository, &what, &headers).await {
                Ok(response) => response,
                Err(attempt) => {
                    failed.push(attempt);
                    continue;
                }
            };
            match come_to(&mut response, self.offset, self.patience).await {
                Ok(rest) => {
                    self.rest = rest;
                    return Ok((response, n));
                }
                Err(why) => {
                    let url = server.endpoint.url(&self.repository, &what);
                    failed.push(server.attempt(&url, Kind::Unavailable, why));
                }
            }
        }
        Err(self.failed(failed))
    }

    /// Whether what came since the rate was last taken came too slowly. Time in which
    /// nobody asked for bytes counts as well: whoever stores them is faster than that.
    fn is_slow(&mut self) -> bool {
        let (since, from) = *self.rated.get_or_insert((Instant::now(), self.offset));
        let elapsed = since.elapsed();
        if elapsed < self.patience || self.offset == self.size {
            return false;
        }
        self.rated = None;
        is_too_slow(self.offset - from, elapsed)
    }

    fn broke(&mut self, why: String) -> Result<()> {
        self.breaks += 1;
        self.breaks_in_all += 1;
        tracing::debug!(digest = %self.digest, offset = self.offset, why, "download broke off");
        let broken = self.response.take();
        let often = self.breaks >= BREAKS_MAX || self.slow >= BREAKS_MAX;
        if !often && self.breaks_in_all < BREAKS_IN_ALL_MAX {
            return Ok(());
        }
        let attempt = broken.and_then(|(response, n)| {
            let server = self.servers.get(n)?;
            Some(server.attempt(response.url(), Kind::Unavailable, why))
        });
        Err(self.failed(attempt.into_iter().collect()))
    }

    fn failed(&self, attempts: Vec<Attempt>) -> Error {
        Error::Failed {
            what: format!("blob {} of {}", self.digest, self.repository),
            attempts,
        }
    }
}

fn is_too_slow(bytes: u64, elapsed: Duration) -> bool {
    u128::from(bytes) * 1000 < u128::from(RATE_MIN) * elapsed.as_millis()
}

/// Sees to it that what comes next of an answer is the byte at `offset`. A server may
/// send all of it where a part was asked for: what was there before is passed over,
/// and what of the last piece was not is returned.
async fn come_to(
    response: &mut Response,
    offset: u64,
    patience: Duration,
) -> std::result::Result<Option<Bytes>, String> {
    if offset == 0 {
        return Ok(None);
    }
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = response.headers().get(CONTENT_RANGE);
        let range = range.and_then(|it| it.to_str().ok()).unwrap_or_default();
        return match begin(range) {
            Some(begin) if begin == offset => Ok(None),
            _ => Err(format!(
                "it sends {range:?} where bytes from {offset} on were asked for"
            )),
        };
    }
    let mut left = offset;
    let began = Instant::now();
    loop {
        let (elapsed, passed) = (began.elapsed(), offset - left);
        if elapsed > patience && is_too_slow(passed, elapsed) {
            return Err(format!("less than {RATE_MIN} bytes a second"));
        }
        match response.chunk().await {
            Ok(Some(mut bytes)) if bytes.len() as u64 > left => {
                let at = usize::try_from(left).unwrap_or(usize::MAX);
                return Ok(Some(bytes.split_off(at)));
            }
            Ok(Some(bytes)) => left -= bytes.len() as u64,
            Ok(None) => return Err(format!("it ends before byte {offset}")),
            Err(error) => return Err(server::without_url(error)),
        }
    }
}

/// Where a part begins (RFC 9110, section 14.4).
pub(crate) fn begin(range: &str) -> Option<u64> {
    let (begin, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    begin.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_say_where_they_begin() {
        assert_eq!(begin("bytes 5-9/10"), Some(5));
        assert_eq!(begin("bytes 0-0/*"), Some(0));
        for wrong in ["", "bytes */10", "5-9/10", "bytes x-9/10", "bytes 5"] {
            assert_eq!(begin(wrong), None, "{wrong:?}");
        }
    }
}
