//! When a request that failed is made again.
//!
//! Source: RFC 9110, sections 10.2.3 (Retry-After), 15.5.9 (408), 15.6 (5xx); RFC 6585,
//! section 4 (429).

use std::time::Duration;

/// How often a request is made before its server is given up.
pub(crate) const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A server that wants to be left alone for longer is given up.
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// Whether a status may be another one the next time.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long to wait after the `failed`th try in a row, from 1; none to give up.
pub(crate) fn pause(failed: u32, wish: Option<Duration>) -> Option<Duration> {
    if failed >= TRIES {
        return None;
    }
    let own = FIRST_PAUSE
        .saturating_mul(1 << (failed.saturating_sub(1)).min(16))
        .min(LONGEST_PAUSE);
    match wish {
        Some(wish) if wish > LONGEST_WISH => None,
        Some(wish) => Some(wish.max(own)),
        None => Some(own),
    }
}

/// Parses `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let then = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    // One that has passed: at once.
    Some(Duration::try_from(then.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let pauses: Vec<_> = (1..=TRIES).map(|failed| pause(failed, None)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(pauses, [ms(250), ms(500), ms(1000), ms(2000), None]);
    }

    #[test]
    fn a_wish_is_honoured_within_reason() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(1, Some(seconds(7))), Some(seconds(7)));
        assert_eq!(pause(4, Some(seconds(0))), Some(seconds(2)));
        assert_eq!(pause(1, Some(seconds(3600))), None);
        assert_eq!(pause(TRIES, Some(seconds(1))), None);
    }

    #[test]
    fn wishes_are_seconds_or_dates() {
        let now: jiff::Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(date, now), Some(Duration::from_secs(7)));
        let later: jiff::Timestamp = "1995-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(retry_after(date, later), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "99999999999999999999"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense:?}");
        }
    }

    #[test]
    fn what_passes_and_what_stays() {
        assert!([408, 429, 500, 502, 503, 504].into_iter().all(is_passing));
        assert!(
            ![200, 301, 400, 401, 403, 404, 416, 501]
                .into_iter()
                .any(is_passing)
        );
    }
}
