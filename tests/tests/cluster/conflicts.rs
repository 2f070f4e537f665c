//! Mounts that get in each other's way all the time: on the same names, files, mappings and locks. Nothing may hang, nothing that was
//! acknowledged may be lost, and afterwards all agree.

use quarry_tests::mapping::Mapping;
use quarry_tests::watchdog::Watchdog;
use quarry_tests::{Cluster, Views};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::fs::{FallocateFlags, XattrFlags, fallocate, setxattr};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const OPERATION_LIMIT: Duration = Duration::from_secs(20);
const NAMES: [&str; 5] = ["a", "b", "c", "d", "d/e"];
const RECORD: usize = 50;
const MAPPED: usize = 64 << 10;

/// `scripts/soak` makes it minutes.
fn duration() -> Duration {
    let seconds = std::env::var("QUARRY_STRESS_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

fn seed() -> u64 {
    let seed = std::env::var("QUARRY_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("QUARRY_SEED={seed}");
    seed
}

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// One of the workers of the stress.
struct Worker<'a> {
    number: usize,
    root: &'a Path,
    rng: StdRng,
    /// Files that it opened once, whatever became of their names.
    open: VecDeque<File>,
    map: (File, Mapping),
    log: File,
    counter: File,
    /// What all workers added to the log and to the counter.
    totals: &'a [AtomicU64; 2],
}

impl<'a> Worker<'a> {
    fn new(number: usize, root: &'a Path, seed: u64, totals: &'a [AtomicU64; 2]) -> Self {
        let mapped = read_write(&root.join("mapped"));
        let map = Mapping::new(&mapped, MAPPED).unwrap();
        Self {
            number,
            root,
            rng: StdRng::seed_from_u64(seed ^ number as u64),
            open: VecDeque::new(),
            map: (mapped, map),
            log: File::options().append(true).open(root.join("log")).unwrap(),
            counter: read_write(&root.join("counter")),
            totals,
        }
    }

    fn any(&mut self) -> PathBuf {
        self.root.join(NAMES[self.rng.random_range(0..NAMES.len())])
    }

    /// One operation, under watch. Races for names make many fail, only an I/O error is never right; what has a file of its own must
    /// succeed.
    fn operate(&mut self, watchdog: &Watchdog) {
        let (kind, a, b) = (self.rng.random_range(0..24), self.any(), self.any());
        let what = || format!("operation {kind} on {a:?} and {b:?}");
        let result = watchdog.during(self.number, what, || match kind {
            0..15 => self.by_name(kind, &a, &b),
            15..18 => self.by_descriptor(),
            18..20 => self.by_mapping(),
            20..22 => self.append(),
            _ => self.count(),
        });
        if let Err(e) = result {
            let bad = [libc::EIO, libc::ENOTCONN, libc::ENOSYS, libc::ETIMEDOUT];
            let wrong = kind >= 18 || e.raw_os_error().is_some_and(|n| bad.contains(&n));
            assert!(!wrong, "{}: {e}", what());
        }
    }

    fn by_name(&mut self, kind: u32, a: &Path, b: &Path) -> io::Result<()> {
        let rng = &mut self.rng;
        match kind {
            0 => File::create(a)?.write_all_at(&vec![1; rng.random_range(1..100_000)], 0),
            1 => {
                File::options().write(true).open(a)?.write_all_at(&[2; 3_000], rng.random_range(0..3_000_000))
            }
            2 => File::options().write(true).open(a)?.set_len(rng.random_range(0..200_000)),
            3 => File::options().append(true).create(true).open(a)?.write_all(b"some more"),
            4 => fs::read(a).map(drop),
            5 => fs::rename(a, b),
            6 => fs::hard_link(a, b),
            7 => fs::remove_file(a),
            8 => fs::create_dir(a),
            9 => fs::remove_dir(a),
            10 => symlink(b, a),
            11 => fs::set_permissions(a, Permissions::from_mode(rng.random_range(0o600..0o777))),
            12 => Ok(setxattr(a, "user.x", &[rng.random()], XattrFlags::empty())?),
            13 => fs::read_dir(self.root)?.try_for_each(|e| e?.metadata().map(drop)),
            _ => {
                let file = File::options().read(true).write(true).open(a)?;
                self.open.push_back(file);
                if self.open.len() > 4 {
                    self.open.pop_front();
                }
                Ok(())
            }
        }
    }

    fn by_descriptor(&mut self) -> io::Result<()> {
        let Some(file) = self.open.back() else { return Ok(()) };
        let at = self.rng.random_range(0..100_000);
        match self.rng.random_range(0..5) {
            0 => file.write_all_at(&vec![3; self.rng.random_range(1..20_000)], at),
            1 => file.set_len(at),
            2 => file.sync_all(),
            3 => file.metadata().map(drop),
            _ => file.read_at(&mut vec![0; 30_000], at).map(drop),
        }
    }

    fn by_mapping(&mut self) -> io::Result<()> {
        let (file, map) = &self.map;
        let at = self.rng.random_range(0..MAPPED - 200);
        let byte = [self.rng.random()];
        match self.rng.random_range(0..4) {
            0 => file.write_all_at(&byte.repeat(200), at as u64),
            1 => {
                map.write(at, &byte.repeat(200));
                map.sync()
            }
            2 => file.read_exact_at(&mut [0; 200], at as u64),
            _ => {
                map.read(at, 200);
                Ok(())
            }
        }
    }

    fn append(&mut self) -> io::Result<()> {
        let n = self.totals[0].fetch_add(1, Ordering::Relaxed);
        self.log.write_all(format!("{n:0>width$}\n", width = RECORD - 1).as_bytes())
    }

    /// Adds one to a number in a file; a lock makes it safe.
    fn count(&mut self) -> io::Result<()> {
        self.counter.lock()?;
        let mut number = [0; 8];
        self.counter.read_exact_at(&mut number, 0)?;
        let next = u64::from_le_bytes(number) + 1;
        self.counter.write_all_at(&next.to_le_bytes(), 0)?;
        self.totals[1].fetch_add(1, Ordering::Relaxed);
        self.counter.unlock()
    }
}

/// Everything that a mount shows below a directory: attributes, and contents or target.
fn tree(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let m = fs::symlink_metadata(&full).unwrap();
            let (mtime, ctime) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
            let attributes =
                format!("{} {:o} {} {} {mtime:?} {ctime:?}", m.ino(), m.mode(), m.nlink(), m.len());
            let contents = if m.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else if m.is_symlink() {
                fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&full).unwrap()
            };
            found.insert(path, (attributes, contents));
        }
    }
    found
}

