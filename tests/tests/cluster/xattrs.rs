//! Extended attributes and POSIX ACLs.

use quarry_tests::Cluster;
use quarry_tests::process::shell;
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use std::fs;

#[test]
fn attributes_in_every_namespace_with_their_limits() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    fs::write(mount.path("f"), "").unwrap();
    let f = mount.path("f");
    for name in ["user.a", "trusted.b", "security.c"] {
        setxattr(&f, name, name.as_bytes(), XattrFlags::empty()).unwrap();
    }
    setxattr(&f, "user.empty", b"", XattrFlags::empty()).unwrap();
    assert_eq!(setxattr(&f, "user.a", b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(setxattr(&f, "user.none", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(setxattr(&f, "what.x", b"", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    let big = vec![7; 65_536];
    setxattr(&f, "user.big", &big, XattrFlags::empty()).unwrap();
    mount.remount();
    let mut buffer = vec![0; 65_536];
    assert_eq!(getxattr(&f, "user.big", &mut buffer).unwrap(), 65_536);
    assert_eq!(buffer, big);
    assert_eq!(getxattr(&f, "user.a", &mut buffer[..3]), Err(Errno::RANGE));
    let length = listxattr(&f, &mut buffer).unwrap();
    let mut names: Vec<&[u8]> = buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names, [b"security.c".as_slice(), b"trusted.b", b"user.a", b"user.big", b"user.empty"]);
    removexattr(&f, "user.a").unwrap();
    assert_eq!(removexattr(&f, "user.a"), Err(Errno::NODATA));
    // Asks for the length first, with an empty buffer.
    shell(mount.root(), "test $(getfattr --only-values -n user.big f | wc -c) = 65536");
    // Linux keeps user attributes off links and devices.
    shell(
        mount.root(),
        "mkfifo p; fails setfattr -n user.x -v y p; ln -s f l; fails setfattr -h -n user.x -v y l",
    );
    cluster.assert_sound(false);
}

#[test]
fn acls_are_inherited_masked_and_enforced() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    shell(mount.root(), "chmod 755 . ; d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done");
    shell(
        mount.root(),
        "as() { setpriv --reuid 1000 --regid 1000 --clear-groups \"$@\"; }
         echo data > f; chmod 600 f; fails as cat f
         setfacl -m u:1000:r f; as cat f >/dev/null; fails as bash -c 'echo x >> f'
         test $(stat -c %a f) = 640; getfacl -cn f | grep -x 'user:1000:r--' >/dev/null
         chmod g-r f; fails as cat f; getfacl -cn f | grep '^mask::---' >/dev/null
         chmod 644 f; as cat f >/dev/null
         mkdir d; setfacl -d -m u:1000:rwx,g::r-x,o::--- d; umask 077; touch d/new; mkdir d/sub
         getfacl -cn d/new | grep -x 'mask::rw-' >/dev/null
         as bash -c 'echo y >> d/new'; getfacl -cn d/sub | grep -x 'default:user:1000:rwx' >/dev/null
         setfacl -b f; test $(stat -c %a f) = 604; fails getfattr -n system.posix_acl_access f",
    );
}

#[test]
fn replication_is_a_property_of_a_directory() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(
        mount.root(),
        "mkdir once all && setfattr -n trusted.quarry.replication -v 1 once && mkdir once/sub
         setfattr -n trusted.quarry.replication -v all all
         fails setfattr -n trusted.quarry.replication -v 0 once
         test $(getfattr --only-values -n trusted.quarry.replication once/sub) = 1
         head -c 100000 /dev/urandom | tee once/sub/f all/f default >/dev/null; sync",
    );
    let nodes = |path: &str| cluster.locate(path)["chunks"][0]["nodes"].as_array().map_or(0, Vec::len);
    assert_eq!((nodes("/once/sub/f"), nodes("/all/f"), nodes("/default")), (1, 3, 3));
}
