//! A client that was stopped, cut off or forgotten does not know it. What it buffered under a lease that another client was let past
//! is never written: its programs are told once, and every mount shows what the other client wrote.

use quarry_tests::mapping::Mapping;
use quarry_tests::relay::Relay;
use quarry_tests::{Cluster, Mount, eventually};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than a lease's term of 5 s, shorter than a session's life of 15 s.
const BEYOND_LEASE: Duration = Duration::from_secs(8);
/// Longer than a session lives.
const BEYOND_SESSION: Duration = Duration::from_secs(20);
/// How long a client may take to learn what happened while it was away, on a machine that is busy.
const LEARN_LIMIT: Duration = Duration::from_secs(30);

const OLD: [u8; 4096] = [b'0'; 4096];
const THEIRS: [u8; 4096] = [b'B'; 4096];
const OURS: [u8; 4096] = [b'A'; 4096];

fn cluster() -> Cluster {
    Cluster::options().datanodes(1).replication("1").start()
}

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn append(path: &Path) -> File {
    File::options().append(true).open(path).unwrap()
}

/// A file with old content that is on the disks.
fn make(path: &Path) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.write_all_at(&OLD, 0).unwrap();
    file.sync_all().unwrap();
    file
}

/// The mount's process stands still while `work` is done, and for `time` in all.
fn while_stopped<T>(mount: &mut Mount, time: Duration, work: impl FnOnce() -> T) -> T {
    mount.process().signal(Signal::STOP);
    let since = Instant::now();
    let done = work();
    std::thread::sleep(time.saturating_sub(since.elapsed()));
    mount.process().signal(Signal::CONT);
    done
}

fn is_io_error(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
}

/// Each of these handles is told of the loss once, at fsync.
fn told_once(handles: &[&File]) {
    for handle in handles {
        let told = handle.sync_all();
        assert!(is_io_error(&told), "the loss is not told: {told:?}");
    }
    for handle in handles {
        handle.sync_all().expect("the loss is told once");
    }
}

fn shows(paths: &[&Path], content: &[u8]) {
    for path in paths {
        let seen = fs::read(path).unwrap();
        let (first, length) = (seen.first().map(|b| *b as char), seen.len());
        assert!(seen == content, "{} shows {first:?} and {length} bytes", path.display());
    }
}

#[test]
fn what_a_stopped_client_overwrote_is_refused_and_told_once() {
    let cluster = cluster();
    let (ours, mut theirs) = (cluster.mount(), cluster.mount());
    let here = make(&ours.path("f"));
    let (one, two) = (read_write(&theirs.path("f")), read_write(&theirs.path("f")));
    one.write_all_at(&THEIRS, 0).unwrap();
    // Longer than the file, so that a size is buffered as well.
    one.write_all_at(&THEIRS, 100_000).unwrap();
    while_stopped(&mut theirs, BEYOND_LEASE, || {
        here.write_all_at(&OURS, 0).unwrap();
        here.sync_all().unwrap();
    });
    told_once(&[&one, &two]);
    shows(&[&ours.path("f"), &theirs.path("f")], &OURS);

    // The file is as any other afterwards.
    one.write_all_at(&THEIRS, 0).unwrap();
    one.sync_all().unwrap();
    shows(&[&ours.path("f"), &theirs.path("f")], &THEIRS);
}

#[test]
fn what_a_stopped_client_had_closed_is_refused_and_the_next_opener_is_told() {
    let cluster = cluster();
    let (ours, mut theirs) = (cluster.mount(), cluster.mount());
    let here = make(&ours.path("f"));
    let file = read_write(&theirs.path("f"));
    file.write_all_at(&THEIRS, 0).unwrap();
    drop(file);
    while_stopped(&mut theirs, BEYOND_LEASE, || {
        here.write_all_at(&OURS, 0).unwrap();
        here.sync_all().unwrap();
    });
    eventually("the next opener is told", LEARN_LIMIT, || {
        is_io_error(&read_write(&theirs.path("f")).sync_all())
    });
    shows(&[&ours.path("f"), &theirs.path("f")], &OURS);
}

