//! What each vCPU says it is (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E).
//!
//! The base is what KVM can do on this host. On top: one package of single-threaded
//! cores, the hypervisor bit, the TSC deadline timer, x2APIC. Taken away: nested
//! virtualization, performance counters, and leaves that describe the host's own
//! topology.

use std::arch::x86_64::__cpuid;

use kvm_bindings::kvm_cpuid_entry2;

const ECX_VMX: u32 = 1 << 5;
const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const EXT_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXT_ECX_SVM: u32 = 1 << 2;
/// Performance counter extensions of AMD: core, northbridge, L3.
const EXT_ECX_PERF: u32 = 1 << 23 | 1 << 24 | 1 << 28;
const LEAF7_EDX_HYBRID: u32 = 1 << 15;
const MAX_CACHE_FIELD: u32 = 0x3f;

/// Whether the processor has VT-x or SVM. Without either, /dev/kvm may exist (a
/// paravirtual KVM) and cannot run an unmodified guest.
pub(super) fn host_virtualizes() -> bool {
    let intel = __cpuid(1).ecx & ECX_VMX != 0;
    let extended = __cpuid(0x8000_0000).eax >= 0x8000_0001;
    intel || extended && __cpuid(0x8000_0001).ecx & EXT_ECX_SVM != 0
}

/// Physical address bits that KVM gives a guest; 36 where it does not say.
pub(super) fn address_bits(entries: &[kvm_cpuid_entry2]) -> u8 {
    entries
        .iter()
        .find(|entry| entry.function == 0x8000_0008)
        .map_or(36, |entry| entry.eax.to_le_bytes()[0])
}

/// The leaves of vCPU `id` of `count`.
pub(super) fn for_vcpu(base: &[kvm_cpuid_entry2], id: u32, count: u32) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = base
        .iter()
        .filter(|entry| !is_topology(entry.function))
        .copied()
        .collect();
    for entry in &mut entries {
        adjust(entry, id, count);
    }
    entries.extend(topology(id, count));
    entries
}

/// Leaves that are written anew (0xb) or left out: V2 topology (0x1f), AMD's extended
/// topology (0x8000_0026).
fn is_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f | 0x8000_0026)
}

/// Bits that tell `count` cores apart.
fn id_bits(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u32, count: u32) {
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0x0000_ffff | count.min(255) << 16 | id << 24;
            entry.ecx |= ECX_X2APIC | ECX_TSC_DEADLINE | ECX_HYPERVISOR;
            entry.ecx &= !ECX_VMX;
            entry.edx &= !EDX_HTT;
            if count > 1 {
                entry.edx |= EDX_HTT;
            }
        }
        4 if entry.eax & 0x1f != 0 => {
            let sharing = sharing(entry.eax, count);
            let cores = ((1 << id_bits(count)) - 1).min(MAX_CACHE_FIELD);
            entry.eax = entry.eax & 0x3fff | sharing << 14 | cores << 26;
        }
        7 if entry.index == 0 => entry.edx &= !LEAF7_EDX_HYBRID,
        // Performance counters: none.
        0xa | 0x8000_0022 => clear(entry),
        0x8000_0001 => {
            entry.ecx &= !(EXT_ECX_SVM | EXT_ECX_PERF | EXT_ECX_CMP_LEGACY);
            if count > 1 {
                entry.ecx |= EXT_ECX_CMP_LEGACY;
            }
        }
        0x8000_0008 => {
            let cores = count.saturating_sub(1).min(255);
            entry.ecx = entry.ecx & !0xf0ff | cores | id_bits(count) << 12;
        }
        // Nested virtualization: none.
        0x8000_000a => clear(entry),
        0x8000_001d if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharing(entry.eax, count) << 14;
        }
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// How many vCPUs share a cache, less one: the third level is the package's, the
/// others are a core's.
fn sharing(eax: u32, count: u32) -> u32 {
    let level = eax >> 5 & 0b111;
    if level >= 3 {
        (1 << id_bits(count)) - 1
    } else {
        0
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    entry.eax = 0;
    entry.ebx = 0;
    entry.ecx = 0;
    entry.edx = 0;
}

/// Leaf 0xb: one thread to a core, `count` cores to the package.
fn topology(id: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    let level = |index, kind: u32, shift, logical| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: logical,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    };
    [
        level(0, SMT, 0, 1),
        level(1, CORE, id_bits(count), count),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn the_first_leaf_names_the_vcpu() {
        let mut base = entry(1, 0);
        base.ebx = 0x0710_0800;
        base.ecx = ECX_VMX;
        let one = find(&for_vcpu(&[base], 3, 4), 1, 0);
        assert_eq!(one.ebx, 0x0304_0800);
        assert_eq!(one.ecx & ECX_VMX, 0);
        assert_ne!(one.ecx & ECX_HYPERVISOR, 0);
        assert_ne!(one.ecx & ECX_TSC_DEADLINE, 0);
        assert_ne!(one.edx & EDX_HTT, 0);
        assert_eq!(find(&for_vcpu(&[base], 0, 1), 1, 0).edx & EDX_HTT, 0);
    }

    #[test]
    fn the_topology_is_one_package_of_cores() {
        let host = [entry(0xb, 0), entry(0xb, 1), entry(0x1f, 0)];
        let entries = for_vcpu(&host, 2, 3);
        assert!(entries.iter().all(|e| e.function != 0x1f));
        assert_eq!(entries.len(), 3);
        let core = find(&entries, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.edx), (2, 3, 2));
        assert_eq!(core.ecx, 0x201);
        assert_eq!(find(&entries, 0xb, 2).ecx, 2);
    }

    #[test]
    fn counters_and_nesting_are_hidden() {
        let mut counters = entry(0xa, 0);
        counters.eax = 0x0730_0402;
        let mut extended = entry(0x8000_0001, 0);
        extended.ecx = u32::MAX;
        let entries = for_vcpu(&[counters, extended], 0, 1);
        assert_eq!(find(&entries, 0xa, 0).eax, 0);
        let ecx = find(&entries, 0x8000_0001, 0).ecx;
        assert_eq!(ecx & (EXT_ECX_SVM | EXT_ECX_PERF | EXT_ECX_CMP_LEGACY), 0);
    }

    #[test]
    fn caches_are_shared_by_level() {
        let mut l1 = entry(4, 0);
        l1.eax = 1 | 1 << 5 | 7 << 14 | 3 << 26;
        let mut l3 = entry(4, 3);
        l3.eax = 3 | 3 << 5 | 15 << 14;
        let entries = for_vcpu(&[l1, l3], 1, 4);
        assert_eq!(find(&entries, 4, 0).eax >> 14, 3 << 12);
        assert_eq!(find(&entries, 4, 3).eax >> 14 & 0xfff, 3);
        // The leaf that ends the list stays empty.
        assert_eq!(find(&for_vcpu(&[entry(4, 0)], 0, 4), 4, 0).eax, 0);
    }

    #[test]
    fn amd_core_counts_follow() {
        let mut sizes = entry(0x8000_0008, 0);
        sizes.eax = 0x3028;
        assert_eq!(address_bits(&[sizes]), 40);
        assert_eq!(address_bits(&[]), 36);
        let entries = for_vcpu(&[sizes, entry(0x8000_001e, 0)], 5, 6);
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx, 0x3005);
        assert_eq!(find(&entries, 0x8000_001e, 0).eax, 5);
    }
}
