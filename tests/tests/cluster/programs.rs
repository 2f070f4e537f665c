//! Real programs at work on a mount.

use quarry_tests::Cluster;
use quarry_tests::process::shell;
use quarry_tests::tree::{assert_same, real_tree};
use std::fs;

const GIT: &str = "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b";

#[test]
fn git() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let source = real_tree();
    shell(
        mount.root(),
        &format!(
            "{GIT}; cp -r '{}' repo && cd repo && for i in $(seq 1000); do mkdir -p many/$((i % 20)); echo $i > many/$((i % 20))/$i; done
             git init -q . && git add -A && git commit -qm one && test -z \"$(git status --porcelain)\"
             echo change > many/1/1 && git commit -qam two && git gc -q && git fsck --strict
             cd .. && git clone -q --no-hardlinks repo clone && cd clone && git fsck --strict && test $(git log --oneline | wc -l) = 2",
            source.display()
        ),
    );
    mount.remount();
    shell(
        mount.root(),
        &format!(
            "{GIT}; cd repo && git fsck --strict && test -z \"$(git status --porcelain)\" && diff -r many ../clone/many"
        ),
    );
}

#[test]
fn sqlite_with_concurrent_writers() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let script = r#"
import multiprocessing, sqlite3, sys
path, mode = sys.argv[1], sys.argv[2]
def work(n):
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    for i in range(25):
        db.execute("begin immediate")
        db.execute("insert into t values(?, ?, ?)", (n, i, "x" * 500))
        db.execute("update total set n = n + 1")
        db.execute("commit")
db = sqlite3.connect(path, isolation_level=None)
assert db.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
db.execute("create table t(worker, i, data)")
db.execute("create table total(n)")
db.execute("insert into total values(0)")
db.close()
workers = [multiprocessing.Process(target=work, args=(n,)) for n in range(3)]
[w.start() for w in workers]
[w.join() for w in workers]
assert all(w.exitcode == 0 for w in workers)
db = sqlite3.connect(path)
assert db.execute("select count(*), (select n from total) from t").fetchone() == (75, 75)
assert db.execute("pragma integrity_check").fetchone() == ("ok",)
"#;
    fs::write(cluster.path("sql.py"), script).unwrap();
    shell(mount.root(), "python3 ../sql.py wal.db wal & python3 ../sql.py del.db delete; wait $!");
    mount.remount();
    for db in ["wal.db", "del.db"] {
        assert_eq!(
            shell(mount.root(), &format!("sqlite3 {db} 'pragma integrity_check; select count(*) from t'")),
            "ok\n75\n"
        );
    }
}

#[test]
fn tar_and_rsync_find_nothing_to_do_the_second_time() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let source = cluster.path("source");
    shell(
        &cluster.path(""),
        &format!(
            "cp -r '{}' source && cd source && ln Cargo.toml hard 2>/dev/null || ln $(ls | head -1) hard; ln -s hard soft; mkfifo fifo
             touch -d 2001-02-03 old; setfattr -n user.x -v y old; setfacl -m u:7:r old; chmod 4711 old; truncate -s 9M sparse",
            real_tree().display()
        ),
    );
    shell(
        mount.root(),
        &format!(
            "mkdir t && tar -C '{0}' --xattrs --acls -cf - . | tar -C t --xattrs --acls -xpf -",
            source.display()
        ),
    );
    assert_same(&source, &mount.path("t"));
    shell(
        mount.root(),
        &format!("tar -C '{}' --xattrs --acls -cf ../a.tar . && tar -C t -df ../a.tar", source.display()),
    );
    shell(mount.root(), &format!("rsync -aHAX '{}/' r/", source.display()));
    mount.remount();
    let again = shell(mount.root(), &format!("rsync -aHAXni --checksum '{}/' r/", source.display()));
    assert_eq!(again, "", "the second pass found something to do");
    assert_same(&source, &mount.path("r"));
}

#[test]
fn cargo_builds_on_the_mount() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let built = shell(
        mount.root(),
        "export CARGO_TARGET_DIR=$PWD/target CARGO_NET_OFFLINE=true; cargo init -q --vcs none --name hello hello && cd hello
         cargo build -q 2>&1 && cargo build 2>&1 && ../target/debug/hello
         echo '// more' >> src/main.rs && cargo build 2>&1 | grep Compiling >/dev/null && ../target/debug/hello",
    );
    assert!(built.ends_with("Hello, world!\nHello, world!\n") && !built.contains("Compiling"), "{built}");
}

#[test]
fn an_executable_and_its_library_run_from_the_mount() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    shell(
        mount.root(),
        "printf 'int seven(void) { return 7; }' > l.c && cc -shared -fPIC -o libl.so l.c
         printf 'int seven(void); int main(void) { return seven(); }' > m.c && cc -o m m.c -L. -ll -Wl,-rpath,$PWD",
    );
    for _ in 0..2 {
        shell(mount.root(), "code=0; ./m || code=$?; test $code = 7");
        mount.remount();
    }
    // A running program cannot be written to.
    shell(
        mount.root(),
        "cp /bin/sleep s && ./s 5 & cd . && sleep 0.5; fails bash -c 'echo x > s'; kill $!; wait $! || true",
    );
}

#[test]
fn find_newer_df_du_and_inotify() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(
        mount.root(),
        "touch -d '1 hour ago' old; touch mark; sleep 0.02; touch new; test \"$(find . -newer mark -name 'new')\" = ./new
         test -z \"$(find . -newer mark -name old)\"
         head -c 3000000 /dev/urandom > f; test $(du -k --apparent-size f | cut -f1) = 2930; test $(du -k f | cut -f1) -ge 2929
         df . | grep quarry >/dev/null || df -T . | grep fuse.quarry >/dev/null",
    );
    let script = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
assert libc.inotify_add_watch(fd, sys.argv[1].encode(), 0x100 | 0x200 | 0x80 | 0x40 | 0x8) >= 0
p = sys.argv[1] + "/watched"
open(p, "w").write("x")
os.rename(p, p + "2")
os.unlink(p + "2")
seen, data = 0, os.read(fd, 4096)
while data:
    _, mask, _, length = struct.unpack_from("iIII", data)
    seen |= mask
    data = data[16 + length:]
assert seen & 0x100 and seen & 0x8 and seen & 0x40 and seen & 0x80 and seen & 0x200, hex(seen)
"#;
    fs::write(cluster.path("watch.py"), script).unwrap();
    shell(mount.root(), "python3 ../watch.py $PWD");
}
