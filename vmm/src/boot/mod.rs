//! Direct boot of an uncompressed Linux by the 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! There is no firmware. The kernel finds itself in long mode with the first GiB
//! mapped one to one, RSI pointing at the zero page, and everything it would have
//! asked a firmware for (memory map, command line, initramfs, ACPI root) in there.
//! A vmlinux entered this way is not relocated, so there is no KASLR of its text.

pub mod cmdline;
pub mod kernel;
pub mod paging;
pub mod params;

pub use kernel::{LoadError, LoadedKernel};
