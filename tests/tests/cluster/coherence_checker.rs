//! Threads on several mounts do random operations on the same few objects, and write down when each was called, when it returned and
//! what. Afterwards there must be one order of all of them that explains it: the histories are checked for linearizability.
//!
//! Kinds of objects: a file that holds one record, the size of a file, a name that exists or not, and two names that others are
//! renamed over: a symbolic link, whose target tells which, and a file, whose contents do.

use quarry_tests::linear::{Done, Operation, check};
use quarry_tests::process::quarry;
use quarry_tests::views::same_mount;
use quarry_tests::watchdog::Watchdog;
use quarry_tests::{Cluster, Views};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Operations of all threads in one round, which is the short form.
const ROUND: u64 = 4_000;
/// A round ends after this time, also where operations are slow.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
const OPERATION_LIMIT: Duration = Duration::from_secs(20);
/// Objects of each kind.
const OBJECTS: usize = 2;
const RECORD: usize = 64;
/// The kernel itself looks again once when a file went while it was on the way to it; another such race in that moment is ESTALE.
const STALE_RETRIES: usize = 20;

/// Something that holds a value.
#[derive(Clone, Debug)]
enum Register {
    Write(u64),
    Read(u64),
    /// Makes it larger by this.
    Add(u64),
}

impl Operation for Register {
    type State = u64;
    type Outcomes = Option<u64>;

    fn apply(&self, state: &u64) -> Option<u64> {
        match self {
            Self::Write(value) => Some(*value),
            Self::Read(value) => (value == state).then_some(*state),
            Self::Add(more) => Some(state + more),
        }
    }
}

/// Operations on a name, each with its success.
#[derive(Clone, Debug)]
enum Name {
    Create(bool),
    Unlink(bool),
    Exists(bool),
}

impl Operation for Name {
    type State = bool;
    type Outcomes = Option<bool>;

    fn apply(&self, exists: &bool) -> Option<bool> {
        match self {
            Self::Create(done) => (*done != *exists).then_some(true),
            Self::Unlink(done) => (done == exists).then_some(false),
            Self::Exists(yes) => (yes == exists).then_some(*exists),
        }
    }
}

/// The histories of one kind of objects.
struct Histories<O> {
    of: [Mutex<Vec<Done<O>>>; OBJECTS],
}

impl<O: Operation> Histories<O> {
    fn new() -> Self {
        Self { of: std::array::from_fn(|_| Mutex::new(Vec::new())) }
    }

    /// What is wrong with them.
    fn check(&self, kind: &str, initial: &O::State) -> Vec<String> {
        let check = |(i, history): (usize, &Mutex<Vec<Done<O>>>)| {
            let error = check(initial.clone(), &history.lock().unwrap()).err()?;
            Some(format!("{kind} {i}: {error}"))
        };
        self.of.iter().enumerate().filter_map(check).collect()
    }
}

/// What the threads of a round share.
struct Round {
    /// Begins the names of all its files.
    prefix: String,
    clock: Instant,
    /// Gives each written value once, so that what is read tells by whom it was written.
    values: AtomicU64,
    operations: AtomicU64,
    /// A register for each word of the record: within one mount the kernel copies a record for a reader while it copies another from
    /// a writer, so only a word is read in one piece.
    words: [Histories<Register>; RECORD / 8],
    sizes: Histories<Register>,
    names: Histories<Name>,
    links: Histories<Register>,
    files: Histories<Register>,
    /// No two threads share a mount, so that records are whole.
    whole: bool,
}

impl Round {
    fn assert_linearizable(&self) {
        let words = self.words.iter().enumerate();
        let mut wrong: Vec<String> =
            words.flat_map(|(w, words)| words.check(&format!("word {w} of record"), &0)).collect();
        // One word tells the story.
        wrong.truncate(1);
        wrong.extend(self.sizes.check("size of file", &0));
        wrong.extend(self.names.check("name", &false));
        wrong.extend(self.links.check("renamed link", &0));
        wrong.extend(self.files.check("renamed file", &0));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// A thread's own open files and random numbers.
struct Worker<'a> {
    round: &'a Round,
    watchdog: &'a Watchdog,
    number: usize,
    root: &'a Path,
    rng: StdRng,
    records: Vec<File>,
    sized: Vec<(File, File)>,
}

/// Repeats what met a file that was just replaced; that it takes longer then is part of the operation.
fn not_stale<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match operation() {
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) && tries < STALE_RETRIES => tries += 1,
            result => return result,
        }
    }
}