#[test]
fn records_that_a_stopped_client_appended_are_refused() {
    let cluster = cluster();
    let (ours, mut theirs) = (cluster.mount(), cluster.mount());
    drop(make(&ours.path("log")));
    let (mut here, mut there) = (append(&ours.path("log")), append(&theirs.path("log")));
    there.write_all(b"lost record\n").unwrap();
    while_stopped(&mut theirs, BEYOND_LEASE, || {
        here.write_all(b"our record\n").unwrap();
        here.sync_all().unwrap();
    });
    told_once(&[&there]);
    let both = [ours.path("log"), theirs.path("log")];
    let paths: Vec<&Path> = both.iter().map(AsRef::as_ref).collect();
    shows(&paths, &[&OLD[..], b"our record\n"].concat());
    there.write_all(b"later record\n").unwrap();
    shows(&paths, &[&OLD[..], b"our record\nlater record\n"].concat());
}

/// The kernel hands over what was stored through a mapping when the mount goes on: too late.
#[test]
fn stores_through_a_mapping_of_a_stopped_client_are_refused() {
    let cluster = cluster();
    let (ours, mut theirs) = (cluster.mount(), cluster.mount());
    let here = make(&ours.path("f"));
    let there = read_write(&theirs.path("f"));
    there.write_all_at(&OLD, 0).unwrap();
    let mapping = Mapping::new(&there, OLD.len()).unwrap();
    mapping.write(0, &THEIRS);
    while_stopped(&mut theirs, BEYOND_LEASE, || {
        here.write_all_at(&OURS, 0).unwrap();
        here.sync_all().unwrap();
    });
    let told = mapping.sync().is_err() | there.sync_all().is_err();
    assert!(told, "the loss is not told");
    shows(&[&ours.path("f"), &theirs.path("f")], &OURS);
    assert!(mapping.read(0, OURS.len()) == OURS, "the mapping shows what was lost");
}

#[test]
fn what_a_client_buffered_before_its_session_expired_is_refused() {
    let cluster = cluster();
    let (ours, mut theirs) = (cluster.mount(), cluster.mount());
    let here = make(&ours.path("f"));
    let there = read_write(&theirs.path("f"));
    there.write_all_at(&THEIRS, 0).unwrap();
    while_stopped(&mut theirs, BEYOND_SESSION, || {
        here.write_all_at(&OURS, 0).unwrap();
        here.sync_all().unwrap();
    });
    told_once(&[&there]);
    shows(&[&ours.path("f"), &theirs.path("f")], &OURS);
}

#[test]
fn what_a_client_buffered_that_is_cut_off_is_refused() {
    let cluster = cluster();
    let relay = Relay::to(&cluster.namenode_address());
    let (ours, theirs) = (cluster.mount(), cluster.mount_through(&relay.address()));
    let here = make(&ours.path("f"));
    let there = read_write(&theirs.path("f"));
    there.write_all_at(&THEIRS, 0).unwrap();
    relay.cut();
    let since = Instant::now();
    here.write_all_at(&OURS, 0).unwrap();
    here.sync_all().unwrap();
    std::thread::sleep(BEYOND_LEASE.saturating_sub(since.elapsed()));
    relay.mend();
    told_once(&[&there]);
    shows(&[&ours.path("f"), &theirs.path("f")], &OURS);
}

#[test]
fn a_lapse_without_a_conflict_costs_nothing() {
    let cluster = cluster();
    let relay = Relay::to(&cluster.namenode_address());
    let (ours, mut theirs) = (cluster.mount(), cluster.mount_through(&relay.address()));
    drop(make(&ours.path("f")));
    let there = read_write(&theirs.path("f"));
    let mut expected = OLD.to_vec();
    for round in 0..2u8 {
        let at = usize::from(round) * 1000;
        there.write_all_at(&[round; 500], at as u64).unwrap();
        expected[at..at + 500].fill(round);
        if round == 0 {
            while_stopped(&mut theirs, BEYOND_LEASE, || ());
        } else {
            relay.cut();
            std::thread::sleep(BEYOND_LEASE);
            relay.mend();
        }
        there.sync_all().unwrap();
        shows(&[&ours.path("f"), &theirs.path("f")], &expected);
    }
}

