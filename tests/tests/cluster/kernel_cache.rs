//! What the kernel keeps of a mount, and what changes on other mounts do to it.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, eventually, program};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn mounts_inside_and_running_programs_stay_whatever_other_mounts_change() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = (cluster.mount(), cluster.mount());
    let script = r#"
set -euo pipefail
mkdir -p "$A/app/data"; echo inside > "$A/app/conf"; echo bound > /tmp/quarry-bound.$$; cp /bin/sleep "$A/app/sleep"
mount -t tmpfs tmpfs "$A/app/data"; mount --bind /tmp/quarry-bound.$$ "$A/app/conf"
(cd "$A/app" && exec ./sleep 100) & program=$!
trap 'kill $program; umount "$A/app/data" "$A/app/conf" || true; rm -f /tmp/quarry-bound.$$' EXIT
echo x > "$A/app/data/inside"
for i in $(seq 40); do
    echo x > "$B/app/n$i"; mv "$B/app/n$i" "$B/app/m"; mkdir "$B/d$i"
    chmod 7$((i % 2 * 5))5 "$B/app"; touch "$B/app/data"
    test ! -e "$A/app/nothing"
    mountpoint -q "$A/app/data"; test -e "$A/app/data/inside"; test "$(cat "$A/app/conf")" = bound
    test "$(readlink /proc/$program/exe)" = "$(realpath "$A")/app/sleep"
    test "$(readlink /proc/$program/cwd)" = "$(realpath "$A")/app"
done
"#;
    let script = format!("A='{}'; B='{}'\n{script}", a.root().display(), b.root().display());
    shell(Path::new("/"), &script);
}

#[test]
fn asynchronous_direct_writes_are_seen_through_the_page_cache() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let aio = program::compile("aio", &cluster.path("logs"));
    shell(mount.root(), &format!("{} f 300", aio.display()));
}

/// A reader that waits for stopped DataNodes, with pages of the file locked in the kernel, and a writer on another mount.
struct Stuck {
    cluster: Cluster,
    reading: quarry_tests::Mount,
    writing: quarry_tests::Mount,
    children: Vec<std::process::Child>,
}

impl Stuck {
    fn new() -> Self {
        let mut cluster = Cluster::options().datanodes(1).replication("1").start();
        let (reading, writing) = (cluster.mount(), cluster.mount());
        shell(writing.root(), "head -c 8M /dev/urandom > f && sync f && mkdir d");
        cluster.datanode(1).signal(Signal::STOP);
        let start = |program: &mut Command| {
            program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a program")
        };
        let reader = start(Command::new("cat").arg(reading.path("f")));
        std::thread::sleep(Duration::from_millis(500));
        let output = format!("of={}", writing.path("f").display());
        let writer =
            start(Command::new("dd").args(["if=/dev/zero", "bs=4k", "count=1", "conv=notrunc"]).arg(output));
        std::thread::sleep(Duration::from_millis(500));
        Self { cluster, reading, writing, children: vec![reader, writer] }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.cluster.datanode(1).signal(Signal::CONT);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_file_whose_pages_are_locked_delays_no_other() {
    let stuck = Stuck::new();
    // The reading mount holds leases on what the other changes: each change waits for its recall.
    for i in 0..20 {
        fs::read_dir(stuck.reading.path("d")).unwrap().for_each(drop);
        let start = Instant::now();
        fs::File::create(stuck.writing.path(&format!("d/{i}"))).unwrap();
        assert!(stuck.reading.path(&format!("d/{i}")).exists());
        // Far below the term of a lease (5 s), which it takes if recalls wait for the locked pages.
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[test]
fn a_mount_that_is_killed_while_recalled_is_gone_at_once() {
    let mut stuck = Stuck::new();
    let pid = stuck.reading.process().pid();
    stuck.reading.process().signal(Signal::KILL);
    eventually("the process is gone", Duration::from_secs(10), || stuck.reading.process().exited().is_some());
    eventually("the mount is gone", Duration::from_secs(10), || {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        !mounts.contains(&*stuck.reading.root().to_string_lossy())
    });
    eventually("the watcher says what happened", Duration::from_secs(10), || {
        stuck.reading.process().log_end(20).contains(&format!("process {pid}"))
    });
}
