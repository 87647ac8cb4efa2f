use proptest::prelude::*;

use super::*;

const OFFERED: u64 = VERSION_1 | 1 << 29 | 1;

fn device() -> CommonConfig {
    CommonConfig::new(OFFERED, &[256, 64], 3)
}

fn read(config: &CommonConfig, offset: usize, len: usize) -> u64 {
    let mut data = vec![0; len];
    config.read(offset, &mut data, 9);
    value(&data)
}

fn write(config: &mut CommonConfig, offset: usize, len: usize, number: u64) -> Action {
    config.write(offset, &number.to_le_bytes()[..len])
}

/// ACKNOWLEDGE, DRIVER, features, FEATURES_OK.
fn negotiate(config: &mut CommonConfig, features: u64) {
    for status in [1, 3] {
        assert_eq!(write(config, 0x14, 1, status), Action::None);
    }
    for (select, bits) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        let _ = write(config, 0x08, 4, select);
        let _ = write(config, 0x0c, 4, bits);
    }
    let _ = write(config, 0x14, 1, 0xb);
}

#[test]
fn a_driver_brings_the_device_up() {
    let mut config = device();
    assert_eq!(read(&config, 0x12, 2), 2);
    assert_eq!(read(&config, 0x04, 4), OFFERED & 0xffff_ffff);
    let _ = write(&mut config, 0x00, 4, 1);
    assert_eq!(read(&config, 0x04, 4), 1);
    negotiate(&mut config, VERSION_1 | 1);
    assert_eq!(read(&config, 0x14, 1), 0xb);
    let _ = write(&mut config, 0x10, 2, 2);
    let _ = write(&mut config, 0x16, 2, 1);
    assert_eq!(read(&config, 0x18, 2), 64);
    assert_eq!(read(&config, 0x1e, 2), 1, "notify offset is the index");
    let _ = write(&mut config, 0x18, 2, 32);
    let _ = write(&mut config, 0x1a, 2, 1);
    let _ = write(&mut config, 0x20, 4, 0x1000);
    let _ = write(&mut config, 0x24, 4, 0x1);
    let _ = write(&mut config, 0x28, 8, 0x2_0000_2000);
    let _ = write(&mut config, 0x30, 4, 0x3000);
    let _ = write(&mut config, 0x1c, 2, 1);
    assert_eq!(write(&mut config, 0x14, 1, 0xf), Action::Activate);
    let queues = config.queues();
    assert_eq!(queues[0], None);
    let (state, vector) = queues[1].unwrap();
    assert_eq!(vector, 1);
    assert_eq!(
        state,
        QueueState {
            size: 32,
            ready: true,
            descriptors: 0x1_0000_1000,
            available: 0x2_0000_2000,
            used: 0x3000,
            next_available: 0,
            next_used: 0,
        }
    );
    assert_eq!(config.config_vector(), 2);
    assert_eq!(config.features(), VERSION_1 | 1);
}

#[test]
fn nothing_changes_after_driver_ok() {
    let mut config = device();
    negotiate(&mut config, VERSION_1);
    let _ = write(&mut config, 0x1c, 2, 1);
    assert_eq!(write(&mut config, 0x14, 1, 0xf), Action::Activate);
    let before = config.save();
    for (offset, len, number) in [
        (0x18, 2, 1),
        (0x1a, 2, 1),
        (0x20, 8, 0xdead_b000),
        (0x10, 2, 1),
        (0x0c, 4, 0),
        (0x1c, 2, 1),
    ] {
        assert_eq!(write(&mut config, offset, len, number), Action::None);
    }
    assert_eq!(config.save(), before);
    // DRIVER_OK twice starts nothing twice.
    assert_eq!(write(&mut config, 0x14, 1, 0xf), Action::None);
}

#[test]
fn an_enabled_queue_is_frozen_before_driver_ok_too() {
    let mut config = device();
    negotiate(&mut config, VERSION_1);
    let _ = write(&mut config, 0x1c, 2, 1);
    let _ = write(&mut config, 0x18, 2, 16);
    let _ = write(&mut config, 0x1c, 2, 0);
    assert_eq!(read(&config, 0x18, 2), 256);
    assert_eq!(read(&config, 0x1c, 2), 1);
}

#[test]
fn steps_are_not_skipped_and_bits_not_cleared() {
    let mut config = device();
    assert_eq!(write(&mut config, 0x14, 1, 4), Action::None);
    assert_eq!(config.status(), 0);
    assert_eq!(write(&mut config, 0x14, 1, 0xf), Action::None);
    // VERSION_1 was not accepted: no FEATURES_OK, hence no DRIVER_OK.
    assert_eq!(config.status(), 3);
    assert_eq!(write(&mut config, 0x14, 1, 1), Action::None);
    assert_eq!(config.status(), 3);
}

