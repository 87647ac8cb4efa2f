//! Which kernel modules have to be loaded, and in which order, from the
//! `modules.dep` that depmod writes.
//!
//! A line names a module and everything it needs, directly or not, the last
//! first to be loaded: `kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/…`.

use std::collections::HashSet;

use anyhow::{Result, anyhow};

/// Paths of `wanted` and all they need, in loading order, without repetition.
///
/// # Errors
/// A name that no line of `modules_dep` has.
pub(crate) fn load_order(modules_dep: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in wanted {
        let (path, needs) = modules_dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == name.replace('-', "_"))
            .ok_or_else(|| anyhow!("the test host's kernel has no module {name}"))?;
        for module in needs.split_whitespace().rev().chain([path]) {
            if seen.insert(module.to_owned()) {
                order.push(module.to_owned());
            }
        }
    }
    Ok(order)
}

/// The name that modprobe uses for the file at `path`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko
kernel/net/9p/9pnet.ko:
kernel/fs/netfs/netfs.ko:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/arch/x86/kvm/kvm-amd.ko: kernel/arch/x86/kvm/kvm.ko
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        assert_eq!(
            load_order(DEP, &["9p", "9pnet_virtio"]).unwrap(),
            [
                "kernel/fs/netfs/netfs.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/fs/9p/9p.ko",
                "kernel/drivers/virtio/virtio.ko",
                "kernel/drivers/virtio/virtio_ring.ko",
                "kernel/net/9p/9pnet_virtio.ko.xz",
            ]
        );
    }

    #[test]
    fn dashes_and_underscores_are_the_same() {
        let order = load_order(DEP, &["kvm_amd"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/arch/x86/kvm/kvm.ko",
                "kernel/arch/x86/kvm/kvm-amd.ko"
            ]
        );
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = load_order(DEP, &["nonesuch"]).unwrap_err().to_string();
        assert!(error.contains("nonesuch"), "{error}");
    }
}
