//! The store over a disk that fails.

use super::error::OpenError;
use super::*;
use proptest::prelude::*;
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::NodeId;
use quarry_host::disk::Disk;
use quarry_host::disk::faulty::{Calls, FaultyDisk};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn id(pg: u32, sequence: u64) -> ChunkId {
    ChunkId::new(PgId(pg), sequence)
}

pub(super) fn options(dirs: &[&str]) -> Options {
    Options {
        dirs: dirs.iter().map(PathBuf::from).collect(),
        owner: Owner { cluster: "test".into(), node: NodeId(1) },
        reserve: 0,
        limit: None,
    }
}

pub(super) fn open_with(disk: &FaultyDisk, options: &Options) -> Result<Store, OpenError> {
    Store::open(Arc::new(disk.clone()), options, 7)
}

fn open(disk: &FaultyDisk) -> Store {
    open_with(disk, &options(&["/a"])).unwrap()
}

/// Content that differs from chunk to chunk.
pub(super) fn data(id: ChunkId, length: usize) -> Bytes {
    (0..length).map(|i| (GroupDigest::mix(ChunkId(id.0 ^ (i as u64 / 8))) >> (i % 8 * 8)) as u8).collect()
}

fn trailer(id: ChunkId, data: &[u8]) -> Trailer {
    Trailer { id, length: data.len() as u32, sha256: sha256(data), block_crcs: block_crcs(data) }
}

pub(super) fn put(store: &Store, id: ChunkId, length: usize, durable: bool) -> Result<(), StoreError> {
    let data = data(id, length);
    let (one, two) = (data.slice(..length / 2), data.slice(length / 2..));
    store.put(&trailer(id, &data), &[one, two], durable)
}

pub(super) fn read_all(store: &Store, id: ChunkId) -> Result<Bytes, StoreError> {
    store.read(id, 0, u32::MAX).map(|r| r.data)
}

fn file_of(id: ChunkId) -> PathBuf {
    Path::new("/a/data_blocks").join(id.pg().to_string()).join(id.to_string())
}

pub(super) fn ids(store: &Store) -> Vec<ChunkId> {
    let mut all = Vec::new();
    while let Some((id, _)) = store.next(all.last().copied()) {
        all.push(id);
    }
    all
}

#[test]
fn ranges_are_widened_to_blocks() {
    let store = open(&FaultyDisk::default());
    let length = 3 * 65536 + 100;
    put(&store, id(1, 1), length, true).unwrap();
    let whole = data(id(1, 1), length);
    for (offset, want, start, end) in [
        (0, 1, 0, 65536),
        (65535, 2, 0, 2 * 65536),
        (65536, 65536, 65536, 2 * 65536),
        (3 * 65536, 1, 3 * 65536, length),
        (0, length as u32, 0, length),
        (length as u32, 1, 3 * 65536, length),
        (u32::MAX, u32::MAX, length, length),
    ] {
        let range = store.read(id(1, 1), offset, want).unwrap();
        assert_eq!((range.offset as usize, &range.data[..]), (start, &whole[start..end]), "{offset} {want}");
        assert_eq!(range.block_crcs, block_crcs(&whole)[start.div_ceil(65536)..end.div_ceil(65536)]);
    }
    assert!(matches!(store.read(id(1, 2), 0, 1), Err(StoreError::NotFound(_))));
}

#[test]
fn the_same_chunk_again_is_fine_and_another_content_is_not() {
    let store = open(&FaultyDisk::default());
    put(&store, id(1, 1), 1000, false).unwrap();
    put(&store, id(1, 1), 1000, false).unwrap();
    put(&store, id(1, 1), 1000, true).unwrap();
    assert!(matches!(put(&store, id(1, 1), 999, true), Err(StoreError::Conflict(_))));
    assert_eq!(store.digest(PgId(1)).count, 1);
    assert_eq!(read_all(&store, id(1, 1)).unwrap(), data(id(1, 1), 1000));
    store.delete(&[id(1, 1), id(1, 2)]);
    assert!(!store.has(id(1, 1)));
    assert_eq!(store.figures().chunks, 0);
}