#[test]
fn unoffered_features_are_refused() {
    let mut config = device();
    negotiate(&mut config, VERSION_1 | 1 << 7);
    assert_eq!(config.status(), 3);
    let mut config = device();
    negotiate(&mut config, 1);
    assert_eq!(config.status(), 3);
}

#[test]
fn queue_registers_wait_for_the_features() {
    let mut config = device();
    let _ = write(&mut config, 0x18, 2, 16);
    let _ = write(&mut config, 0x1c, 2, 1);
    assert_eq!(read(&config, 0x18, 2), 256);
    assert_eq!(read(&config, 0x1c, 2), 0);
}

#[test]
fn sizes_and_vectors_are_bounded() {
    let mut config = device();
    negotiate(&mut config, VERSION_1);
    for size in [0, 3, 512, 0xffff] {
        let _ = write(&mut config, 0x18, 2, size);
        assert_eq!(read(&config, 0x18, 2), 256);
    }
    let _ = write(&mut config, 0x1a, 2, 3);
    assert_eq!(read(&config, 0x1a, 2), u64::from(NO_VECTOR));
    let _ = write(&mut config, 0x16, 2, 2);
    assert_eq!(read(&config, 0x18, 2), 0, "no such queue");
    let _ = write(&mut config, 0x18, 2, 16);
}

#[test]
fn failure_and_reset() {
    let mut config = device();
    negotiate(&mut config, VERSION_1);
    config.set_needs_reset();
    assert_eq!(read(&config, 0x14, 1), 0x4b);
    // Linux keeps the bits it reads; nothing but a reset gets it out.
    assert_eq!(write(&mut config, 0x14, 1, 0x4f), Action::None);
    assert!(!config.driver_ok());
    assert_eq!(write(&mut config, 0x14, 1, 0), Action::Reset);
    config.reset();
    assert_eq!(config.status(), 0);
    let _ = write(&mut config, 0x14, 1, 0x81);
    assert_eq!(config.status(), 0x80);
    assert_eq!(write(&mut config, 0x14, 1, 0x83), Action::None);
    assert_eq!(config.status(), 0x80);
}

#[test]
fn the_generation_is_read_beside_the_status() {
    assert_eq!(read(&device(), 0x15, 1), 9);
    assert_eq!(read(&device(), 0x14, 2), 0x900);
}

#[test]
fn saved_registers_come_back_and_foreign_ones_do_not() {
    let mut config = device();
    negotiate(&mut config, VERSION_1);
    let _ = write(&mut config, 0x1c, 2, 1);
    let _ = write(&mut config, 0x14, 1, 0xf);
    config.update_queues(&[Some(QueueState {
        next_available: 5,
        next_used: 4,
        ..QueueState::default()
    })]);
    let saved = config.save();
    let json = serde_json::to_string(&saved).unwrap();
    let mut other = device();
    other
        .restore(&serde_json::from_str(&json).unwrap())
        .unwrap();
    assert_eq!(other.save(), saved);
    assert_eq!(other.queues()[0].unwrap().0.next_available, 5);
    let mut smaller = CommonConfig::new(OFFERED, &[128, 64], 3);
    assert!(smaller.restore(&saved).is_err());
    let mut fewer = CommonConfig::new(1, &[256, 64], 3);
    assert!(fewer.restore(&saved).is_err());
}

proptest! {
    /// Whatever a driver writes, the invariants of the status machine hold.
    #[test]
    fn arbitrary_writes_keep_the_invariants(
        writes in prop::collection::vec((0usize..0x44, 0usize..4, any::<u64>()), 0..200)
    ) {
        let mut config = device();
        let mut active = false;
        for (offset, width, number) in writes {
            let len = 1 << width;
            let _ = read(&config, offset, len);
            let small = if offset == 0x14 { number & 0xff } else { number };
            match write(&mut config, offset, len, small) {
                Action::Activate => {
                    prop_assert!(!active);
                    active = true;
                }
                Action::Reset => {
                    config.reset();
                    active = false;
                }
                Action::None => {}
            }
            prop_assert_eq!(config.driver_ok(), active);
            if config.status() & FEATURES_OK != 0 {
                prop_assert_eq!(config.features() & !OFFERED, 0);
            }
            for (state, vector) in config.queues().into_iter().flatten() {
                prop_assert!(state.size.is_power_of_two() && state.size <= 256);
                prop_assert!(vector == NO_VECTOR || vector < 3);
            }
        }
    }
}
