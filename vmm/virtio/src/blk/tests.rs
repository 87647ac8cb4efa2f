//! The device behind a driver, both engines.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;

use super::*;
use crate::device::Device;
use crate::features;
use crate::testing::{Piece, Random, Rig};

const ENGINES: [EngineKind; 2] = [EngineKind::Plain, EngineKind::Uring];
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn image(len: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&Random::new(len as u64).bytes(len)).unwrap();
    file
}

fn config(file: &File, engine: EngineKind) -> BlkConfig {
    BlkConfig {
        file: file.try_clone().unwrap(),
        serial: "scratch".to_owned(),
        read_only: false,
        ephemeral: false,
        queues: 1,
        queue_size: 128,
        pool: Pool::new("blk test", 1, engine),
    }
}

fn rig(file: &File, engine: EngineKind) -> Rig<Blk> {
    Rig::new(Blk::new(config(file, engine)).unwrap(), features::EVENT_IDX)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

fn contents(file: &File) -> Vec<u8> {
    let mut file = file.try_clone().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A request in random pieces: its status, the data read and the length that the device told.
fn ask(rig: &mut Rig<Blk>, request: &[u8], room: usize, random: &mut Random) -> (u8, Vec<u8>, u32) {
    let readable = rig.arena.put_cut(request, 12, random);
    let writable = rig.arena.room_cut(room + 1, 12, random);
    let written = rig.request(0, &readable, &writable);
    let mut data = rig.arena.get(&writable);
    let status = data.pop().unwrap();
    (status, data, written)
}

fn simple(rig: &mut Rig<Blk>, kind: u32, sector: u64, data: &[u8]) -> u8 {
    let request = [header(kind, sector), data.to_vec()].concat();
    ask(rig, &request, 0, &mut Random::new(1)).0
}

#[test]
fn the_configuration_space_describes_the_disk() {
    let device = Blk::new(BlkConfig {
        queues: 2,
        ..config(&image(1 << 20), EngineKind::Plain)
    })
    .unwrap();
    let read = |offset, len| {
        let mut bytes = [0; 8];
        device.read_config(offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(read(0, 8), 2048, "sectors");
    assert_eq!(read(12, 4), 126, "segments");
    assert_eq!(read(20, 4), 512, "block size");
    assert_eq!(read(34, 2), 2, "queues");
    assert_eq!(read(56, 1), 1, "may unmap");
    assert_eq!(read(60, 8), 0, "beyond the end");
    assert_eq!(device.queue_max_sizes(), [128, 128]);
    assert_eq!(device.name(), "blk scratch");
}

#[test]
fn parameters_are_checked() {
    let file = image(1 << 20);
    let refused = |change: &dyn Fn(&mut BlkConfig)| {
        let mut config = config(&file, EngineKind::Plain);
        change(&mut config);
        Blk::new(config).unwrap_err().to_string()
    };
    assert!(refused(&|config| config.serial = "x".repeat(21)).contains("longer than 20"));
    assert!(refused(&|config| config.queues = 9).contains("9 queues"));
    assert!(refused(&|config| config.queue_size = 100).contains("queue size 100"));
    assert!(refused(&|config| config.file = image(511)).contains("not even a sector"));
}

#[test]
fn reads_and_writes_move_the_files_bytes() {
    for engine in ENGINES {
        let file = image(256 << 10);
        let mut expected = contents(&file);
        let mut rig = rig(&file, engine);
        let mut random = Random::new(7);
        for _ in 0..200 {
            let sectors = random.len(64) + 1;
            let sector = random.len(512 - sectors);
            let (start, len) = (sector * 512, sectors * 512);
            if random.below(2) == 0 {
                let data = random.bytes(len);
                let request = [header(1, sector as u64), data.clone()].concat();
                assert_eq!(ask(&mut rig, &request, 0, &mut random), (OK, vec![], 1));
                expected[start..start + len].copy_from_slice(&data);
            } else {
                let (status, data, written) =
                    ask(&mut rig, &header(0, sector as u64), len, &mut random);
                assert_eq!((status, written as usize), (OK, len + 1));
                assert_eq!(data, expected[start..start + len]);
            }
        }
        assert_eq!(simple(&mut rig, 4, 0, &[]), OK, "flush");
        assert_eq!(contents(&file), expected);
    }
}

#[test]
fn many_requests_are_under_way_at_once() {
    for engine in ENGINES {
        let file = image(8 << 20);
        let expected = contents(&file);
        let mut rig = rig(&file, engine);
        let mut random = Random::new(9);
        let queue = &mut rig.queues[0];
        for _ in 0..40 {
            let mut asked = std::collections::HashMap::new();
            for _ in 0..42 {
                let sector = random.below(2048 * 8 - 128);
                let head = rig.arena.put(&header(0, sector));
                let data = (rig.arena.take(64 << 10, 1), 64 << 10);
                let status = (rig.arena.take(1, 1), 1);
                let id = if random.below(2) == 0 {
                    queue.add_indirect(&[head], &[data, status])
                } else {
                    queue.add(&[head], &[data, status])
                };
                asked.insert(id.unwrap(), (sector, data, status));
            }
            queue.kick();
            while !asked.is_empty() {
                let (id, written) = queue.wait_used(std::time::Duration::from_secs(20)).unwrap();
                let (sector, data, status) = asked.remove(&id).unwrap();
                assert_eq!(written, (64 << 10) + 1);
                assert_eq!(rig.arena.get(&[status]), [OK]);
                let start = sector as usize * 512;
                assert!(rig.arena.get(&[data]) == expected[start..start + (64 << 10)]);
            }
        }
    }
}

#[test]
fn the_serial_is_told() {
    for engine in ENGINES {
        let mut rig = rig(&image(4096), engine);
        let mut random = Random::new(2);
        let (status, id, _) = ask(&mut rig, &header(8, 0), 20, &mut random);
        assert_eq!(
            (status, &id[..]),
            (OK, &b"scratch\0\0\0\0\0\0\0\0\0\0\0\0\0"[..])
        );
        let (status, id, _) = ask(&mut rig, &header(8, 0), 4, &mut random);
        assert_eq!((status, &id[..]), (OK, &b"scra"[..]));
    }
}

#[test]
fn discarded_ranges_are_holes_and_zeroed_ones_zero() {
    for engine in ENGINES {
        let file = image(4 << 20);
        let mut expected = contents(&file);
        let mut rig = rig(&file, engine);
        let before = file.metadata().unwrap().blocks();
        let ranges = [range(0, 2048, 0), range(9, 0, 0), range(4096, 1024, 0)].concat();
        assert_eq!(simple(&mut rig, 11, 0, &ranges), OK);
        expected[..2048 * 512].fill(0);
        expected[4096 * 512..5120 * 512].fill(0);
        assert!(contents(&file) == expected);
        assert!(
            file.metadata().unwrap().blocks() + 3000 <= before,
            "space is given back"
        );

        let ranges = [range(2049, 3, 0), range(3000, 8, 1), range(6000, 64, 0)].concat();
        assert_eq!(simple(&mut rig, 13, 0, &ranges), OK);
        for (sector, sectors) in [(2049, 3), (3000, 8), (6000, 64)] {
            expected[sector * 512..(sector + sectors) * 512].fill(0);
        }
        assert!(contents(&file) == expected);
        assert_eq!(contents(&file).len(), 4 << 20);
    }
}

/// A tmpfs punches holes but cannot zero ranges: they are written.
#[test]
fn zeroes_are_written_where_the_file_system_cannot() {
    for engine in ENGINES {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let mut expected = Random::new(4).bytes(1 << 20);
        file.write_all_at(&expected, 0).unwrap();
        let mut rig = rig(&file, engine);
        let ranges = [
            range(1, 700, 0),
            range(1000, 0, 0),
            range(1001, 64, 1),
            range(2047, 1, 0),
        ]
        .concat();
        assert_eq!(simple(&mut rig, 13, 0, &ranges), OK);
        for (sector, sectors) in [(1, 700), (1001, 64), (2047, 1)] {
            expected[sector * 512..(sector + sectors) * 512].fill(0);
        }
        assert!(contents(&file) == expected);
    }
}

#[test]
fn bad_requests_get_a_status_and_change_nothing() {
    for engine in ENGINES {
        let file = image(64 << 10);
        let expected = contents(&file);
        let mut rig = rig(&file, engine);
        let mut random = Random::new(6);
        let last = 127;
        for (what, request, room, status) in [
            ("past the end", header(0, last), 1024, IOERR),
            ("far past the end", header(0, u64::MAX), 512, IOERR),
            ("overflow", header(0, u64::MAX / 512 + 1), 512, IOERR),
            ("no whole sector", header(0, 0), 511, IOERR),
            ("nothing to read", header(0, 0), 0, IOERR),
            ("nothing to write", header(1, 0), 0, IOERR),
            (
                "write past the end",
                [header(1, last), vec![1; 1024]].concat(),
                0,
                IOERR,
            ),
            (
                "write of a part",
                [header(1, 0), vec![1; 100]].concat(),
                0,
                IOERR,
            ),
            ("short header", vec![0; 15], 512, IOERR),
            ("no header", vec![], 512, IOERR),
            ("unknown", header(77, 0), 512, UNSUPP),
            ("no ranges", header(11, 0), 0, IOERR),
            (
                "half a range",
                [header(11, 0), vec![0; 8]].concat(),
                0,
                IOERR,
            ),
            (
                "too many ranges",
                [header(11, 0), vec![0; 33 * 16]].concat(),
                0,
                IOERR,
            ),
            (
                "range past the end",
                [header(11, 0), range(last, 2, 0)].concat(),
                0,
                IOERR,
            ),
            (
                "range too long",
                [header(13, 0), range(0, u32::MAX, 0)].concat(),
                0,
                IOERR,
            ),
            (
                "discard with a flag",
                [header(11, 0), range(0, 1, 1)].concat(),
                0,
                UNSUPP,
            ),
            (
                "zero with a flag",
                [header(13, 0), range(0, 1, 2)].concat(),
                0,
                UNSUPP,
            ),
            (
                "one bad range of two",
                [header(13, 0), range(0, 1, 0), range(last, 2, 0)].concat(),
                0,
                IOERR,
            ),
        ] {
            let (got, ..) = ask(&mut rig, &request, room, &mut random);
            assert_eq!(got, status, "{what}");
        }
        assert!(contents(&file) == expected);
        assert_eq!(rig.device.failure(), None);
    }
}

#[test]
fn a_read_only_disk_refuses_writes() {
    for engine in ENGINES {
        let file = image(64 << 10);
        let expected = contents(&file);
        let device = Blk::new(BlkConfig {
            read_only: true,
            ..config(&file, engine)
        })
        .unwrap();
        assert_ne!(device.features() & (1 << 5), 0, "read-only is offered");
        assert_eq!(
            device.features() & (1 << 13 | 1 << 14),
            0,
            "discard and write-zeroes are not"
        );
        let mut rig = Rig::new(device, 0);
        assert_eq!(simple(&mut rig, 1, 0, &[7; 512]), IOERR);
        assert_eq!(simple(&mut rig, 11, 0, &range(0, 1, 0)), UNSUPP);
        assert_eq!(simple(&mut rig, 13, 0, &range(0, 1, 0)), UNSUPP);
        assert_eq!(simple(&mut rig, 4, 0, &[]), OK, "there is nothing to flush");
        assert!(contents(&file) == expected);
    }
}

#[test]
fn a_file_that_shrinks_is_an_error_not_a_loop() {
    for engine in ENGINES {
        let file = image(64 << 10);
        let mut rig = rig(&file, engine);
        file.set_len(1024).unwrap();
        let (status, _, written) = ask(&mut rig, &header(0, 0), 4096, &mut Random::new(1));
        assert_eq!((status, written), (IOERR, 0));
    }
}

#[test]
fn a_request_without_a_status_breaks_its_queue_only() {
    for engine in ENGINES {
        let file = image(64 << 10);
        let device = Blk::new(BlkConfig {
            queues: 2,
            ..config(&file, engine)
        })
        .unwrap();
        let mut rig = Rig::new(device, features::EVENT_IDX);
        let piece = rig.arena.put(&header(4, 0));
        rig.queues[0].add(&[piece], &[]);
        rig.queues[0].kick();
        while rig.device.failure().is_none() {
            std::thread::yield_now();
        }
        assert!(rig.device.failure().unwrap().contains("queue 0"));
        let status = (rig.arena.take(1, 1), 1);
        rig.request(1, &[piece], &[status]);
        assert_eq!(rig.arena.get(&[status]), [OK]);
    }
}

#[test]
fn stop_drains_what_is_under_way() {
    for engine in ENGINES {
        let file = image(32 << 20);
        let mut rig = rig(&file, engine);
        let mut answers: Vec<Piece> = Vec::new();
        for round in 0..30usize {
            let data = vec![round as u8; 128 << 10];
            let request = [header(1, round as u64 * 256), data].concat();
            let piece = rig.arena.put(&request);
            let status = (rig.arena.take(1, 1), 1);
            answers.push(status);
            rig.queues[0].add(&[piece], &[status]).unwrap();
        }
        rig.queues[0].kick();
        rig.restart();
        // What was not taken before the stop is taken after it.
        for _ in 0..30 {
            rig.queues[0]
                .wait_used(std::time::Duration::from_secs(20))
                .unwrap();
        }
        assert!(
            answers
                .iter()
                .all(|&status| rig.arena.get(&[status]) == [OK])
        );
        let states = rig.device.stop();
        assert_eq!(states[0].unwrap().next_used, 30);
        let bytes = contents(&file);
        for round in 0..30usize {
            assert!(
                bytes[round * (128 << 10)..][..128 << 10]
                    .iter()
                    .all(|&byte| byte == round as u8)
            );
        }
    }
}

#[test]
fn sixty_disks_share_a_thread() {
    let pool = Pool::new("layers", 1, EngineKind::Auto);
    let mut rigs: Vec<_> = (0..60u64)
        .map(|layer| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&Random::new(layer).bytes(8192), 0)
                .unwrap();
            let device = Blk::new(BlkConfig {
                file,
                serial: format!("layer-{layer:04}"),
                read_only: true,
                ephemeral: false,
                queues: 1,
                queue_size: 32,
                pool: pool.clone(),
            });
            Rig::with_arena(device.unwrap(), features::EVENT_IDX, 1 << 20)
        })
        .collect();
    let mut random = Random::new(8);
    for (layer, rig) in rigs.iter_mut().enumerate() {
        let (status, data, _) = ask(rig, &header(0, 0), 8192, &mut random);
        assert_eq!(status, OK);
        assert!(data == Random::new(layer as u64).bytes(8192));
    }
    // Half of them leave, in any order; the others are not disturbed.
    for _ in 0..30 {
        let leaver = random.len(rigs.len());
        assert!(rigs.swap_remove(leaver).device.stop()[0].is_some());
        let stays = random.len(rigs.len());
        let rig = &mut rigs[stays];
        let (status, id, _) = ask(rig, &header(8, 0), 20, &mut random);
        let serial = String::from_utf8_lossy(&id)
            .trim_end_matches('\0')
            .to_owned();
        assert_eq!((status, format!("blk {serial}")), (OK, rig.device.name()));
    }
    let named = |name: &str| {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .filter(|comm| comm.starts_with(name))
            .count()
    };
    assert_eq!(named("layers"), 1);
    drop(rigs);
    assert_eq!(named("layers"), 0, "the thread ends with its last disk");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the header and however it is cut, the device answers with a status and lives.
    #[test]
    fn any_header_gets_a_status(
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..200, any::<u64>()],
        data in proptest::collection::vec(any::<u8>(), 0..2000),
        room in 0usize..2000,
        seed in any::<u64>(),
    ) {
        let mut rig = rig(&image(64 << 10), EngineKind::Plain);
        let request = [header(kind, sector), data].concat();
        let (status, ..) = ask(&mut rig, &request, room, &mut Random::new(seed));
        prop_assert!(status <= UNSUPP);
        prop_assert_eq!(rig.device.failure(), None);
    }
}
