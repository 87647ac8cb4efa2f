//! CPU time to cores: how much was used over the time between two samples. Pure.

use std::collections::BTreeMap;

/// Shortest time that a rate is taken over, ns: what is asked for in between gets
/// the last one again, for a shorter time measures the scheduler's whims.
const SPAN_MIN_NS: i64 = 500_000_000;

/// The rates of several counters, by name.
#[derive(Debug, Default)]
pub(super) struct Rates {
    of: BTreeMap<String, Rate>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Where the last span ended.
    at_ns: i64,
    cpu_ns: u64,
    nano_cores: u64,
}

/// A counter's value at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    /// When counting began: where the first span begins.
    pub(super) began_ns: i64,
    pub(super) cpu_ns: u64,
}

impl Rates {
    /// Takes all counters of one moment and returns their rates in nanocores. Those
    /// that are not among them are forgotten.
    pub(super) fn take<'a>(
        &mut self,
        at_ns: i64,
        readings: impl IntoIterator<Item = Reading<'a>>,
    ) -> BTreeMap<String, u64> {
        let mut next = BTreeMap::new();
        for reading in readings {
            let before = self.of.get(reading.name).copied().unwrap_or(Rate {
                at_ns: reading.began_ns,
                cpu_ns: 0,
                nano_cores: 0,
            });
            next.insert(reading.name.to_owned(), before.then(at_ns, reading.cpu_ns));
        }
        self.of = next;
        self.of
            .iter()
            .map(|(name, rate)| (name.clone(), rate.nano_cores))
            .collect()
    }
}

impl Rate {
    fn then(self, at_ns: i64, cpu_ns: u64) -> Self {
        let span = at_ns.saturating_sub(self.at_ns);
        if cpu_ns < self.cpu_ns {
            // Counts anew: what it is now was used since an unknown moment.
            return Self {
                at_ns,
                cpu_ns,
                nano_cores: 0,
            };
        }
        if span < 0 {
            // The host's clock was set back: the next span begins here.
            return Self {
                at_ns,
                cpu_ns,
                ..self
            };
        }
        if span < SPAN_MIN_NS {
            return self;
        }
        let used = u128::from(cpu_ns - self.cpu_ns) * 1_000_000_000;
        let nano_cores = used / u128::from(span.unsigned_abs());
        Self {
            at_ns,
            cpu_ns,
            nano_cores: u64::try_from(nano_cores).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn take(rates: &mut Rates, at_ns: i64, cpu_ns: u64) -> u64 {
        let reading = Reading {
            name: "c",
            began_ns: 10 * S,
            cpu_ns,
        };
        rates.take(at_ns, [reading])["c"]
    }

    #[test]
    fn a_core_is_a_billion() {
        let mut rates = Rates::default();
        // Two seconds since its beginning, one of CPU.
        assert_eq!(take(&mut rates, 12 * S, 1_000_000_000), 500_000_000);
        // Then one core and a half.
        assert_eq!(take(&mut rates, 22 * S, 16_000_000_000), 1_500_000_000);
        // Too soon: the same again, and nothing is lost for the next span.
        assert_eq!(take(&mut rates, 22 * S + 1, 16_100_000_000), 1_500_000_000);
        assert_eq!(take(&mut rates, 23 * S, 16_200_000_000), 200_000_000);
    }

    #[test]
    fn clocks_and_counters_may_jump() {
        let mut rates = Rates::default();
        assert_eq!(take(&mut rates, 5 * S, 7), 0);
        assert_eq!(take(&mut rates, 12 * S, 7_000_000_007), 1_000_000_000);
        // The counter began anew.
        assert_eq!(take(&mut rates, 14 * S, 5), 0);
        assert_eq!(take(&mut rates, 15 * S, u64::MAX), u64::MAX - 5);
        assert_eq!(take(&mut rates, i64::MIN, u64::MAX), u64::MAX - 5);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut rates = Rates::default();
        take(&mut rates, 12 * S, 1);
        assert!(rates.take(13 * S, []).is_empty());
        assert!(rates.of.is_empty());
    }
}
