//! The store over disks that hang, fail, vanish, and come back.

use super::queue::STALLED_AFTER;
use super::tests::{data, ids, open_with, options, put, read_all};
use super::*;
use quarry_common::wire::cluster::DiskState;
use quarry_host::disk::faulty::{Calls, FaultyDisk};
use quarry_host::disk::{Disk, DiskFile, Entry, Identity, Space};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar};
use std::time::Instant;

fn id(sequence: u64) -> ChunkId {
    ChunkId::new(PgId(1), sequence)
}

/// A disk on which calls below one path do not return while it hangs.
#[derive(Clone)]
struct HangingDisk {
    disk: FaultyDisk,
    below: PathBuf,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl HangingDisk {
    fn new(below: &str) -> Self {
        Self { disk: FaultyDisk::default(), below: below.into(), gate: Arc::default() }
    }

    fn hang(&self, hangs: bool) {
        *self.gate.0.lock().unwrap() = hangs;
        self.gate.1.notify_all();
    }

    fn on(&self, path: &Path) -> &FaultyDisk {
        if path.starts_with(&self.below) {
            let hangs = self.gate.0.lock().unwrap();
            drop(self.gate.1.wait_while(hangs, |hangs| *hangs).unwrap());
        }
        &self.disk
    }
}

impl Disk for HangingDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.on(path).create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.on(path).list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.on(path).create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.on(path).open(path)
    }
    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.on(path).open_writable(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.on(to).rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.on(path).remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.on(path).sync_dir(path)
    }
    fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.on(path).sync_all(path)
    }
    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.on(path).identity(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.on(path).space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.on(path).lock(path)
    }
    fn boot_id(&self) -> String {
        self.disk.boot_id()
    }
}

/// How the disk of `/a` is.
fn state(store: &Store) -> DiskState {
    store.disks()[0].state
}

