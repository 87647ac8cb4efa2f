//! Where effects go wrong.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happens at the points where an effect is about to happen or has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything works.
    Pass,
    /// The point with this number (from 0) fails; the others work.
    FailAt(usize),
    /// At the point with this number everything stops: the daemon is being killed.
    FreezeAt(usize),
    /// Each point fails with a probability of one in this many, from a seed.
    Random {
        /// One in how many.
        one_in: u64,
        /// State of the generator.
        seed: u64,
    },
}

#[derive(Debug)]
struct State {
    mode: Mode,
    passed: usize,
    frozen: bool,
    hit: Option<String>,
}

/// Counts points and decides at which something goes wrong.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<State>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                mode: Mode::Pass,
                passed: 0,
                frozen: false,
                hit: None,
            }),
        }
    }
}

impl Faults {
    /// Begins counting anew. A frozen world thaws: it is for a new daemon now.
    pub fn set(&self, mode: Mode) {
        *self.lock() = State {
            mode,
            passed: 0,
            frozen: false,
            hit: None,
        };
    }

    /// The point at which something went wrong, if any did.
    pub fn hit(&self) -> Option<String> {
        self.lock().hit.clone()
    }

    /// Whether the world stands still.
    pub fn is_frozen(&self) -> bool {
        self.lock().frozen
    }

    /// A point before or after an effect. `may_fail`: whether the effect's contract
    /// allows a failure here.
    ///
    /// # Errors
    /// The point's name, when it is to fail.
    pub async fn point(&self, name: &str, may_fail: bool) -> Result<(), String> {
        if self.decide(name, may_fail)? {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// `Ok(true)`: frozen.
    fn decide(&self, name: &str, may_fail: bool) -> Result<bool, String> {
        let mut state = self.lock();
        if state.frozen {
            return Ok(true);
        }
        let number = state.passed;
        let counts = may_fail || matches!(state.mode, Mode::FreezeAt(_));
        if counts {
            state.passed += 1;
        }
        match &mut state.mode {
            Mode::FailAt(at) if counts && number == *at => {
                state.hit = Some(name.to_owned());
                Err(format!("injected failure: {name}"))
            }
            Mode::FreezeAt(at) if number == *at => {
                state.hit = Some(name.to_owned());
                state.frozen = true;
                Ok(true)
            }
            Mode::Random { one_in, seed } if counts => {
                // xorshift64: repeatable, which is all that is wanted of it.
                *seed ^= *seed << 13;
                *seed ^= *seed >> 7;
                *seed ^= *seed << 17;
                if *seed % *one_in == 0 {
                    state.hit = Some(name.to_owned());
                    return Err(format!("injected failure: {name}"));
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
