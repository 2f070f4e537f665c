//! `kill -9` of servers in the middle of work: what was fsynced is there, the rest is consistent.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount, eventually};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LENGTH: usize = 300_000;

/// Writes whole files, each filled with its number, fsyncs them, and then says their numbers. A process of its own: one that is
/// forked while files are open has to close them, which waits for the cluster, and could not start its servers.
const WRITER: &str = r#"
import os, sys
number = 0
while True:
    with open(f"{sys.argv[1]}/f{number}", "wb", buffering=0) as f:
        assert f.write(bytes([number % 256]) * int(sys.argv[2])) == int(sys.argv[2])
        os.fsync(f.fileno())
    print(number, flush=True)
    number += 1
"#;

/// A running [`WRITER`] and what it got acknowledged.
struct Writer {
    child: Child,
    synced: Arc<Mutex<Vec<u64>>>,
}

impl Writer {
    fn start(mount: &Mount) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", WRITER])
            .arg(mount.root())
            .arg(LENGTH.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3");
        let (out, synced) =
            (BufReader::new(child.stdout.take().expect("it is piped")), Arc::<Mutex<Vec<u64>>>::default());
        let list = synced.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                list.lock().expect("no panic with the lock").push(line.parse().expect("a number"));
            }
        });
        Self { child, synced }
    }

    fn count(&self) -> usize {
        self.synced.lock().expect("no panic with the lock").len()
    }

    /// Waits until ten more files are synced. No error may have reached the writer.
    fn goes_on(&mut self) {
        let before = self.count();
        eventually("writing goes on", Duration::from_secs(60), || {
            assert!(
                self.child.try_wait().expect("wait for a child").is_none(),
                "an error reached the writer"
            );
            self.count() >= before + 10
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn work_through(kill_and_start: impl Fn(&mut Cluster)) {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let mut writer = Writer::start(&mount);
    for _ in 0..3 {
        writer.goes_on();
        kill_and_start(&mut cluster);
    }
    writer.goes_on();
    let synced = writer.synced.clone();
    drop(writer);
    cluster.kill_servers();
    cluster.start_servers();
    mount.remount();
    for number in synced.lock().expect("no panic with the lock").iter() {
        let data = fs::read(mount.path(&format!("f{number}"))).expect("read back");
        let whole = data.len() == LENGTH && data.iter().all(|b| *b == *number as u8);
        assert!(whole, "f{number} lost what was fsynced");
    }
    cluster.wait_healthy();
    cluster.assert_sound(true);
}

#[test]
fn of_the_namenode() {
    work_through(|cluster| {
        cluster.kill_namenode();
        cluster.start_namenode();
    });
}

#[test]
fn of_all_datanodes() {
    work_through(|cluster| {
        for n in 1..=3 {
            cluster.kill_datanode(n);
        }
        for n in 1..=3 {
            cluster.start_datanode(n);
        }
    });
}

#[test]
fn of_everything() {
    work_through(|cluster| {
        cluster.kill_servers();
        cluster.start_servers();
    });
}

#[test]
fn of_everything_with_the_client() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    shell(
        mount.root(),
        "mkdir -p a/b && head -c 4000000 /dev/urandom > a/b/f && sync a/b/f && sha256sum a/b/f > ../sum",
    );
    shell(
        mount.root(),
        "ln a/b/f hard; ln -s a/b/f soft; mv a/b a/c; chmod 640 a/c/f; setfattr -n user.x -v y a/c/f",
    );
    cluster.kill_servers();
    mount.process().kill();
    cluster.start_servers();
    mount.crash_and_remount();
    shell(
        mount.root(),
        "sed s:a/b/f:a/c/f: ../sum | sha256sum -c --quiet
         test hard -ef a/c/f && test $(stat -c %h hard) = 2 && test $(stat -c %a hard) = 640
         test $(readlink soft) = a/b/f; fails test -e soft ; test $(getfattr --only-values -n user.x hard) = y",
    );
    cluster.assert_sound(true);
}

/// Opens a file, unlinks it, and writes more when told to; a process of its own, as [`WRITER`].
const HOLDER: &str = r#"
import os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.write(f, b"before")
os.unlink(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
os.write(f, b" and after")
os.fsync(f)
print(os.pread(f, 100, 0).decode(), flush=True)
"#;

#[test]
fn a_namenode_that_stops_and_starts_keeps_open_unlinked_files() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let mut holder = Command::new("python3")
        .args(["-c", HOLDER])
        .arg(mount.path("open"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start python3");
    let mut said = BufReader::new(holder.stdout.take().expect("it is piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("the holder speaks");
    assert_eq!(line, "ready\n");
    cluster.kill_namenode();
    cluster.start_namenode();
    holder.stdin.take().expect("it is piped").write_all(b"go on\n").expect("the holder listens");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the holder speaks");
    assert_eq!(rest, "before and after\n");
    assert!(holder.wait().expect("wait for a child").success());
}