fn assert_agreed(roots: &[PathBuf]) {
    let first = tree(&roots[0]);
    for root in &roots[1..] {
        let other = tree(root);
        assert_eq!(first.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "names differ");
        for (path, (attributes, contents)) in &first {
            let (theirs, data) = &other[path];
            assert_eq!(attributes, theirs, "attributes of {path:?} differ");
            assert!(contents == data, "contents of {path:?} differ");
        }
    }
}

fn conflicts(mounts: usize, workers: usize) {
    let seed = seed();
    let cluster = Cluster::start();
    let mut views = Views::new(&cluster, mounts);
    fs::write(views.path(0, "mapped"), vec![0; MAPPED]).unwrap();
    fs::write(views.path(0, "log"), "").unwrap();
    fs::write(views.path(0, "counter"), [0; 8]).unwrap();
    let (roots, pids) = (views.roots(), views.pids());
    let totals = [AtomicU64::new(0), AtomicU64::new(0)];
    let operations = AtomicU64::new(0);
    let end = Instant::now() + duration();
    let watchdog = Watchdog::new(workers, OPERATION_LIMIT);
    watchdog.watch(&pids, |number| {
        let mut worker = Worker::new(number, &roots[number % roots.len()], seed, &totals);
        while Instant::now() < end && !watchdog.barked() {
            worker.operate(&watchdog);
            operations.fetch_add(1, Ordering::Relaxed);
        }
    });
    let [appended, counted] = totals.map(AtomicU64::into_inner);
    eprintln!("{} operations, {appended} appends, {counted} counts", operations.into_inner());
    for root in &roots {
        assert_eq!(fs::read(root.join("counter")).unwrap(), counted.to_le_bytes(), "in {root:?}");
        let log = fs::read_to_string(root.join("log")).unwrap();
        let mut numbers: Vec<u64> = log.lines().map(|l| l.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert!(
            log.len() as u64 == appended * RECORD as u64 && numbers.into_iter().eq(0..appended),
            "the log"
        );
    }
    assert_agreed(&roots);
    cluster.assert_sound(true);
}

#[test]
fn two_mounts_in_conflict() {
    conflicts(2, 6);
}

#[test]
fn four_mounts_in_conflict() {
    conflicts(4, 8);
}

/// One file, through two mounts in turn.
struct Turns {
    rng: StdRng,
    paths: [PathBuf; 2],
    files: [File; 2],
    maps: [Mapping; 2],
    model: Vec<u8>,
    /// The last operations, for messages.
    done: VecDeque<String>,
}

/// Larger than a page, smaller than a chunk; checked whole after each operation.
const TURNS_MAX: usize = 200_000;
const SHOWN: usize = 20;

impl Turns {
    fn new(roots: &[PathBuf], seed: u64) -> Self {
        File::create_new(roots[0].join("f")).unwrap();
        let paths = [0, 1].map(|view: usize| roots[view].join("f"));
        let files = [0, 1].map(|view: usize| read_write(&paths[view]));
        // Of the mappings only what the file has is touched.
        let maps = [0, 1].map(|view: usize| Mapping::new(&files[view], TURNS_MAX).unwrap());
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, paths, files, maps, model: Vec::new(), done: VecDeque::new() }
    }

    /// A piece of at most `end` bytes.
    fn piece(&mut self, end: usize) -> (usize, usize) {
        let at = self.rng.random_range(0..end);
        let longest = if self.rng.random_bool(0.5) { 5_000 } else { 70_000 };
        (at, self.rng.random_range(1..=longest).min(end - at))
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[at..end].copy_from_slice(data);
    }

    fn step(&mut self) {
        let view = self.rng.random_range(0..2);
        let kind = self.rng.random_range(0..12);
        let length = self.model.len();
        let (at, size) = self.piece(if matches!(kind, 4..9) { length.max(1) } else { TURNS_MAX });
        let data: Vec<u8> = (0..size).map(|_| self.rng.random()).collect();
        self.done.push_back(format!("mount {view}, kind {kind}, {size} bytes at {at} of {length}"));
        if self.done.len() > SHOWN {
            self.done.pop_front();
        }
        match kind {
            0..3 => {
                self.files[view].write_all_at(&data, at as u64).unwrap();
                self.put(at, &data);
            }
            3 => {
                self.files[view].set_len(at as u64).unwrap();
                self.model.resize(at, 0);
            }
            // These need something to be there.
            4..9 if length == 0 => {}
            4..6 => {
                self.know_size(view);
                self.maps[view].write(at, &data);
                self.maps[view].sync().unwrap();
                self.put(at, &data);
            }
            6 => {
                self.know_size(view);
                let seen = self.maps[view].read(at, size);
                self.same(&seen, at, "a mapped piece", view);
            }
            7 => {
                let mut seen = vec![0; size];
                self.files[view].read_exact_at(&mut seen, at as u64).unwrap();
                self.same(&seen, at, "a read piece", view);
            }
            8 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.files[view], punch, at as u64, size as u64).unwrap();
                self.put(at, &vec![0; size]);
            }
            9 => {
                let data = &data[..size.min(TURNS_MAX - length)];
                let mut log = File::options().append(true).open(&self.paths[view]).unwrap();
                log.write_all(data).unwrap();
                drop(log);
                self.put(length, data);
            }
            10 => self.files[view].sync_all().unwrap(),
            _ => self.files[view] = read_write(&self.paths[view]),
        }
        self.check();
    }

    /// An access to a mapping is no system call, and beyond the size that the kernel knows it is SIGBUS: so it must be told first.
    fn know_size(&self, view: usize) {
        let sizes =
            (self.files[view].metadata().unwrap().len(), fs::metadata(&self.paths[view]).unwrap().len());
        let size = self.model.len() as u64;
        assert!(sizes == (size, size), "mount {view}: {sizes:?}, not {size}, after\n{}", self.history());
    }

    fn check(&mut self) {
        let length = self.model.len();
        for view in [0, 1] {
            self.know_size(view);
            let mut seen = vec![0; length];
            let read = self.files[view].read_exact_at(&mut seen, 0);
            assert!(read.is_ok(), "mount {view}: {read:?} after\n{}", self.history());
            self.same(&seen, 0, "the file", view);
        }
        let view = self.rng.random_range(0..2);
        let seen = self.maps[view].read(0, length);
        self.same(&seen, 0, "the mapped file", view);
    }

    fn same(&self, seen: &[u8], at: usize, what: &str, view: usize) {
        if let Some(i) = seen.iter().zip(&self.model[at..]).position(|(a, b)| a != b) {
            panic!("{what} differs on mount {view} from {} on, after\n{}", at + i, self.history());
        }
    }

    fn history(&self) -> String {
        Vec::from(self.done.clone()).join("\n")
    }
}