impl Worker<'_> {
    fn path(&self, kind: &str, object: usize) -> PathBuf {
        self.root.join(format!("{}-{kind}-{object}", self.round.prefix))
    }

    fn value(&self) -> u64 {
        self.round.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Does something under watch, and gives it with its times.
    fn timed<T>(&self, what: &str, object: usize, operation: impl FnOnce() -> io::Result<T>) -> Done<T> {
        let clock = || self.round.clock.elapsed().as_nanos() as u64;
        let place = || format!("{what} of object {object} in {:?}", self.root);
        let called_ns = clock();
        let result = self.watchdog.during(self.number, place, operation);
        let returned_ns = clock();
        let operation = result.unwrap_or_else(|e| panic!("{}: {e}", place()));
        Done { called_ns, returned_ns, by: self.number, operation }
    }

    fn operate(&mut self) {
        let object = self.rng.random_range(0..OBJECTS);
        match self.rng.random_range(0..5) {
            0 => self.record(object),
            1 => self.size(object),
            2 => self.name(object),
            3 => self.link(object),
            _ => self.file(object),
        }
    }

    fn record(&mut self, object: usize) {
        let file = &self.records[object];
        let (done, words) = if self.rng.random_bool(0.4) {
            let value = self.value();
            let record = value.to_le_bytes().repeat(RECORD / 8);
            let done = self.timed("pwrite", object, || file.write_all_at(&record, 0));
            (Done { operation: (), ..done }, vec![Register::Write(value); RECORD / 8])
        } else {
            let mut record = [0; RECORD];
            let done = self.timed("pread", object, || file.read_exact_at(&mut record, 0));
            let word = |w: &[u8]| u64::from_le_bytes(w.try_into().expect("a word"));
            let words: Vec<u64> = record.chunks(8).map(word).collect();
            assert!(!self.round.whole || words.iter().all(|w| *w == words[0]), "a torn record: {words:?}");
            (done, words.into_iter().map(Register::Read).collect())
        };
        for (histories, operation) in self.round.words.iter().zip(words) {
            push(histories, object, with(&done, operation));
        }
    }

    fn size(&mut self, object: usize) {
        let (file, appending) = &self.sized[object];
        let done = match self.rng.random_range(0..10) {
            0 | 1 => {
                // Spaced so that appends hardly make two sizes equal.
                let size = self.value() * 100;
                with(&self.timed("ftruncate", object, || file.set_len(size)), Register::Write(size))
            }
            2 | 3 => {
                let more = self.rng.random_range(1..50);
                let data = vec![b'a'; more];
                let append = || io::Write::write_all(&mut &*appending, &data);
                with(&self.timed("append", object, append), Register::Add(more as u64))
            }
            4..7 => {
                let path = self.path("size", object);
                let done = self.timed("stat", object, || fs::metadata(&path));
                with(&done, Register::Read(done.operation.len()))
            }
            _ => {
                let done = self.timed("fstat", object, || file.metadata());
                with(&done, Register::Read(done.operation.len()))
            }
        };
        push(&self.round.sizes, object, done);
    }

    fn name(&mut self, object: usize) {
        let path = self.path("name", object);
        let done = match self.rng.random_range(0..6) {
            0 | 1 => {
                let create = || unless(File::create_new(&path).map(drop), ErrorKind::AlreadyExists);
                let done = self.timed("create", object, create);
                with(&done, Name::Create(done.operation))
            }
            2 => {
                let unlink = || unless(not_stale(|| fs::remove_file(&path)), ErrorKind::NotFound);
                let done = self.timed("unlink", object, unlink);
                with(&done, Name::Unlink(done.operation))
            }
            _ => {
                let look =
                    || unless(not_stale(|| fs::symlink_metadata(&path)).map(drop), ErrorKind::NotFound);
                let done = self.timed("lookup", object, look);
                with(&done, Name::Exists(done.operation))
            }
        };
        push(&self.round.names, object, done);
    }

    fn link(&mut self, object: usize) {
        let path = self.path("link", object);
        let done = if self.rng.random_bool(0.4) {
            let value = self.value();
            let new = self.root.join(format!("{}-new-{}", self.round.prefix, self.number));
            symlink(value.to_string(), &new).unwrap();
            let rename = || not_stale(|| fs::rename(&new, &path));
            with(&self.timed("rename over a link", object, rename), Register::Write(value))
        } else {
            let done = self.timed("readlink", object, || not_stale(|| fs::read_link(&path)));
            let value = done.operation.to_string_lossy().parse().expect("targets are numbers");
            with(&done, Register::Read(value))
        };
        push(&self.round.links, object, done);
    }

    fn file(&mut self, object: usize) {
        let path = self.path("file", object);
        let done = if self.rng.random_bool(0.4) {
            let value = self.value();
            let new = self.root.join(format!("{}-new-{}", self.round.prefix, self.number));
            fs::write(&new, value.to_string()).unwrap();
            let rename = || not_stale(|| fs::rename(&new, &path));
            with(&self.timed("rename over a file", object, rename), Register::Write(value))
        } else {
            let done = self.timed("open and read", object, || not_stale(|| fs::read(&path)));
            let text = String::from_utf8_lossy(&done.operation);
            let value = text.parse().unwrap_or_else(|e| panic!("contents {text:?}: {e}"));
            with(&done, Register::Read(value))
        };
        push(&self.round.files, object, done);
    }
}