#[test]
fn many_writers_of_one_chunk_make_one() {
    let store = open(&FaultyDisk::default());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| put(&store, id(1, 1), 5000, false).unwrap());
        }
    });
    assert_eq!((store.figures().chunks, store.figures().bytes), (1, 5000));
}

#[test]
fn rot_is_found_quarantined_and_reported() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    for (sequence, at) in [(1, 0), (2, 70_000), (3, 100_000), (4, 100_050)] {
        let id = id(1, sequence);
        put(&store, id, 100_000, true).unwrap();
        disk.rot(&file_of(id), at);
        let found =
            if sequence % 2 == 0 { store.verify(id).map(|_| ()) } else { read_all(&store, id).map(|_| ()) };
        assert!(matches!(found, Err(StoreError::Rotten { .. })), "{found:?}");
        assert!(!store.has(id));
    }
    put(&store, id(1, 5), 10, true).unwrap();
    disk.remove(&file_of(id(1, 5))).unwrap();
    assert!(
        matches!(read_all(&store, id(1, 5)), Err(StoreError::Rotten { why, .. }) if why.contains("missing"))
    );
    assert_eq!(store.report().some(10).len(), 5);
    assert_eq!(disk.list(Path::new("/a/quarantine")).unwrap().len(), 4);
    assert_eq!(store.figures().scrubbed, (0, 5));
    // A good copy may come back.
    put(&store, id(1, 1), 100_000, true).unwrap();
    store.scrub(id(1, 1)).unwrap();
    assert_eq!(store.figures().scrubbed, (1, 5));
    drop(store);
    assert_eq!(ids(&open(&disk)), [id(1, 1)]);
}

#[test]
fn a_rotten_chunk_is_replaced_when_it_is_written_again() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    put(&store, id(1, 1), 100, true).unwrap();
    disk.rot(&file_of(id(1, 1)), 110);
    put(&store, id(1, 1), 100, true).unwrap();
    assert_eq!(read_all(&store, id(1, 1)).unwrap(), data(id(1, 1), 100));
}

#[test]
fn quarantine_is_bounded() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    for sequence in 0..120 {
        put(&store, id(1, sequence), 10, true).unwrap();
        disk.rot(&file_of(id(1, sequence)), 0);
        store.verify(id(1, sequence)).unwrap_err();
    }
    assert_eq!(disk.list(Path::new("/a/quarantine")).unwrap().len(), 100);
    assert_eq!(disk.list(Path::new("/a/data_blocks/1")).unwrap().len(), 0);
}

#[test]
fn directories_of_others_are_refused() {
    let disk = FaultyDisk::default();
    drop(open(&disk));
    let refused = |change: &dyn Fn(&mut Options)| {
        let mut options = options(&["/a"]);
        change(&mut options);
        open_with(&disk, &options).err().expect("must be refused").to_string()
    };
    assert!(refused(&|o| o.owner.node = NodeId(2)).contains("belongs to DataNode 1"));
    assert!(refused(&|o| o.owner.cluster = "other".into()).contains("belongs to cluster `test`"));
    assert!(refused(&|o| o.dirs.push("/a".into())).contains("given twice"));
    assert!(refused(&|o| o.dirs.clear()).contains("at least one"));
    let held = open(&disk);
    assert!(refused(&|_| ()).contains("another process"));
    drop(held);
    drop(Store::open(Arc::new(disk.clone()), &options(&["/b"]), 8).unwrap());
    assert!(refused(&|o| o.dirs.push("/b".into())).contains("another store"));
    disk.create_dir(Path::new("/c/letters")).unwrap();
    assert!(refused(&|o| o.dirs.push("/c".into())).contains("letters"));
    let meta = Path::new("/a").join(meta::META);
    let newer =
        String::from_utf8(disk.content(&meta)).unwrap().replace("format_version = 1", "format_version = 2");
    disk.replace(&meta, newer.into_bytes());
    assert!(refused(&|_| ()).contains("update Quarry"));
    disk.replace(&meta, b"garbage".to_vec());
    assert!(refused(&|_| ()).contains("damaged"));
}

