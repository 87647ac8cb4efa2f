//! Tokens: what stands for a session between its RPC and the client's connection.
//!
//! A token is all that guards a session: whoever is on the node's network
//! namespace can connect. So it has 128 random bits, works once, and not for long;
//! and only so many wait at a time.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// How long a client may take to connect.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Most tokens that wait for their clients.
pub const OUTSTANDING_MAX: usize = 1000;

/// Random bytes of a token.
const BYTES: usize = 16;

/// Sessions that wait, by token.
#[derive(Debug)]
pub(crate) struct Tokens<T> {
    waiting: HashMap<String, (T, Instant)>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
        }
    }
}

impl<T> Tokens<T> {
    /// Keeps a session under a new token. `None` when too many wait.
    ///
    /// # Errors
    /// The system's, when it has no random bytes.
    pub(crate) fn put(&mut self, session: T, now: Instant) -> io::Result<Option<String>> {
        self.waiting.retain(|_, (_, until)| *until > now);
        if self.waiting.len() >= OUTSTANDING_MAX {
            return Ok(None);
        }
        let mut random = [0_u8; BYTES];
        // Up to 256 bytes come whole (getrandom(2)).
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let token = URL_SAFE_NO_PAD.encode(random);
        self.waiting
            .insert(token.clone(), (session, now + LIFETIME));
        Ok(Some(token))
    }

    /// Takes the session of a token: it works once, and not when it is too old.
    pub(crate) fn take(&mut self, token: &str, now: Instant) -> Option<T> {
        let (session, until) = self.waiting.remove(token)?;
        (until > now).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once_and_not_for_long() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let a = tokens.put('a', now).unwrap().unwrap();
        let b = tokens.put('b', now).unwrap().unwrap();
        assert_ne!(a, b);
        assert_eq!(a.len(), 22);
        assert_eq!(tokens.take("guessed", now), None);
        assert_eq!(tokens.take(&a, now), Some('a'));
        assert_eq!(tokens.take(&a, now), None);
        assert_eq!(tokens.take(&b, now + LIFETIME), None);
    }

    #[test]
    fn only_so_many_wait_and_old_ones_make_room() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        for _ in 0..OUTSTANDING_MAX {
            assert!(tokens.put((), now).unwrap().is_some());
        }
        assert!(tokens.put((), now).unwrap().is_none());
        assert!(tokens.put((), now + LIFETIME).unwrap().is_some());
        assert_eq!(tokens.waiting.len(), 1);
    }
}
