//! `kill -9` of servers in the middle of work: what was fsynced is there, the rest is consistent.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a writer got acknowledged by fsync: file name and the byte it is filled with.
type Synced = Arc<Mutex<Vec<(String, u8)>>>;

const LENGTH: usize = 300_000;

/// Writes whole files, fsyncs each, and records it, until told to stop.
fn write_and_record(
    root: std::path::PathBuf,
    stop: Arc<AtomicBool>,
    synced: Synced,
    written: Arc<AtomicU64>,
) {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let (name, fill) = (format!("f{number}"), number as u8);
        let done = fs::File::create(root.join(&name))
            .and_then(|mut f| f.write_all(&vec![fill; LENGTH]).and_then(|()| f.sync_all()));
        // A hard mount waits for its cluster: an error here would be one that reached an application.
        done.expect("no error reaches the writer");
        synced.lock().unwrap().push((name, fill));
        written.fetch_add(1, Ordering::Relaxed);
        number += 1;
    }
}

fn work_through(kill_and_start: impl Fn(&mut Cluster)) {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let (stop, synced, written) =
        (Arc::new(AtomicBool::new(false)), Synced::default(), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (root, stop, synced, written) =
            (mount.root().to_path_buf(), stop.clone(), synced.clone(), written.clone());
        std::thread::spawn(move || write_and_record(root, stop, synced, written))
    };
    for _ in 0..3 {
        let before = written.load(Ordering::Relaxed);
        eventually("writing goes on", Duration::from_secs(60), || {
            written.load(Ordering::Relaxed) >= before + 10
        });
        kill_and_start(&mut cluster);
    }
    let before = written.load(Ordering::Relaxed);
    eventually("writing goes on after all", Duration::from_secs(60), || {
        written.load(Ordering::Relaxed) >= before + 10
    });
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer saw no error");
    cluster.kill_servers();
    cluster.start_servers();
    mount.remount();
    for (name, fill) in synced.lock().unwrap().iter() {
        let mut data = Vec::new();
        fs::File::open(mount.path(name)).and_then(|mut f| f.read_to_end(&mut data)).expect("read back");
        assert!(data.len() == LENGTH && data.iter().all(|b| b == fill), "{name} lost what was fsynced");
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

#[test]
fn a_namenode_that_stops_and_starts_keeps_open_files_and_their_locks() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let mut open =
        fs::File::options().read(true).write(true).create_new(true).open(mount.path("open")).unwrap();
    open.write_all(b"before").unwrap();
    fs::remove_file(mount.path("open")).unwrap();
    cluster.kill_namenode();
    cluster.start_namenode();
    open.write_all(b" and after").unwrap();
    open.sync_all().unwrap();
    let mut text = String::new();
    std::io::Seek::rewind(&mut open).unwrap();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
}