#[test]
fn a_chunk_of_a_newer_program_is_neither_read_nor_thrown_away() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    put(&store, id(1, 1), 100, true).unwrap();
    let mut file = disk.content(&file_of(id(1, 1)));
    let at = file.len() - 16;
    file[at] = 2;
    disk.replace(&file_of(id(1, 1)), file.clone());
    assert!(matches!(read_all(&store, id(1, 1)), Err(StoreError::Newer { .. })));
    assert!(store.has(id(1, 1)));
    drop(store);
    // After the machine has stopped, files are looked at.
    disk.lose_power(1);
    let why = open_with(&disk, &options(&["/a"])).err().unwrap().to_string();
    assert!(why.contains("format version is 2") && why.contains("update Quarry"), "{why}");
}

#[test]
fn a_store_keeps_its_id_and_a_new_directory_joins_it() {
    let disk = FaultyDisk::default();
    assert_eq!(open(&disk).store_id(), 7);
    let store = Store::open(Arc::new(disk.clone()), &options(&["/new", "/a"]), 99).unwrap();
    assert_eq!(store.store_id(), 7);
}

#[test]
fn each_directory_gets_its_share_by_free_space() {
    let disk = FaultyDisk::default();
    for (dir, size) in [("/a", 30 << 20), ("/b", 60 << 20), ("/c", 5000)] {
        disk.size(Path::new(dir), size);
    }
    let store = open_with(&disk, &options(&["/a", "/b", "/c"])).unwrap();
    assert!(store.figures().trouble.contains("/c: full") && store.figures().writable);
    for sequence in 0..300 {
        put(&store, id(1, sequence), 50_000, false).unwrap();
    }
    let count = |dir: &str| disk.list(&Path::new(dir).join("data_blocks/1")).map_or(0, |l| l.len());
    assert!(count("/a") > 60 && count("/b") > 2 * count("/a") - 60, "{} {}", count("/a"), count("/b"));
    assert_eq!((count("/c"), store.figures().capacity), (0, (90 << 20) + 5000));
}

#[test]
fn full_and_failing_directories_do_not_take_down_the_others() {
    let disk = FaultyDisk::default();
    let both = options(&["/a", "/b"]);
    let store = open_with(&disk, &both).unwrap();
    disk.fail(Path::new("/a"), Calls::Writes, Errno::IO);
    for sequence in 0..20 {
        put(&store, id(1, sequence), 100, true).unwrap();
    }
    let figures = store.figures();
    assert!(figures.writable && figures.trouble.contains("/a"), "{figures:?}");
    disk.fail(Path::new("/b"), Calls::Writes, Errno::NOSPC);
    assert!(matches!(put(&store, id(1, 99), 100, true), Err(StoreError::NoSpace(_))));
    assert!(!store.figures().writable);
    // What is there can still be read, and the node starts with the directory that is left.
    assert_eq!(read_all(&store, id(1, 5)).unwrap(), data(id(1, 5), 100));
    drop(store);
    let disk = FaultyDisk::default();
    disk.fail(Path::new("/a"), Calls::Reads, Errno::IO);
    let store = open_with(&disk, &both).unwrap();
    put(&store, id(1, 1), 100, true).unwrap();
    drop(store);
    assert!(open_with(&disk, &options(&["/a"])).is_err());
}

