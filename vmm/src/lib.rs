//! `bulkhead-vmm`: one process, one virtual machine, all of its devices.
//!
//! ```text
//!   daemon --VmConfig--> main: config -> kvm::Vm -> memory, boot, acpi -> pci, devices
//!                              -> jail -> vCPU threads run
//!          --ttrpc-----> control: status, pause, disks        (main thread)
//!                        device thread: starts and stops devices
//!                        a worker for each device             (bulkhead-virtio)
//!          <--exit------ exit report and status
//! ```
//!
//! The guest is hostile from its first instruction. Whatever it writes is checked in
//! one place (the layout's regions, the PCI registers, the queue accessor); the
//! process has given up its user, its view of the host and most system calls before
//! a vCPU runs.

#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation
    ),
    doc = "Tests may assert by unwrapping."
)]

pub mod acpi;
pub mod boot;
pub mod config;
pub mod console;
pub mod control;
pub mod descriptors;
pub mod device_thread;
pub mod devices;
pub mod exit;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod handover;
pub mod irq;
pub mod jail;
pub mod kvm;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod pci;
#[cfg(any(test, feature = "fuzzing"))]
pub mod testing;
pub mod timings;
pub mod window;
