//! A VMM and an agent that keep the contracts without a virtual machine: the
//! "guest" is this process, its containers are shell commands.
//!
//! The launcher starts a shell script that starts this test binary again, as the
//! test `fake_vmm`, which serves the inherited descriptors until it is told to
//! stop. How it misbehaves is asked for by a word on the kernel command line.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod vmm;