fn with<T, O>(done: &Done<T>, operation: O) -> Done<O> {
    Done { called_ns: done.called_ns, returned_ns: done.returned_ns, by: done.by, operation }
}

fn push<O>(histories: &Histories<O>, object: usize, done: Done<O>) {
    histories.of[object].lock().unwrap().push(done);
}

/// Whether it succeeded; a failure of this kind is an answer, too.
fn unless(result: io::Result<()>, kind: ErrorKind) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == kind => Ok(false),
        Err(e) => Err(e),
    }
}

/// What goes on beside the operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The NameNode is killed and started again, and servers and mounts stand still for less than a lease's term: nothing of it may
    /// cost an operation.
    Nemesis,
}

/// Pauses between two blows, and how long something stands still.
const BLOW_PAUSE: Duration = Duration::from_millis(800);
const STILL: Duration = Duration::from_millis(1500);

/// Kills the NameNode and starts it again, from a process of its own: one that is started by this process has this one's files to close
/// first, and those on a mount wait for the NameNode.
struct Restarter {
    shell: Child,
    tell: Option<ChildStdin>,
    restarts: u32,
}

impl Restarter {
    /// Takes the NameNode over. To be called while no file on a mount is open.
    fn new(cluster: &mut Cluster) -> Self {
        let script = r#"
            start() { "$0" namenode --config "$1" > /dev/null 2>> "$2" & pid=$!; }
            start "$@"
            while read -r _; do kill -9 $pid; wait $pid; start "$@"; done
            kill -9 $pid; wait $pid
        "#;
        cluster.kill_namenode();
        let mut shell = Command::new("bash")
            .args(["-c", script])
            .arg(quarry())
            .args([cluster.path("namenode.toml"), cluster.path("logs/namenode.log")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { tell: shell.stdin.take(), shell, restarts: 0 }
    }

    fn restart(&mut self) {
        self.restarts += 1;
        let told = self.tell.as_mut().map(|tell| io::Write::write_all(tell, b"again\n"));
        assert!(told.is_some_and(|told| told.is_ok()));
    }
}

impl Drop for Restarter {
    fn drop(&mut self) {
        self.tell = None;
        let _ = self.shell.wait();
    }
}

/// Deals blows until it is `over`.
fn nemesis(restarter: &mut Restarter, others: &[u32], seed: u64, over: &AtomicBool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stops = 0;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(BLOW_PAUSE);
        if rng.random_bool(0.4) {
            restarter.restart();
            continue;
        }
        stops += 1;
        let pid = others[rng.random_range(0..others.len())];
        let signal = |signal| Pid::from_raw(pid as i32).map(|pid| kill_process(pid, signal));
        let _ = signal(Signal::STOP);
        std::thread::sleep(STILL);
        let _ = signal(Signal::CONT);
    }
    eprintln!(
        "{} restarts of the NameNode; mounts and the DataNode stood still {stops} times",
        restarter.restarts
    );
}

/// So many threads on so many mounts, for one round or for `QUARRY_LINEAR_SECONDS`.
fn histories_are_linearizable(mounts: usize, threads: usize, beside: Beside) {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seed = number("QUARRY_SEED").unwrap_or_else(rand::random);
    eprintln!("QUARRY_SEED={seed}");
    let end = Instant::now() + Duration::from_secs(number("QUARRY_LINEAR_SECONDS").unwrap_or(0));
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut views = Views::new(&cluster, mounts);
    let pids = views.pids();
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        let whole = threads <= mounts && !same_mount();
        let (roots, over) = (views.roots(), AtomicBool::new(false));
        let others = [pids.as_slice(), &[cluster.datanode(1).pid()]].concat();
        let mut restarter = (beside == Beside::Nemesis).then(|| Restarter::new(&mut cluster));
        std::thread::scope(|s| {
            if let Some(restarter) = &mut restarter {
                s.spawn(|| nemesis(restarter, &others, seed ^ rounds, &over));
            }
            let _ends = Ends(&over);
            one_round(&roots, &pids, threads, (seed, rounds), whole);
        });
        if restarter.take().is_some() {
            cluster.start_namenode();
        }
        rounds += 1;
        for entry in fs::read_dir(views.root(0)).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    cluster.assert_sound(true);
}

/// However a round ends, what goes on beside it ends as well.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one_round(roots: &[PathBuf], pids: &[u32], threads: usize, (seed, number): (u64, u64), whole: bool) {
    let round = Round {
        prefix: format!("r{number}"),
        clock: Instant::now(),
        values: AtomicU64::new(0),
        operations: AtomicU64::new(0),
        words: std::array::from_fn(|_| Histories::new()),
        sizes: Histories::new(),
        names: Histories::new(),
        links: Histories::new(),
        files: Histories::new(),
        whole,
    };
    for object in 0..OBJECTS {
        let path = |kind: &str| roots[0].join(format!("r{number}-{kind}-{object}"));
        fs::write(path("record"), [0; RECORD]).unwrap();
        fs::write(path("size"), "").unwrap();
        fs::write(path("file"), "0").unwrap();
        symlink("0", path("link")).unwrap();
    }
    let watchdog = Watchdog::new(threads, OPERATION_LIMIT);
    watchdog.watch(pids, |thread| {
        let root = &roots[thread % roots.len()];
        let open = |kind: &str, object: usize, append: bool| {
            let path = root.join(format!("r{number}-{kind}-{object}"));
            // The kernel shows a write to other readers of its own mount before it hands it over, through its page cache. Only
            // past that cache an operation happens at one moment for everybody.
            let flags = if kind == "record" && !whole { libc::O_DIRECT } else { 0 };
            let mut options = File::options();
            options.read(true).write(!append).append(append).custom_flags(flags).open(path).unwrap()
        };
        let mut worker = Worker {
            round: &round,
            watchdog: &watchdog,
            number: thread,
            root,
            rng: StdRng::seed_from_u64(seed ^ (number << 32) ^ thread as u64),
            records: (0..OBJECTS).map(|o| open("record", o, false)).collect(),
            sized: (0..OBJECTS).map(|o| (open("size", o, false), open("size", o, true))).collect(),
        };
        while round.operations.fetch_add(1, Ordering::Relaxed) < ROUND
            && round.clock.elapsed() < ROUND_LIMIT
            && !watchdog.barked()
        {
            worker.operate();
        }
    });
    let elapsed = round.clock.elapsed();
    eprintln!("round {number}: {} operations in {elapsed:?}", round.operations.load(Ordering::Relaxed));
    round.assert_linearizable();
}

#[test]
fn two_mounts_one_thread_each() {
    histories_are_linearizable(2, 2, Beside::Nothing);
}

#[test]
fn two_mounts_three_threads_each() {
    histories_are_linearizable(2, 6, Beside::Nothing);
}

#[test]
fn four_mounts_two_threads_each() {
    histories_are_linearizable(4, 8, Beside::Nothing);
}

#[test]
fn two_mounts_while_the_namenode_restarts_and_all_parts_stand_still() {
    histories_are_linearizable(2, 4, Beside::Nemesis);
}
