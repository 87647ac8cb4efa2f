//! Steps at which a crash would find the store in a new state on disk.
//!
//! In tests a thread can watch them, to take a copy of the store as a crash
//! would leave it. Otherwise they are nothing.

#[cfg(test)]
pub(crate) use watch::{reached, watching};

/// A step was reached.
#[cfg(not(test))]
#[inline]
pub(crate) fn reached(_step: &'static str) {}

#[cfg(test)]
mod watch {
    use std::cell::RefCell;

    type Watcher = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    pub(crate) fn reached(step: &'static str) {
        // Taken out meanwhile: what the watcher does has steps of its own.
        if let Some(mut watcher) = WATCHER.take() {
            watcher(step);
            WATCHER.set(Some(watcher));
        }
    }

    /// Runs `body` with `watcher` called at each step of this thread.
    pub(crate) fn watching<T>(
        watcher: impl FnMut(&'static str) + 'static,
        body: impl FnOnce() -> T,
    ) -> T {
        WATCHER.set(Some(Box::new(watcher)));
        let result = body();
        WATCHER.set(None);
        result
    }
}
