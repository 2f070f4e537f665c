//! fcntl and flock locks, within a mount and across two.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount, eventually};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Reads a lock command a line and answers `ok` or the errno's name.
const AGENT: &str = r#"
import errno, fcntl, os, sys
f = open(sys.argv[1], "r+b")
kinds = {"read": fcntl.LOCK_SH, "write": fcntl.LOCK_EX, "unlock": fcntl.LOCK_UN}
for line in sys.stdin:
    call, kind, wait, start, length = line.split()
    op = kinds[kind] | (0 if wait == "wait" or kind == "unlock" else fcntl.LOCK_NB)
    try:
        if call == "close":
            open(sys.argv[1], "rb").close()
        elif call == "flock":
            fcntl.flock(f, op)
        else:
            fcntl.lockf(f, op, int(length), int(start))
        print("ok", flush=True)
    except OSError as e:
        print("EDEADLK" if e.errno == errno.EDEADLK else errno.errorcode[e.errno], flush=True)
"#;

/// A process that locks as it is told.
struct Agent {
    child: Child,
    tell: ChildStdin,
    heard: Receiver<String>,
}

impl Agent {
    fn new(mount: &Mount, name: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", AGENT])
            .arg(mount.path(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3");
        let (say, heard) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| say.send(l)));
        Self { tell: child.stdin.take().unwrap(), child, heard }
    }

    fn ask(&mut self, command: &str) {
        writeln!(self.tell, "{command}").unwrap();
    }

    fn answer(&self) -> String {
        self.heard.recv_timeout(Duration::from_secs(30)).expect("an answer")
    }

    fn quiet(&self) -> bool {
        self.heard.recv_timeout(Duration::from_millis(400)).is_err()
    }

    fn does(&mut self, command: &str) -> String {
        self.ask(command);
        self.answer()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn two_agents(cluster: &Cluster, across: bool) -> (Vec<Mount>, Agent, Agent) {
    let mut mounts = vec![cluster.mount()];
    if across {
        mounts.push(cluster.mount());
    }
    fs::write(mounts[0].path("f"), vec![0; 100]).unwrap();
    let (a, b) = (Agent::new(&mounts[0], "f"), Agent::new(mounts.last().unwrap(), "f"));
    (mounts, a, b)
}

fn byte_ranges(across: bool) {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (_mounts, mut a, mut b) = two_agents(&cluster, across);
    assert_eq!(a.does("fcntl write now 0 10"), "ok");
    assert_eq!(b.does("fcntl read now 5 1"), "EAGAIN");
    assert_eq!(b.does("fcntl write now 10 10"), "ok");
    // Split: the middle is freed, the ends stay.
    assert_eq!(a.does("fcntl unlock now 4 2"), "ok");
    assert_eq!(b.does("fcntl write now 4 2"), "ok");
    assert_eq!(b.does("fcntl write now 3 1"), "EAGAIN");
    assert_eq!(b.does("fcntl write now 6 1"), "EAGAIN");
    // Readers share; one of them cannot become a writer.
    assert_eq!(a.does("fcntl read now 50 5"), "ok");
    assert_eq!(b.does("fcntl read now 50 5"), "ok");
    assert_eq!(a.does("fcntl write now 50 5"), "EAGAIN");
    assert_eq!(b.does("fcntl unlock now 50 5"), "ok");
    assert_eq!(a.does("fcntl write now 50 5"), "ok");
    // Waiting, and being woken.
    b.ask("fcntl write wait 52 1");
    assert!(b.quiet());
    assert_eq!(a.does("fcntl unlock now 50 5"), "ok");
    assert_eq!(b.answer(), "ok");
    // Closing any descriptor of the file frees the process's locks.
    assert_eq!(b.does("close read now 0 0"), "ok");
    assert_eq!(a.does("fcntl write now 0 100"), "ok");
}

#[test]
fn byte_ranges_within_a_mount() {
    byte_ranges(false);
}

#[test]
fn byte_ranges_across_mounts() {
    byte_ranges(true);
}

#[test]
fn a_deadlock_is_an_error() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (_mounts, mut a, mut b) = two_agents(&cluster, true);
    assert_eq!(a.does("fcntl write now 0 1"), "ok");
    assert_eq!(b.does("fcntl write now 1 1"), "ok");
    a.ask("fcntl write wait 1 1");
    assert!(a.quiet());
    assert_eq!(b.does("fcntl write wait 0 1"), "EDEADLK");
    assert_eq!(b.does("fcntl unlock now 1 1"), "ok");
    assert_eq!(a.answer(), "ok");
}

#[test]
fn flock_across_mounts() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (_mounts, mut a, mut b) = two_agents(&cluster, true);
    assert_eq!(a.does("flock read now 0 0"), "ok");
    assert_eq!(b.does("flock read now 0 0"), "ok");
    assert_eq!(b.does("flock write now 0 0"), "EAGAIN");
    b.ask("flock write wait 0 0");
    assert!(b.quiet());
    assert_eq!(a.does("flock unlock now 0 0"), "ok");
    assert_eq!(b.answer(), "ok");
}

