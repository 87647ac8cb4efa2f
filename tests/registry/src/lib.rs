//! An image registry for tests.
//!
//! [`Server`] answers each request with what a function of the test's says: with
//! faults, too, that a real registry does not have. [`Content`] is what most of these
//! functions begin with: manifests and blobs by their paths.

#![forbid(unsafe_code)]
// A test's server ends the test when it can't go on.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod content;
mod server;

pub use content::Content;
pub use server::{Answer, Asked, Server};
