//! The vendor capabilities that tell a driver where the virtio structures are
//! (virtio 1.3, section 4.1.4), and the layout of the BAR that they describe.

use bulkhead_virtio::device::DeviceType;

use crate::{
    layout,
    pci::{
        config_space::{ConfigSpace, Identity},
        msix::Msix,
    },
};

/// Common configuration in the BAR.
pub(super) const COMMON: u64 = 0x0000;
/// Interrupt status byte in the BAR.
pub(super) const INTERRUPT_STATUS: u64 = 0x0100;
/// Device configuration in the BAR.
pub(super) const DEVICE: u64 = 0x0200;
/// Room for the device configuration.
pub(super) const DEVICE_SIZE: u64 = 0x0e00;
/// MSI-X table in the BAR.
pub(super) const MSIX_TABLE: u64 = 0x1000;
/// MSI-X pending bits in the BAR.
pub(super) const MSIX_PENDING: u64 = 0x1800;
/// Notification registers in the BAR: 4 bytes for each queue.
pub(super) const NOTIFY: u64 = 0x2000;
/// Bytes between two queues' notification registers.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// Most queues of one function: each needs a vector, and one is for configuration.
pub const MAX_QUEUES: usize = 127;

const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
const VIRTIO_VENDOR: u16 = 0x1af4;
const MODERN_DEVICE: u16 = 0x1040;

/// Which structure a vendor capability describes.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Structure {
    Common = 1,
    Notify = 2,
    InterruptStatus = 3,
    Device = 4,
    PciAccess = 5,
}

/// Offsets of the capabilities that act when they are accessed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    /// MSI-X.
    pub(super) msix: usize,
    /// Access to the BAR by way of the configuration space.
    pub(super) access: usize,
}

/// The configuration space of a virtio function. `None` if it does not fit, which
/// would be a bug.
#[must_use]
pub(super) fn config_space(
    kind: DeviceType,
    devfn: u8,
    queues: u32,
    msix: &Msix,
) -> Option<(ConfigSpace, Offsets)> {
    let identity = Identity {
        vendor: VIRTIO_VENDOR,
        device: MODERN_DEVICE + kind as u16,
        revision: 1,
        class: class(kind),
        subsystem_vendor: VIRTIO_VENDOR,
        subsystem: MODERN_DEVICE,
    };
    let bar = layout::bar(devfn);
    let mut space = ConfigSpace::new(identity, bar, layout::BAR_SIZE, devfn & 7);
    let notify_size = queues * NOTIFY_MULTIPLIER;
    let structures = [
        (Structure::Common, COMMON, 0x40),
        (Structure::InterruptStatus, INTERRUPT_STATUS, 1),
        (Structure::Notify, NOTIFY, notify_size),
        (Structure::Device, DEVICE, 0xe00),
    ];
    for (structure, offset, size) in structures {
        let mut body = body(structure, u32::try_from(offset).ok()?, size);
        if matches!(structure, Structure::Notify) {
            body.extend(NOTIFY_MULTIPLIER.to_le_bytes());
        }
        finish(&mut body);
        space.add_capability(CAP_VENDOR, &body, &[])?;
    }
    let (table, control) = msix.capability(
        0,
        u32::try_from(MSIX_TABLE).ok()?,
        u32::try_from(MSIX_PENDING).ok()?,
    );
    let msix = space.add_capability(CAP_MSIX, &table, &control)?;
    let mut window = body(Structure::PciAccess, 0, 0);
    window.extend([0; 4]);
    finish(&mut window);
    // Writable: the bar, the offset and the length; data has no storage of its own.
    let mut writable = vec![0; window.len()];
    writable[2] = 0xff;
    writable[6..14].fill(0xff);
    let access = space.add_capability(CAP_VENDOR, &window, &writable)?;
    Some((space, Offsets { msix, access }))
}

/// `struct virtio_pci_cap` from its third byte on.
fn body(structure: Structure, offset: u32, length: u32) -> Vec<u8> {
    let mut body = vec![0, structure as u8, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body
}

/// Fills in the capability's length.
fn finish(body: &mut [u8]) {
    let len = body.len() + 2;
    if let (Some(place), Ok(len)) = (body.first_mut(), u8::try_from(len)) {
        *place = len;
    }
}

/// The PCI class that a device shows: for lspci, drivers go by the device id.
fn class(kind: DeviceType) -> u32 {
    match kind {
        DeviceType::Net => 0x02_00_00,
        DeviceType::Block => 0x01_80_00,
        DeviceType::Console => 0x07_80_00,
        DeviceType::Vsock => 0x02_80_00,
        _ => 0xff_00_00,
    }
}

/// An access to the BAR that was asked for through the configuration space
/// (section 4.1.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarAccess {
    /// Offset in the BAR, a multiple of the length.
    pub(super) offset: u64,
    /// 1, 2 or 4 bytes.
    pub(super) length: usize,
}

/// What the access capability at `capability` is set to; `None` for anything outside
/// of the BAR.
#[must_use]
pub(super) fn bar_access(space: &ConfigSpace, capability: usize) -> Option<BarAccess> {
    let mut bytes = [0; 16];
    space.read(capability, &mut bytes);
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(crate::pci::value)
            .and_then(|v| u32::try_from(v).ok())
    };
    let (offset, length) = (u64::from(word(8)?), word(12)?);
    let inside = bytes[4] == 0
        && matches!(length, 1 | 2 | 4)
        && offset.is_multiple_of(u64::from(length))
        && offset + u64::from(length) <= layout::BAR_SIZE;
    let length = usize::try_from(length).ok()?;
    inside.then_some(BarAccess { offset, length })
}

/// Where in the configuration space the access capability's data is.
#[must_use]
pub(super) const fn access_data(capability: usize) -> usize {
    capability + 16
}