#[test]
fn a_full_disk_is_served_after_a_restart() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    put(&store, id(1, 1), 100, true).unwrap();
    put(&store, id(1, 2), 70_000, true).unwrap();
    store.close();
    drop(store);
    disk.size(Path::new("/a"), 70_000);
    let store = open(&disk);
    assert!(!store.figures().writable && store.figures().trouble.contains("full"));
    assert_eq!(read_all(&store, id(1, 1)).unwrap(), data(id(1, 1), 100));
    // Without the note that the store is open, a loss of power must still be noticed.
    disk.size(Path::new("/a"), 1 << 30);
    store.tend(0);
    put(&store, id(1, 3), 70_000, false).unwrap();
    for seed in 0..20 {
        disk.lose_power(seed);
        assert_recovered(&disk, &[id(1, 1), id(1, 2)], &[], "after a full disk");
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_given_up() {
    let disk = FaultyDisk::default();
    let store = open_with(&disk, &options(&["/a", "/b"])).unwrap();
    for sequence in 0..100 {
        put(&store, id(1, sequence), 100, true).unwrap();
    }
    disk.fail(Path::new("/a"), Calls::Reads, Errno::IO);
    let on_a = |sequence: &u64| {
        disk.list(Path::new("/b/data_blocks/1"))
            .unwrap()
            .iter()
            .all(|e| e.name != id(1, *sequence).to_string())
    };
    let lost: Vec<u64> = (0..100).filter(on_a).collect();
    for sequence in &lost[..10] {
        assert!(store.verify(id(1, *sequence)).is_err());
    }
    assert_eq!(store.figures().chunks, 100 - lost.len() as u64);
    assert_eq!(store.report().some(1000).len(), lost.len());
}

#[test]
fn the_limit_counts_files_and_deleting_makes_room() {
    let mut options = options(&["/a"]);
    let size = file_size(CHUNK_SIZE as u32);
    options.limit = Some(3 * size);
    let store = open_with(&FaultyDisk::default(), &options).unwrap();
    for sequence in 0..3 {
        assert!(store.figures().writable);
        put(&store, id(1, sequence), CHUNK_SIZE as usize, false).unwrap();
    }
    let figures = store.figures();
    assert!(!figures.writable && figures.free == 0 && figures.capacity == 3 * size, "{figures:?}");
    assert!(figures.trouble.contains("capacity limit"));
    assert!(matches!(put(&store, id(1, 4), 1, false), Err(StoreError::NoSpace(_))));
    store.delete(&[id(1, 0)]);
    put(&store, id(1, 4), 1, false).unwrap();
}

#[test]
fn a_chunk_whose_sync_failed_is_given_up() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    put(&store, id(1, 1), 100, false).unwrap();
    put(&store, id(1, 2), 100, false).unwrap();
    disk.fail(&file_of(id(1, 2)), Calls::Syncs, Errno::IO);
    store.sync(&[id(1, 1)]).unwrap();
    assert!(matches!(store.sync(&[id(1, 2)]), Err(StoreError::Rotten { .. })));
    assert!(store.has(id(1, 1)) && !store.has(id(1, 2)) && !store.figures().writable);
    assert!(matches!(store.sync(&[id(1, 2)]), Err(StoreError::NotFound(_))));
}

/// What a writer was told.
#[derive(Default)]
struct Told {
    written: Vec<ChunkId>,
    durable: Vec<ChunkId>,
    /// Deleted, or the deletion was begun: may be there or not.
    deleted: Vec<ChunkId>,
}

/// Some work with everything in it, until the disk dies.
fn work(disk: &FaultyDisk, told: &mut Told) -> Option<()> {
    let store = open_with(disk, &options(&["/a"])).ok()?;
    for (sequence, durable) in [(1, true), (2, false), (3, false), (4, true)] {
        put(&store, id(1, sequence), 70_000, durable).ok()?;
        told.written.push(id(1, sequence));
        if durable {
            told.durable.push(id(1, sequence));
        }
    }
    store.sync(&[id(1, 2)]).ok()?;
    told.durable.push(id(1, 2));
    told.deleted.push(id(1, 4));
    store.delete(&[id(1, 4)]);
    for sequence in 0..10 {
        put(&store, id(2, sequence), 500, false).ok()?;
        told.written.push(id(2, sequence));
    }
    let many: Vec<ChunkId> = (0..9).map(|s| id(2, s)).collect();
    store.sync(&many).ok()?;
    told.durable.extend(&many);
    put(&store, id(3, 1), 10, true).ok()?;
    told.durable.push(id(3, 1));
    told.written.push(id(3, 1));
    store.close();
    Some(())
}

