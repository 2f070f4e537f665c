//! What a program refers to by other means than an open file lives as long as it does: directories, O_PATH descriptors, fifos,
//! sockets, the current directory.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount, eventually};
use std::time::Duration;

/// Refers to one of each kind, has all removed by `remove`, waits for the NameNode to free what nothing refers to, and uses them.
const SCRIPT: &str = r#"
import os, socket, subprocess, sys, time
here, remove = sys.argv[1], sys.argv[2]
os.chdir(here)
for d in "cwd", "dir": os.mkdir(d)
open("file", "w").write("hello")
for f in "fifo", "fifo2": os.mkfifo(f)
os.symlink("target", "link")
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); s.bind("sock")
file = os.open("file", os.O_PATH)
directory = os.open("dir", os.O_RDONLY | os.O_DIRECTORY)
fifo, fifo2 = os.open("fifo", os.O_RDWR), os.open("fifo2", os.O_PATH)
link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
sock = os.open("sock", os.O_PATH)
os.chdir("cwd")
subprocess.run(["bash", "-euc", f"cd {remove} && rm file fifo fifo2 link sock && rmdir cwd dir"], check=True)
time.sleep(6)
for fd in file, fifo, fifo2, link, sock: assert os.fstat(fd).st_nlink == 0, fd
assert os.read(os.open(f"/proc/self/fd/{file}", os.O_RDONLY), 9) == b"hello"
os.fchmod(fifo, 0o600)
os.write(fifo, b"x")
assert os.read(fifo, 1) == b"x"
assert os.readlink("", dir_fd=link) == "target"
assert os.listdir(directory) == [] and os.listdir(".") == []
os.fchmod(directory, 0o700)
os.setxattr(directory, "user.a", b"1")
assert os.getxattr(directory, "user.a") == b"1"
for dirfd in directory, None:
    try: os.open("x", os.O_CREAT | os.O_RDWR, dir_fd=dirfd); raise SystemExit("made in a removed directory")
    except FileNotFoundError: pass
os.stat("."); os.stat(".."); os.chdir("..")
assert os.path.samefile(".", here)
"#;

fn refer(mount: &Mount, removed_by: &Mount) {
    let (here, there) = (mount.root().display(), removed_by.root().display());
    shell(mount.root(), &format!("python3 - '{here}' '{there}' <<'END'\n{SCRIPT}\nEND"));
}

#[test]
fn what_is_referred_to_lives_when_the_same_mount_removes_it() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    refer(&mount, &mount);
    cluster.assert_sound(false);
}

#[test]
fn what_is_referred_to_lives_when_another_mount_removes_it() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    refer(&mount, &other);
    drop(mount);
    cluster.assert_sound(false);
}

#[test]
fn file_handles_outlive_the_kernels_memory() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    // The handle's bytes are kept in a file outside, so that it is used by a mount that remembers nothing.
    let kept = cluster.path("handles");
    let script = r#"
import ctypes, os, pickle, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
what, kept, root = sys.argv[1:4]
paths = ("a/b/f", "a/b", "a")
if what == "keep":
    os.makedirs("a/b"); open("a/b/f", "w").write("here")
    handles = {}
    for p in paths:
        buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + b"\0" * 128, 136)
        assert not libc.name_to_handle_at(-100, p.encode(), buffer, ctypes.byref(ctypes.c_int()), 0), p
        handles[p] = (buffer.raw, os.stat(p).st_ino)
    pickle.dump(handles, open(kept, "wb"))
    os.rename("a", "z")
else:
    mount = os.open(root, os.O_RDONLY)
    for p, (raw, ino) in pickle.load(open(kept, "rb")).items():
        fd = libc.open_by_handle_at(mount, ctypes.create_string_buffer(raw, 136), os.O_RDONLY)
        assert fd >= 0, (p, os.strerror(ctypes.get_errno()))
        assert os.fstat(fd).st_ino == ino
"#;
    let run = |mount: &Mount, what: &str| {
        let (kept, root) = (kept.display(), mount.root().display());
        shell(mount.root(), &format!("python3 - {what} '{kept}' '{root}' <<'END'\n{script}\nEND"));
    };
    run(&mount, "keep");
    run(&mount, "use");
    mount.remount();
    run(&mount, "use");
}

/// A kernel remembers what was looked up until memory is short. That must not keep the data of removed files.
#[test]
fn what_another_mount_only_remembers_is_freed_when_it_is_removed() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    shell(
        mount.root(),
        "mkdir -p d/e; for i in $(seq 50); do echo $i > d/e/f$i; ln -s x d/e/l$i; done; sync d/e/f50",
    );
    let (root, kept) = (other.root().display(), cluster.path("kept"));
    // Everything is looked up and read by the other mount, and one file stays open there.
    shell(other.root(), "ls -lR . > /dev/null; cat d/e/f* > /dev/null; cat d/e/none 2> /dev/null || true");
    let script = format!(
        "exec 3< {root}/d/e/f7; rm -r d; for i in $(seq 300); do [ -e {kept} ] && break; sleep 0.1; done; cat <&3",
        kept = kept.display()
    );
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| shell(mount.root(), &script));
        eventually("all but the open file is freed", Duration::from_secs(20), || {
            let status = cluster.status();
            status["files"] == 1 && status["chunks"].as_u64() <= Some(1)
        });
        std::fs::write(&kept, "").expect("written");
        assert_eq!(reader.join().expect("a reader").trim(), "7");
    });
    eventually("that one as well", Duration::from_secs(20), || cluster.status()["files"] == 0);
    cluster.assert_sound(false);
}
