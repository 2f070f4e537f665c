//! Opening with O_CREAT while another mount makes and removes the same names.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount};

fn two_mounts(cluster: &Cluster) -> (Mount, Mount) {
    let mounts = (cluster.mount(), cluster.mount());
    // The way to the mount points must be open for others.
    shell(mounts.0.root(), "chmod 777 . ; d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done");
    mounts
}

fn python(a: &Mount, b: &Mount, script: &str) {
    let program = format!(
        "python3 - '{}' '{}' <<'END'\nimport os, sys, time, random, multiprocessing as mp\nA, B = sys.argv[1:3]\n{script}\nEND",
        a.root().display(),
        b.root().display()
    );
    shell(std::path::Path::new("/"), &program);
}

#[test]
fn the_loser_of_a_creation_opens_the_winners_file_with_its_permissions_only() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = two_mounts(&cluster);
    python(
        &a,
        &b,
        r#"
ROUNDS = 400
def owner(barrier, out):
    for i in range(ROUNDS):
        barrier.wait(); time.sleep(random.random() * .003)
        try:
            fd = os.open(f"{A}/r{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600); os.write(fd, b"secret"); os.close(fd)
        except FileExistsError: pass
        barrier.wait()
    out.put({})
def other(barrier, out):
    os.setgroups([]); os.setgid(1000); os.setuid(1000)
    seen = {}
    for i in range(ROUNDS):
        barrier.wait(); time.sleep(random.random() * .003)
        try:
            fd = os.open(f"{B}/r{i}", os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o666)
            what = "own" if os.fstat(fd).st_uid == 1000 else "foreign"
            os.close(fd)
        except PermissionError: what = "denied"
        except OSError as e: what = f"errno {e.errno}"
        seen[what] = seen.get(what, 0) + 1
        barrier.wait()
    out.put(seen)
barrier, out = mp.Barrier(2), mp.Queue()
ps = [mp.Process(target=f, args=(barrier, out)) for f in (owner, other)]
[p.start() for p in ps]
seen = out.get() | out.get()
[p.join() for p in ps]
assert set(seen) <= {"own", "denied"}, seen
assert seen.get("own") and seen.get("denied"), seen
"#,
    );
    cluster.assert_sound(false);
}

#[test]
fn o_creat_never_fails_since_others_make_and_remove_the_name() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = two_mounts(&cluster);
    python(
        &a,
        &b,
        r#"
def churn(root, out):
    seen = {}
    for i in range(600):
        try:
            os.close(os.open(f"{root}/lock", os.O_CREAT | os.O_RDWR, 0o644)); what = "ok"
        except OSError as e: what = os.strerror(e.errno)
        seen[what] = seen.get(what, 0) + 1
        try: os.unlink(f"{root}/lock")
        except FileNotFoundError: pass
    out.put(seen)
out = mp.Queue()
ps = [mp.Process(target=churn, args=(root, out)) for root in (A, B, B)]
[p.start() for p in ps]
seen = [out.get() for p in ps]
[p.join() for p in ps]
assert all(s == {"ok": 600} for s in seen), seen
"#,
    );
}

#[test]
fn what_stands_in_the_way_of_a_creation_is_opened_as_if_it_had_been_there_before() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = two_mounts(&cluster);
    python(
        &a,
        &b,
        r#"
import errno
def dirs(p): os.mkdir(p)
def link(p): os.symlink("target", p)
def fifo(p): os.mkfifo(p)
def file(p): open(p, "w").close()
allowed = {
    dirs: {"made", "EISDIR"}, link: {"made"}, fifo: {"made", "fifo"}, file: {"made"},
}
def maker(make, barrier):
    for i in range(60):
        barrier.wait(); time.sleep(random.random() * .002)
        try: make(f"{A}/{make.__name__}{i}")
        except FileExistsError: pass
        barrier.wait()
for make, results in allowed.items():
    for exclusive in (0, os.O_EXCL):
        barrier = mp.Barrier(2)
        other = mp.Process(target=maker, args=(make, barrier)); other.start()
        for i in range(60):
            barrier.wait(); time.sleep(random.random() * .002)
            path = f"{B}/{make.__name__}{i}"
            try:
                fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC | exclusive, 0o644)
                what = "fifo" if make is fifo and not os.path.isfile(f"/proc/self/fd/{fd}") else "made"
                os.close(fd)
            except OSError as e: what = errno.errorcode[e.errno]
            assert what in results | ({"EEXIST"} if exclusive else set()), (make.__name__, exclusive, what)
            barrier.wait()
            os.system(f"rm -rf {B}/{make.__name__}{i} {B}/target")
        other.join()
"#,
    );
}