/// After a crash and a restart, whatever happened: chunks are whole or absent, and what was promised is there.
fn assert_recovered(disk: &FaultyDisk, promised: &[ChunkId], deleted: &[ChunkId], what: &str) {
    let store = open(disk);
    let here = ids(&store);
    for id in promised.iter().filter(|id| !deleted.contains(id)) {
        assert!(here.contains(id), "{what}: {id} is lost");
    }
    for id in &here {
        store.verify(*id).unwrap_or_else(|e| panic!("{what}: {id}: {e}"));
        let length = read_all(&store, *id).unwrap().len();
        assert_eq!(read_all(&store, *id).unwrap(), data(*id, length), "{what}: {id}");
    }
    for pg in disk.list(Path::new("/a/data_blocks")).unwrap() {
        let names = disk.list(&Path::new("/a/data_blocks").join(pg.name)).unwrap();
        assert!(names.iter().all(|e| !e.name.ends_with(".tmp")), "{what}: a temporary file is left");
        assert_eq!(here.iter().filter(|id| id.pg().0 == pg_number(&names)).count(), names.len(), "{what}");
    }
    drop(store);
    assert_eq!(ids(&open(disk)), here, "{what}: a second start finds something else");
}

fn pg_number(names: &[quarry_host::disk::Entry]) -> u32 {
    names.first().map_or(u32::MAX, |e| e.name.parse::<ChunkId>().unwrap().pg().0)
}

fn steps_of_work() -> u64 {
    let disk = FaultyDisk::default();
    work(&disk, &mut Told::default()).unwrap();
    disk.steps()
}

#[test]
fn killed_at_any_step_every_chunk_is_whole_or_absent() {
    for step in 1..=steps_of_work() {
        let (disk, mut told) = (FaultyDisk::default(), Told::default());
        disk.kill_at(step);
        work(&disk, &mut told);
        disk.restart();
        assert_recovered(&disk, &told.written, &told.deleted, &format!("killed at step {step}"));
    }
}

#[test]
fn killed_while_recovering() {
    let (disk, mut told) = (FaultyDisk::default(), Told::default());
    disk.kill_at(steps_of_work() - 8);
    work(&disk, &mut told);
    disk.lose_power(3);
    for _ in 0..20 {
        disk.kill_at(disk.steps() + 1);
        drop(open_with(&disk, &options(&["/a"])));
        disk.restart();
    }
    assert_recovered(&disk, &told.durable, &told.deleted, "recovery that is killed again and again");
}

proptest! {
    #[test]
    fn without_power_at_any_step_what_was_durable_is_there(step in 1..=steps_of_work() + 1, seed: u64) {
        let (disk, mut told) = (FaultyDisk::default(), Told::default());
        disk.kill_at(step);
        work(&disk, &mut told);
        disk.lose_power(seed);
        assert_recovered(&disk, &told.durable, &told.deleted, &format!("power lost at step {step}, seed {seed}"));
    }

    #[test]
    fn without_power_after_a_kill_and_a_clean_stop(step in 1..=steps_of_work(), seed: u64) {
        let (disk, mut told) = (FaultyDisk::default(), Told::default());
        disk.kill_at(step);
        work(&disk, &mut told);
        disk.restart();
        let store = open(&disk);
        let here = ids(&store);
        store.close();
        drop(store);
        disk.lose_power(seed);
        assert_recovered(&disk, &here, &[], &format!("killed at step {step}, stopped, power lost, seed {seed}"));
    }
}