/// Looks after `/a` until its disk is as it should be.
fn tend_until(store: &Store, wanted: DiskState) {
    let begun = Instant::now();
    while state(store) != wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", store.disks());
        store.tend(0);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn on_a(disk: &FaultyDisk, id: ChunkId) -> bool {
    let names = disk.list(Path::new("/a/data_blocks/1")).unwrap_or_default();
    names.iter().any(|entry| entry.name == id.to_string())
}

#[test]
fn a_disk_that_hangs_takes_no_writes_and_its_late_files_are_removed() {
    let disk = HangingDisk::new("/a");
    let store = Store::open(Arc::new(disk.clone()), &options(&["/a", "/b"]), 7).unwrap();
    for sequence in 0..20 {
        put(&store, id(sequence), 100, true).unwrap();
    }
    let there = (0..20).map(id).find(|id| on_a(&disk.disk, *id)).unwrap();
    disk.hang(true);
    let begun = Instant::now();
    for sequence in 20..40 {
        put(&store, id(sequence), 100, true).unwrap();
    }
    // One write waits until the disk is found to hang, and no other does.
    let took = begun.elapsed();
    assert!(took >= STALLED_AFTER && took < 2 * STALLED_AFTER, "{took:?}");
    assert_eq!(state(&store), DiskState::Stalled);
    let figures = store.figures();
    assert!(figures.writable && figures.disks_out.is_none(), "{figures:?}");
    assert!(figures.trouble.contains("/a: the disk has not answered"), "{figures:?}");
    // Its chunks cannot be read, which is told at once.
    let begun = Instant::now();
    assert!(matches!(read_all(&store, there), Err(StoreError::Io { .. })));
    assert!(begun.elapsed() < STALLED_AFTER / 2);
    // The same chunk may be written again: another disk takes it.
    put(&store, there, 100, true).unwrap();
    assert_eq!(read_all(&store, there).unwrap(), data(there, 100));
    disk.hang(false);
    tend_until(&store, DiskState::Working);
    store.tend(0);
    assert!(!on_a(&disk.disk, there), "the chunk is kept elsewhere");
    for sequence in 0..40 {
        assert_eq!(read_all(&store, id(sequence)).unwrap(), data(id(sequence), 100));
    }
    assert_eq!(store.figures().chunks, 40);
    drop(store);
    let store = open_with(&disk.disk, &options(&["/a", "/b"])).unwrap();
    assert_eq!(ids(&store), (0..40).map(id).collect::<Vec<_>>());
}

#[test]
fn a_disk_that_stays_hung_is_given_up_and_taken_back_when_it_answers() {
    let disk = HangingDisk::new("/a");
    let store = Store::open(Arc::new(disk.clone()), &options(&["/a", "/b"]), 7).unwrap();
    for sequence in 0..20 {
        put(&store, id(sequence), 100, true).unwrap();
    }
    let lost: Vec<ChunkId> = (0..20).map(id).filter(|id| on_a(&disk.disk, *id)).collect();
    disk.hang(true);
    tend_until(&store, DiskState::Failed);
    // They are reported, so that other nodes give them again.
    assert_eq!(store.report().some(100), lost);
    assert_eq!(store.figures().chunks, 20 - lost.len() as u64);
    put(&store, lost[0], 100, true).unwrap();
    disk.hang(false);
    tend_until(&store, DiskState::Working);
    assert_eq!(store.figures().chunks, 20);
    store.tend(0);
    assert!(!on_a(&disk.disk, lost[0]), "it was restored elsewhere");
    for sequence in 0..20 {
        assert_eq!(read_all(&store, id(sequence)).unwrap(), data(id(sequence), 100));
    }
}

#[test]
fn one_disk_alone_that_fails_is_no_lack_of_room_and_returns_by_itself() {
    let disk = FaultyDisk::default();
    let store = open_with(&disk, &options(&["/a"])).unwrap();
    put(&store, id(1), 100, true).unwrap();
    for error in [Errno::IO, Errno::ROFS] {
        disk.fail(Path::new("/a"), Calls::Writes, error);
        for sequence in 2..4 {
            assert!(matches!(put(&store, id(sequence), 100, true), Err(StoreError::Io { .. })));
        }
        assert!(store.figures().disks_out.is_some());
        assert_eq!(read_all(&store, id(1)).unwrap(), data(id(1), 100), "it can still be read");
        for _ in 0..20 {
            store.tend(0);
            assert_eq!(state(&store), DiskState::Failed);
        }
        disk.heal();
        tend_until(&store, DiskState::Working);
        assert_eq!(store.figures().disks_out, None);
    }
    put(&store, id(2), 100, true).unwrap();
    assert!(store.report().some(10).is_empty());
}

#[test]
fn a_disk_that_fails_is_noticed_without_a_write() {
    let disk = FaultyDisk::default();
    let store = open_with(&disk, &options(&["/a"])).unwrap();
    disk.fail(Path::new("/a"), Calls::Syncs, Errno::IO);
    tend_until(&store, DiskState::Failed);
    disk.heal();
    tend_until(&store, DiskState::Working);
}

#[test]
fn nothing_is_written_below_a_mount_point_and_the_disk_is_taken_back_when_it_is_mounted() {
    let disk = FaultyDisk::default();
    let store = open_with(&disk, &options(&["/a", "/b"])).unwrap();
    for sequence in 0..20 {
        put(&store, id(sequence), 100, true).unwrap();
    }
    let lost: Vec<ChunkId> = (0..20).map(id).filter(|id| on_a(&disk, *id)).collect();
    let meta = Path::new("/a").join(meta::META);
    let content = disk.content(&meta);
    disk.remove(&meta).unwrap();
    for sequence in 20..40 {
        put(&store, id(sequence), 100, true).unwrap();
        assert!(!on_a(&disk, id(sequence)));
    }
    assert_eq!(state(&store), DiskState::Failed);
    assert_eq!(store.report().some(100), lost);
    for _ in 0..20 {
        store.tend(0);
        assert_eq!(state(&store), DiskState::Failed);
    }
    assert!(store.figures().trouble.contains("is the disk mounted?"), "{}", store.figures().trouble);
    // A directory of another node is not taken.
    let write = |text: &str| {
        let file = disk.create(&meta).unwrap();
        file.write(0, &[text.to_owned().into()]).unwrap();
    };
    let content = String::from_utf8(content).unwrap();
    write(&content.replace("node = 1", "node = 2"));
    for _ in 0..20 {
        store.tend(0);
        assert_eq!(state(&store), DiskState::Failed);
    }
    assert!(store.figures().trouble.contains("belongs to DataNode 2"), "{}", store.figures().trouble);
    write(&content);
    tend_until(&store, DiskState::Working);
    assert_eq!(ids(&store), (0..40).map(id).collect::<Vec<_>>());
}

#[test]
fn a_read_shows_that_the_directory_is_gone() {
    let disk = FaultyDisk::default();
    let store = open_with(&disk, &options(&["/a"])).unwrap();
    for sequence in 0..3 {
        put(&store, id(sequence), 100, true).unwrap();
    }
    disk.remove(&Path::new("/a").join(meta::META)).unwrap();
    for entry in disk.list(Path::new("/a/data_blocks/1")).unwrap() {
        disk.remove(&Path::new("/a/data_blocks/1").join(entry.name)).unwrap();
    }
    read_all(&store, id(1)).unwrap_err();
    assert_eq!(state(&store), DiskState::Failed);
    assert_eq!(store.report().some(10).len(), 3);
}
