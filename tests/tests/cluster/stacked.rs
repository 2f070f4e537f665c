//! What the kernel stacks on a mount: overlays, as container engines use them, and idmapped mounts.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount};

fn cluster() -> (Cluster, Mount) {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    (cluster, mount)
}

#[test]
fn a_mount_serves_as_the_upper_layer_of_an_overlay() {
    let (_cluster, mount) = cluster();
    let made = shell(
        mount.root(),
        r#"
        mkdir -p lower/dir/deep lower/gone upper work merged
        echo old > lower/changed; echo old > lower/dir/deep/f; echo old > lower/removed; echo old > lower/gone/f
        over() { mount -t overlay over -o lowerdir=lower,upperdir=upper,workdir=work merged; }
        trap 'umount -l merged 2>/dev/null || true' EXIT
        over
        echo new > merged/made; echo more >> merged/changed; rm merged/removed; rm -r merged/gone
        mkdir merged/gone; touch merged/gone/other; mv merged/dir/deep/f merged/dir/moved
        setfattr -n user.a -v 1 merged/made; ln merged/made merged/linked; chown 5:6 merged/changed
        look() { (cd merged; find . | sort; cat changed made dir/moved; stat -c '%u %g %h' changed made); }
        look > before; umount merged; over; look > after; umount merged
        cmp before after; cat after; stat -c '%F %t %T' upper/removed
        "#,
    );
    let expected = "
.
./changed
./dir
./dir/deep
./dir/moved
./gone
./gone/other
./linked
./made
old
more
new
old
5 6 1
0 0 2
character special file 0 0
";
    assert_eq!(made.trim(), expected.trim());
}

/// Mounts a directory on another, with users and groups 0 to 999 shown as 100000 and up.
const IDMAP: &str = r#"
import ctypes, os, struct, subprocess, sys
source, target = (path.encode() for path in sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    result = libc.syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result
holder = subprocess.Popen(["unshare", "-U", "cat"], stdin=subprocess.PIPE)
ours = os.readlink("/proc/self/ns/user")
while os.readlink(f"/proc/{holder.pid}/ns/user") == ours:
    pass
for kind in "uid_map", "gid_map":
    with open(f"/proc/{holder.pid}/{kind}", "w") as table:
        table.write("0 100000 1000")
users = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)
tree = call(428, -100, source, 1)
attributes = struct.pack("QQQQ", 0x100000, 0, 0, users)
call(442, tree, b"", 0x1000, attributes, len(attributes))
call(429, tree, b"", -100, target, 4)
holder.stdin.close()
holder.wait()
"#;

#[test]
fn an_idmapped_mount_shows_and_makes_owners_through_its_map() {
    let (cluster, mount) = cluster();
    let script = cluster.path("idmap.py");
    std::fs::write(&script, IDMAP).unwrap();
    let target = cluster.path("mapped");
    std::fs::create_dir(&target).unwrap();
    let (script, target) = (script.display(), target.display());
    let seen = shell(
        mount.root(),
        &format!(
            r#"
            mkdir d; chmod 777 d; touch d/f; chown 5:6 d/f
            d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done
            python3 {script} d {target}; trap 'umount -l {target}' EXIT
            as() {{ setpriv --reuid 100007 --regid 100008 --clear-groups "$@"; }}
            stat -c '%u %g' {target}/f
            as touch {target}/made; as mkdir {target}/dir; as sh -c 'echo x > {target}/made'
            stat -c '%u %g' {target}/made {target}/dir d/made d/dir
            fails touch {target}/of-nobody
            chown 100009:100010 {target}/made; stat -c '%u %g' d/made
            "#
        ),
    );
    let expected = "100005 100006\n100007 100008\n100007 100008\n7 8\n7 8\n9 10\n";
    assert_eq!(seen, expected);
}