/// A restart of the NameNode is no lapse: sessions take their leases back before anybody else is let through.
#[test]
fn what_was_closed_before_a_restart_of_the_namenode_is_seen_after_it() {
    let mut cluster = cluster();
    let (ours, theirs) = (cluster.mount(), cluster.mount());
    for round in 0..3 {
        let name = format!("f{round}");
        drop(make(&ours.path(&name)));
        let there = read_write(&theirs.path(&name));
        there.write_all_at(&THEIRS, 0).unwrap();
        drop(there);
        fs::write(theirs.path(&format!("new{round}")), THEIRS).unwrap();
        cluster.kill_namenode();
        cluster.start_namenode();
        shows(&[&ours.path(&name), &ours.path(&format!("new{round}"))], &THEIRS);
        shows(&[&theirs.path(&name)], &THEIRS);
    }
}

#[test]
fn writes_stay_in_their_order_over_a_restart_of_the_namenode() {
    let mut cluster = cluster();
    let (ours, theirs) = (cluster.mount(), cluster.mount());
    for round in 0..3 {
        let name = format!("f{round}");
        let here = make(&ours.path(&name));
        let there = read_write(&theirs.path(&name));
        there.write_all_at(&THEIRS, 0).unwrap();
        cluster.kill_namenode();
        cluster.start_namenode();
        here.write_all_at(&OURS, 0).unwrap();
        here.sync_all().unwrap();
        there.sync_all().expect("its lease was taken back in time");
        shows(&[&ours.path(&name), &theirs.path(&name)], &OURS);
    }
}

/// Locks, writes, reads and opens anew as it is told, and answers `ok` or the errno's name.
const HOLDER: &str = r#"
import errno, fcntl, os, struct, sys
path, kind = sys.argv[1:]
fd = os.open(path, os.O_RDWR)
def lock():
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif kind == "ofd":
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    else:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
for line in sys.stdin:
    try:
        if line.strip() == "lock":
            lock()
        elif line.strip() == "write":
            os.pwrite(fd, b"C" * 4096, 0)
            os.fsync(fd)
        elif line.strip() == "read":
            os.pread(fd, 4096, 0)
        else:
            os.close(fd)
            fd = os.open(path, os.O_RDWR)
        print("ok", flush=True)
    except OSError as e:
        print(errno.errorcode[e.errno], flush=True)
"#;

/// A process that holds a lock.
struct Holder {
    child: Child,
    tell: ChildStdin,
    heard: Receiver<String>,
}

impl Holder {
    fn new(path: &Path, kind: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", HOLDER])
            .arg(path)
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3");
        let (say, heard) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| say.send(l)));
        Self { tell: child.stdin.take().unwrap(), child, heard }
    }

    fn does(&mut self, command: &str) -> String {
        writeln!(self.tell, "{command}").unwrap();
        self.heard.recv_timeout(Duration::from_secs(60)).expect("an answer")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_process_that_lost_its_lock_gets_errors_until_it_closes_the_file() {
    let cluster = cluster();
    let (ours, mut theirs) = (cluster.mount(), cluster.mount());
    let kinds = ["fcntl", "ofd", "flock"];
    let mut holders = Vec::new();
    for kind in kinds {
        drop(make(&ours.path(kind)));
        let mut there = Holder::new(&theirs.path(kind), kind);
        let here = Holder::new(&ours.path(kind), kind);
        assert_eq!(there.does("lock"), "ok", "{kind}");
        holders.push((here, there));
    }
    while_stopped(&mut theirs, BEYOND_SESSION, || {
        for (kind, (here, _)) in kinds.iter().zip(&mut holders) {
            eventually(&format!("the {kind} lock is free"), LEARN_LIMIT, || here.does("lock") == "ok");
            fs::write(ours.path(kind), OURS).unwrap();
        }
    });
    for (kind, (_, there)) in kinds.iter().zip(&mut holders) {
        eventually(&format!("the holder of the {kind} lock is told"), LEARN_LIMIT, || {
            there.does("write") == "EIO"
        });
        assert_eq!(there.does("read"), "EIO", "{kind}");
        assert_eq!(there.does("write"), "EIO", "{kind}: for as long as it is open");
        shows(&[&ours.path(kind)], &OURS);
        assert_eq!(there.does("reopen"), "ok");
        eventually(&format!("the {kind} file is used again"), LEARN_LIMIT, || there.does("read") == "ok");
    }
}