#[test]
fn two_mounts_take_turns_on_one_file() {
    let seed = seed();
    let cluster = Cluster::start();
    let mut views = Views::new(&cluster, 2);
    let (roots, pids) = (views.roots(), views.pids());
    let end = Instant::now() + duration();
    let watchdog = Watchdog::new(1, OPERATION_LIMIT);
    watchdog.watch(&pids, |_| {
        let mut turns = Turns::new(&roots, seed);
        let mut steps = 0;
        while Instant::now() < end && !watchdog.barked() {
            let what = || format!("step {steps}");
            watchdog.during(0, what, || turns.step());
            steps += 1;
        }
        eprintln!("{steps} steps");
    });
    assert_agreed(&roots);
    cluster.assert_sound(true);
}

/// Each of two mounts commits what its own program stored, which no exclusive lease covers, and needs the other's shared lease for it:
/// neither may wait for its own commit before it gives the lease back.
#[test]
fn mappings_of_two_mounts_are_synced_at_once() {
    const ROUNDS: usize = 200;
    const PAGE: usize = 4096;
    let cluster = Cluster::start();
    let mut views = Views::new(&cluster, 2);
    fs::write(views.path(0, "mapped"), vec![0; MAPPED]).unwrap();
    let (roots, pids) = (views.roots(), views.pids());
    let together = Barrier::new(2);
    let watchdog = Watchdog::new(2, OPERATION_LIMIT);
    watchdog.watch(&pids, |number| {
        let file = read_write(&roots[number].join("mapped"));
        let map = Mapping::new(&file, MAPPED).unwrap();
        let at = number * (MAPPED / 2);
        for round in 0..ROUNDS {
            // Both have a shared lease, and a page to store into.
            map.read(at, 1);
            together.wait();
            map.write(at, &[round as u8; PAGE]);
            watchdog.during(number, || format!("round {round}"), || map.sync()).unwrap();
        }
    });
    for number in [0, 1] {
        let log = views.mount(number).process().log_end(100);
        assert!(!log.contains("leases are broken"), "mount {number}:\n{log}");
    }
    assert_agreed(&roots);
}
