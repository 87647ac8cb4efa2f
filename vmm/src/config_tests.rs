use bulkhead_vmm_api::vmm;
use proptest::prelude::*;

use super::*;

fn wire() -> VmConfig {
    let mut wire = VmConfig::new();
    wire.pod_id = "pod-1".into();
    wire.boot_vcpus = 1;
    wire.max_vcpus = 4;
    wire.memory_bytes = 128 << 20;
    wire.kernel_fd = 5;
    wire.control_fd = 6;
    wire.cmdline = "quiet".into();
    wire.run_dir = "/run/bulkhead/pods/1".into();
    wire
}

fn refused(change: impl FnOnce(&mut VmConfig)) -> &'static str {
    let mut wire = wire();
    change(&mut wire);
    match Config::check(wire) {
        Err(ConfigError::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_configuration_survives_the_wire() {
    let config = Config::parse(&wire().write_to_bytes().unwrap()).unwrap();
    assert_eq!(config.max_vcpus, 4);
    assert_eq!(config.kernel, Fd(5));
    assert_eq!(config.confinement, None);
    assert_eq!(config.fds(), [Fd(5), Fd(6)]);
}

#[test]
fn every_bound_is_checked() {
    assert_eq!(refused(|w| w.boot_vcpus = 0), "boot_vcpus");
    assert_eq!(refused(|w| w.max_vcpus = 129), "max_vcpus");
    assert_eq!(refused(|w| w.boot_vcpus = 5), "max_vcpus");
    assert_eq!(refused(|w| w.memory_bytes = 1 << 20), "memory_bytes");
    assert_eq!(refused(|w| w.memory_bytes = 1 << 60), "memory_bytes");
    assert_eq!(refused(|w| w.memory_bytes += 1), "memory_bytes");
    assert_eq!(refused(|w| w.cmdline = "a".repeat(2048)), "cmdline");
    assert_eq!(refused(|w| w.cmdline = "a\nb".into()), "cmdline");
    assert_eq!(refused(|w| w.run_dir = "relative".into()), "run_dir");
    assert_eq!(refused(|w| w.pod_id = "a b".into()), "pod_id");
    assert_eq!(
        refused(|w| {
            let mut confinement = vmm::Confinement::new();
            confinement.enabled = true;
            w.confinement = Some(confinement).into();
        }),
        "confinement"
    );
}

#[test]
fn descriptors_are_given_once_and_never_standard_ones() {
    assert_eq!(refused(|w| w.kernel_fd = 0), "kernel_fd");
    assert_eq!(refused(|w| w.kernel_fd = 2), "kernel_fd");
    assert_eq!(refused(|w| w.control_fd = 5), "control_fd");
    assert_eq!(refused(|w| w.initramfs_fd = u32::MAX), "initramfs_fd");
}

#[test]
fn devices_are_checked() {
    let disk = |serial: &str, fd: u32| {
        let mut disk = vmm::Disk::new();
        disk.serial = serial.into();
        disk.fd = fd;
        disk
    };
    assert_eq!(
        refused(|w| w.disks = vec![disk("a", 10), disk("a", 11)]),
        "disks.serial"
    );
    assert_eq!(
        refused(|w| w.disks = vec![disk("a-serial-of-21-bytes!", 10)]),
        "disks.serial"
    );
    assert_eq!(
        refused(|w| w.disks = (0..249).map(|n| disk(&format!("{n}"), 100 + n)).collect()),
        "disks"
    );
    assert_eq!(
        refused(|w| {
            let mut net = vmm::Net::new();
            net.tap_fd = 9;
            net.mac = "01:00:00:00:00:01".into();
            net.mtu = 1500;
            w.nets = vec![net];
        }),
        "nets.mac"
    );
    assert_eq!(
        refused(|w| {
            let mut vsock = vmm::Vsock::new();
            vsock.guest_cid = 3;
            vsock.listen_fd = 9;
            vsock.uds_prefix = "../x".into();
            w.vsock = Some(vsock).into();
        }),
        "vsock.uds_prefix"
    );
}

#[test]
fn macs_are_read() {
    assert_eq!(
        parse_mac("02:1a:ff:00:00:01").unwrap(),
        [2, 0x1a, 0xff, 0, 0, 1]
    );
    for bad in [
        "",
        "02:1a:ff:00:00",
        "02:1a:ff:00:00:01:02",
        "+2:00:00:00:00:01",
    ] {
        assert!(parse_mac(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Config::parse(&bytes);
    }
}