#[test]
fn flock_and_fcntl_locks_do_not_exclude_each_other() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    for across in [false, true] {
        let (_mounts, mut a, mut b) = two_agents(&cluster, across);
        assert_eq!(a.does("flock write now 0 0"), "ok");
        assert_eq!(b.does("fcntl write now 0 100"), "ok");
        assert_eq!(b.does("flock write now 0 0"), "EAGAIN");
        assert_eq!(a.does("fcntl write now 0 100"), "EAGAIN");
        // One program takes both, as those that deliver mail do.
        assert_eq!(b.does("fcntl unlock now 0 100"), "ok");
        assert_eq!(a.does("fcntl write now 0 100"), "ok");
        assert_eq!(a.does("flock unlock now 0 0"), "ok");
        assert_eq!(b.does("flock write now 0 0"), "ok");
    }
}

#[test]
fn a_dead_process_holds_nothing() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (_mounts, mut a, mut b) = two_agents(&cluster, true);
    assert_eq!(a.does("fcntl write now 0 1"), "ok");
    b.ask("fcntl write wait 0 1");
    assert!(b.quiet());
    a.child.kill().unwrap();
    assert_eq!(b.answer(), "ok");
}

#[test]
fn a_dead_client_holds_nothing() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (mut mounts, mut a, mut b) = two_agents(&cluster, true);
    assert_eq!(a.does("fcntl write now 0 1"), "ok");
    mounts[0].process().kill();
    eventually("the dead client's lock is freed", Duration::from_secs(40), || {
        b.does("fcntl write now 0 1") == "ok"
    });
}

#[test]
fn locks_outlive_a_restart_of_the_namenode() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let (_mounts, mut a, mut b) = two_agents(&cluster, true);
    assert_eq!(a.does("fcntl write now 0 1"), "ok");
    cluster.kill_namenode();
    cluster.start_namenode();
    assert_eq!(b.does("fcntl write now 0 1"), "EAGAIN");
    assert_eq!(a.does("fcntl unlock now 0 1"), "ok");
    assert_eq!(b.does("fcntl write wait 0 1"), "ok");
}

#[test]
fn a_waiting_process_can_be_interrupted() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (mounts, mut a, mut b) = two_agents(&cluster, false);
    assert_eq!(a.does("flock write now 0 0"), "ok");
    // timeout(1) ends flock(1) with SIGTERM while it waits; 124 says that it had to.
    shell(mounts[0].root(), "code=0; timeout 1 flock f true || code=$?; test $code = 124");
    assert_eq!(a.does("flock unlock now 0 0"), "ok");
    // The interrupted wait left no lock behind.
    assert_eq!(b.does("flock write now 0 0"), "ok");
}

/// Locks that end with the handle, taken again right after a close: by the same process, by one that waited for the other's end,
/// through `flock` and through fcntl's open file description locks.
const AGAIN: &str = r#"
import fcntl, os, struct, sys
def ofd(fd): fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
def flock(fd): fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
def locked(lock, write):
    fd = os.open("f", os.O_RDWR | os.O_CREAT)
    lock(fd)
    if write: os.write(fd, b"x" * 1000)
    return fd
for lock in flock, ofd:
    for i in range(150):
        os.close(locked(lock, i % 2))
    for i in range(40):
        pid = os.fork()
        if not pid:
            locked(lock, i % 2)
            if i % 3: os._exit(0)
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
        os.close(locked(lock, False))
    # A descriptor that another shares keeps its lock.
    fd = locked(lock, False)
    os.close(os.dup(fd))
    for _ in range(2):
        try: os.close(locked(lock, False)); raise SystemExit("granted twice")
        except BlockingIOError: pass
    os.close(fd)
"#;

#[test]
fn a_lock_of_a_closed_handle_is_in_no_ones_way() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    shell(
        mount.root(),
        &format!("python3 - <<'END'\n{AGAIN}\nEND\nfor i in $(seq 50); do flock -n g true; done"),
    );
}

#[test]
fn a_lock_of_a_closed_handle_is_free_on_other_mounts() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = (cluster.mount(), cluster.mount());
    for (lock, wait) in [("flock", "fcntl.flock(f, fcntl.LOCK_EX)"), ("ofd", "ofd(f, 38)")] {
        let script = format!(
            "import fcntl, os, struct, sys
def ofd(f, command): fcntl.fcntl(f, command, struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
f = open('{lock}', 'w')
{wait}"
        );
        shell(a.root(), &format!("python3 -c \"{script}\""));
        shell(b.root(), &format!("timeout 20 python3 -c \"{script}\""));
    }
}
