//! Large directories, long names and paths, huge files, many open files.

use quarry_tests::Cluster;
use quarry_tests::process::shell;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

#[test]
fn the_largest_file() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    let last = i64::MAX as u64;
    let file = File::options().read(true).write(true).create_new(true).open(mount.path("huge")).unwrap();
    file.set_len(last).unwrap();
    file.write_all_at(b"x", last - 1).unwrap();
    file.sync_all().unwrap();
    assert!(file.write_at(b"yz", last).is_err());
    mount.remount();
    assert_eq!(fs::metadata(mount.path("huge")).unwrap().len(), last);
    shell(
        mount.root(),
        "python3 - <<'END'
import os, errno
f = os.open('huge', os.O_RDWR)
assert os.pread(f, 1, 2**63 - 2) == b'x'
for call in (lambda: os.pwrite(f, b'y', 2**63 - 1), lambda: os.truncate('huge', 2**63 - 1) or os.posix_fallocate(f, 2**63 - 1, 1)):
    try:
        call()
        raise SystemExit('must fail')
    except OSError as e:
        assert e.errno in (errno.EFBIG, errno.EINVAL), e
END
         rm huge",
    );
    cluster.assert_sound(false);
}

#[test]
fn deep_trees_and_long_paths() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    let script = "
import os
depth = 0
while depth < 1000:
    os.mkdir('d'); os.chdir('d'); depth += 1
open('bottom', 'w').write('deep')
";
    fs::write(cluster.path("deep.py"), script).unwrap();
    shell(mount.root(), "python3 ../deep.py");
    // The longest path that one call may name, NUL included, is 4096.
    let room = 4095 - mount.root().as_os_str().len() - 1;
    let mut path = String::new();
    while path.len() + 201 < room {
        path += &"n".repeat(200);
        path.push('/');
    }
    fs::create_dir_all(mount.path(&path)).unwrap();
    path += &"e".repeat(room - path.len());
    fs::write(mount.path(&path), "end").unwrap();
    assert!(fs::write(mount.path(&(path.clone() + "e")), "").is_err());
    mount.remount();
    assert_eq!(fs::read(mount.path(&path)).unwrap(), b"end");
    shell(mount.root(), "find d | tail -1 | tr -cd / | wc -c | grep -x 1000 >/dev/null; rm -r d n*");
}

#[test]
fn ten_thousand_open_files() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(12_000), maximum: Some(12_000) },
    )
    .expect("root may raise its limits");
    fs::create_dir(mount.path("d")).unwrap();
    let open: Vec<File> = (0..10_000u32)
        .map(|i| {
            let f = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(mount.path(&format!("d/{i}")))
                .unwrap();
            if i % 500 == 0 {
                f.write_all_at(&i.to_le_bytes(), 0).unwrap();
            }
            f
        })
        .collect();
    for i in (0..10_000u32).step_by(500) {
        let mut back = [0; 4];
        open[i as usize].read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, i.to_le_bytes());
    }
}

#[test]
fn a_directory_with_many_entries() {
    // `scripts/soak` asks for 200,000.
    let entries: usize = std::env::var("QUARRY_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    fs::create_dir(mount.path("big")).unwrap();
    let root = mount.path("big");
    std::thread::scope(|s| {
        for t in 0..4 {
            let root = &root;
            s.spawn(move || {
                for i in (t..entries).step_by(4) {
                    File::create(root.join(format!("entry-{i:06}"))).unwrap();
                }
            });
        }
    });
    mount.remount();
    assert_eq!(fs::read_dir(&root).unwrap().count(), entries);
    assert_eq!(fs::remove_dir(&root).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::remove_dir_all(&root).unwrap();
    assert!(!root.exists());
    cluster.assert_sound(false);
}
