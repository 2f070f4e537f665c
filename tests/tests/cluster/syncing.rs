//! Writes that are synchronous by a flag of the descriptor or of the call are durable when they return.

use quarry_tests::process::run_quarry;
use quarry_tests::{Cluster, Mount};
use std::fs;
use std::process::Command;

/// Writes one file for each combination of open flags, call and flags of the call, without any fsync or close, and prints the
/// names of those that must be durable.
const WRITER: &str = r#"
import itertools, mmap, os, sys
page = mmap.mmap(-1, 4096)
page.write(b"x" * 4096)
opens = {"append": os.O_APPEND, "direct": os.O_DIRECT, "dsync": os.O_DSYNC, "sync": os.O_SYNC}
calls = {"none": 0, "dsync": os.RWF_DSYNC, "sync": os.RWF_SYNC, "append": os.RWF_APPEND,
         "append+dsync": os.RWF_APPEND | os.RWF_DSYNC}
kept = []
for count in range(len(opens) + 1):
    for chosen in itertools.combinations(opens, count):
        for call, flags in calls.items():
            name = "-".join(chosen) + "_" + call
            fd = os.open(f"{sys.argv[1]}/{name}", os.O_RDWR | os.O_CREAT | sum(opens[c] for c in chosen if c != "sync")
                         | (os.O_SYNC if "sync" in chosen else 0))
            kept.append(fd)
            assert os.pwritev(fd, [page], 0, flags) == 4096, name
            if "sync" in name:
                print(name, flush=True)
print("done", flush=True)
sys.stdin.read()
"#;

#[test]
fn synchronous_writes_survive_the_death_of_every_process() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let mut writer = Command::new("python3")
        .args(["-c", WRITER])
        .arg(mount.root())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start python3");
    let out = std::io::BufReader::new(writer.stdout.take().unwrap());
    let names: Vec<String> = std::io::BufRead::lines(out)
        .map(|line| line.expect("the writer goes on"))
        .take_while(|line| line != "done")
        .collect();
    // The mount first: nothing of what it buffers may be brought in by its end.
    mount.process().kill();
    cluster.kill_servers();
    writer.kill().expect("the writer waits");
    writer.wait().expect("it was killed");
    cluster.start_servers();
    mount.crash_and_remount();
    assert!(names.len() > 50, "{} combinations", names.len());
    let lost: Vec<&String> =
        names.iter().filter(|name| fs::read(mount.path(name)).ok() != Some(vec![b'x'; 4096])).collect();
    assert!(lost.is_empty(), "acknowledged synchronous writes are gone: {lost:?}");
}

/// Writes 20 files and closes them, without any fsync.
fn write_files(mount: &Mount) -> Vec<(String, Vec<u8>)> {
    let files: Vec<_> = (0..20u8).map(|i| (format!("f{i}"), vec![i; 200_000])).collect();
    for (name, content) in &files {
        fs::write(mount.path(name), content).unwrap();
    }
    files
}

fn all_there(mount: &Mount, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        assert!(fs::read(mount.path(name)).ok().as_ref() == Some(content), "{name} is not whole");
    }
}

#[test]
fn what_was_written_before_quarry_sync_survives_the_death_of_every_process() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let files = write_files(&mount);
    let root = mount.root().display().to_string();
    let synced = run_quarry(&["sync", &root]);
    assert!(synced.status.success(), "{}", String::from_utf8_lossy(&synced.stderr));
    mount.process().kill();
    cluster.kill_servers();
    cluster.start_servers();
    mount.crash_and_remount();
    all_there(&mount, &files);
    assert!(!run_quarry(&["sync", "/"]).status.success(), "that is no mount of Quarry");
}

#[test]
fn quarry_umount_returns_when_everything_is_on_the_disks() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let files = write_files(&mount);
    let root = mount.root().display().to_string();
    let unmounted = run_quarry(&["umount", &root]);
    assert!(unmounted.status.success(), "{}", String::from_utf8_lossy(&unmounted.stderr));
    assert!(mount.process().exited().is_some(), "the process still runs");
    cluster.kill_servers();
    cluster.start_servers();
    all_there(&cluster.mount(), &files);
}
