//! What a change of a file takes from its mode and its attributes, as on local file systems.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount};

fn open_to_all(mount: &Mount) {
    shell(mount.root(), "chmod 777 . ; d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done");
}

/// The ways to change a file; each gets a path.
const WAYS: &str = r#"
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def opened(flags, change):
    def way(p):
        fd = os.open(p, flags)
        try: change(fd)
        finally: os.close(fd)
    return way
def allocate(fd):
    if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(8192)): raise OSError(ctypes.get_errno(), "fallocate")
def copy(fd):
    with open("source", "rb") as source: assert os.copy_file_range(source.fileno(), fd, 4096) == 4096
WAYS = {
    "write": opened(os.O_WRONLY, lambda fd: os.write(fd, b"evil")),
    "append": opened(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"evil")),
    "direct": opened(os.O_WRONLY | os.O_DIRECT, lambda fd: os.write(fd, mmap.mmap(-1, 4096))),
    "fallocate": opened(os.O_WRONLY, allocate),
    "copy": opened(os.O_WRONLY, copy),
    "truncate": lambda p: os.truncate(p, 1),
    "open truncating": opened(os.O_WRONLY | os.O_TRUNC, lambda fd: None),
}
def as_user(groups, change):
    pid = os.fork()
    if not pid:
        os.setgroups(groups); os.setgid(4321); os.setuid(4321)
        try: change()
        except BaseException as e: print(e, file=sys.stderr, flush=True); os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
def fresh(name, mode):
    with open(name, "wb") as f: f.write(b"x" * 8192)
    os.chmod(name, mode)
def mode(p): return os.stat(p).st_mode & 0o7777
fresh("source", 0o644)
"#;

fn python(mount: &Mount, script: &str) {
    shell(mount.root(), &format!("python3 - <<'END'\n{WAYS}{script}\nEND"));
}

fn capabilities_go(arguments: &[&str]) {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount_with(arguments);
    open_to_all(&mount);
    python(
        &mount,
        r#"
CAP = bytes.fromhex("0100000200200000000000000000000000000000")
def caps(p): return "security.capability" in os.listxattr(p)
for name, way in WAYS.items():
    for who in ("user", "root"):
        p = f"{who} {name}"
        fresh(p, 0o4777)
        os.setxattr(p, "security.capability", CAP)
        os.setxattr(p, "user.kept", b"1")
        os.chmod(p, 0o4777)
        assert caps(p), f"{p}: setting does not stick"
        if who == "user": as_user([], lambda: way(p))
        else: way(p)
        assert not caps(p), p
        assert os.getxattr(p, "user.kept") == b"1"
        try: os.getxattr(p, "security.capability"); raise SystemExit(f"{p}: still there by its name")
        except OSError: pass
        assert (mode(p) & 0o4000 == 0) == (who == "user"), p
fresh("chown", 0o777)
os.setxattr("chown", "security.capability", CAP)
os.chown("chown", 77, 77)
assert not caps("chown")
"#,
    );
}

#[test]
fn capabilities_go_with_every_change_of_data_size_or_owner() {
    capabilities_go(&[]);
}

#[test]
fn capabilities_go_on_a_mount_without_page_cache_as_well() {
    capabilities_go(&["-o", "direct_io"]);
}

#[test]
fn capabilities_that_are_set_after_a_write_outlive_it() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    python(
        &mount,
        r#"
fresh("f", 0o755)
os.setxattr("f", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
"#,
    );
    mount.remount();
    shell(mount.root(), "getcap f | grep cap_net_raw");
}

#[test]
fn sgid_without_execution_is_lost_to_strangers_of_the_group_only() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    open_to_all(&mount);
    python(
        &mount,
        r#"
for name, way in WAYS.items():
    for groups, kept in (([], False), ([5555], True)):
        p = f"{name} {kept}"
        fresh(p, 0o666)
        os.chown(p, 0, 5555)
        os.chmod(p, 0o2666)
        as_user(groups, lambda: way(p))
        assert (mode(p) & 0o2000 != 0) == kept, (p, oct(mode(p)))
"#,
    );
}

#[test]
fn an_acl_set_by_an_owner_outside_the_group_takes_sgid_away() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    open_to_all(&mount);
    python(
        &mount,
        r#"
import struct
entries = [(1, 7, -1), (2, 6, 1234), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries)
for make in (lambda p: fresh(p, 0o755), os.mkdir):
    for groups, kept in (([], False), ([5555], True)):
        p = f"{'file' if make is not os.mkdir else 'dir'} {kept}"
        make(p)
        os.chown(p, 4321, 5555)
        os.chmod(p, 0o2755)
        as_user(groups, lambda: os.setxattr(p, "system.posix_acl_access", ACL))
        assert (mode(p) & 0o2000 != 0) == kept, (p, oct(mode(p)))
"#,
    );
}
