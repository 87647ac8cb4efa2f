//! The device behind a driver, with real unix sockets on the other side.

mod bulk;
mod guest;
mod lifecycle;
mod malice;
