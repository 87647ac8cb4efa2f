//! Message-signalled interrupts: from an eventfd that a device writes to a vector of
//! the guest, by way of KVM's irqfd and its routing table; and the way back, from a
//! register write to an eventfd, by ioeventfd.
//!
//! ```text
//!   device worker --write--> eventfd --irqfd--> GSI --route--> (address, data) --> vCPU
//!   vCPU --write to notify register--> ioeventfd --> eventfd --> device worker
//! ```
//!
//! Neither direction leaves the kernel for this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

/// An interrupt message: what is written where (PCI 3.0, section 6.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Address, in the local APICs' range.
    pub address: u64,
    /// Data: vector and delivery mode.
    pub data: u32,
}

/// A global system interrupt: an index into the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gsi(u32);

/// The kernel's half of interrupts and notifications; a recording double in tests.
pub trait Events: Send + Sync + std::fmt::Debug {
    /// From now on, writing `fd` sends `message`. Returns the GSI to pass as `gsi`
    /// when the message changes later.
    ///
    /// # Errors
    /// KVM's, or `StorageFull` when no GSI is left.
    fn route(&self, gsi: Option<Gsi>, fd: &EventFd, message: Message) -> io::Result<Gsi>;

    /// Ends what [`Self::route`] began.
    fn unroute(&self, gsi: Gsi, fd: &EventFd);

    /// From now on, a guest's write of any width to `address` writes `fd`.
    ///
    /// # Errors
    /// KVM's: its bus takes about 1000 of these for each VM.
    fn attach_notify(&self, address: u64, fd: &EventFd) -> io::Result<()>;

    /// Ends what [`Self::attach_notify`] began.
    fn detach_notify(&self, address: u64, fd: &EventFd);
}

/// KVM's routing table has 4096 entries.
const MAX_GSIS: u32 = 4096;

impl Gsi {
    /// A GSI for a test double.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn for_tests(number: u32) -> Self {
        Self(number)
    }
}

/// [`Events`] by KVM.
#[derive(Debug)]
pub struct KvmEvents {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    messages: BTreeMap<Gsi, Message>,
    free: BTreeSet<Gsi>,
    next: u32,
}

impl Routes {
    fn allocate(&mut self) -> io::Result<Gsi> {
        if let Some(gsi) = self.free.pop_first() {
            return Ok(gsi);
        }
        if self.next == MAX_GSIS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.next += 1;
        Ok(Gsi(self.next - 1))
    }

    fn table(&self) -> io::Result<KvmIrqRouting> {
        let entries: Vec<_> = self
            .messages
            .iter()
            .map(|(gsi, message)| entry(*gsi, *message))
            .collect();
        KvmIrqRouting::from_entries(&entries).map_err(|e| io::Error::other(format!("{e:?}")))
    }
}

fn entry(gsi: Gsi, message: Message) -> kvm_irq_routing_entry {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: u32::from_le_bytes([a, b, c, d]),
                address_hi: u32::from_le_bytes([e, f, g, h]),
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

impl KvmEvents {
    /// Events of `vm`, whose interrupt controller is split.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            routes: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events for KvmEvents {
    fn route(&self, gsi: Option<Gsi>, fd: &EventFd, message: Message) -> io::Result<Gsi> {
        let mut routes = self.lock();
        let target = match gsi {
            Some(gsi) => gsi,
            None => routes.allocate()?,
        };
        let before = routes.messages.insert(target, message);
        if before != Some(message) {
            self.vm.set_gsi_routing(&routes.table()?)?;
        }
        if gsi.is_none() {
            self.vm.register_irqfd(fd, target.0)?;
        }
        Ok(target)
    }

    fn unroute(&self, gsi: Gsi, fd: &EventFd) {
        let mut routes = self.lock();
        // Both fail only if they were never set up; then there is nothing to end.
        let _ = self.vm.unregister_irqfd(fd, gsi.0);
        if routes.messages.remove(&gsi).is_some() {
            routes.free.insert(gsi);
        }
    }

    fn attach_notify(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        let at = IoEventAddress::Mmio(address);
        Ok(self.vm.register_ioevent(fd, &at, NoDatamatch)?)
    }

    fn detach_notify(&self, address: u64, fd: &EventFd) {
        let at = IoEventAddress::Mmio(address);
        // Fails only if it was never attached.
        let _ = self.vm.unregister_ioevent(fd, &at, NoDatamatch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gsis_are_reused_and_bounded() {
        let mut routes = Routes::default();
        let first = routes.allocate().unwrap();
        for _ in 1..MAX_GSIS {
            routes.allocate().unwrap();
        }
        assert!(routes.allocate().is_err());
        routes.free.insert(first);
        assert_eq!(routes.allocate().unwrap(), first);
    }

    #[test]
    fn the_table_carries_address_and_data() {
        let mut routes = Routes::default();
        let message = Message {
            address: 0x1_fee0_1000,
            data: 0x41,
        };
        routes.messages.insert(Gsi(7), message);
        let table = routes.table().unwrap();
        let entry = table.as_slice()[0];
        assert_eq!((entry.gsi, entry.type_), (7, KVM_IRQ_ROUTING_MSI));
        #[allow(unsafe_code)] // a union of the C API
        // SAFETY: the entry is of the MSI type.
        let msi = unsafe { entry.u.msi };
        assert_eq!(
            (msi.address_lo, msi.address_hi, msi.data),
            (0xfee0_1000, 1, 0x41)
        );
    }
}
