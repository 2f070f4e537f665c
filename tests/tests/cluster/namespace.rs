//! Names, attributes and what rename, link and unlink do to them.

use quarry_tests::Cluster;
use quarry_tests::process::shell;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn rename_in_all_its_forms() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let p = |n: &str| mount.path(n);
    fs::write(p("a"), "a").unwrap();
    fs::write(p("b"), "b").unwrap();
    assert_eq!(
        renameat_with(CWD, p("a"), CWD, p("b"), RenameFlags::NOREPLACE),
        Err(rustix::io::Errno::EXIST)
    );
    renameat_with(CWD, p("a"), CWD, p("b"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(p("a")).unwrap(), fs::read(p("b")).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    fs::rename(p("a"), p("b")).unwrap();
    assert_eq!(fs::read(p("b")).unwrap(), b"b");
    assert!(!p("a").exists());
    fs::create_dir_all(p("d/e")).unwrap();
    assert_eq!(fs::rename(p("d"), p("d/e/f")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(fs::rename(p("b"), p("d")).unwrap_err().kind(), ErrorKind::IsADirectory);
    assert_eq!(fs::rename(p("d"), p("b")).unwrap_err().kind(), ErrorKind::NotADirectory);
    fs::create_dir(p("empty")).unwrap();
    fs::rename(p("d/e"), p("empty")).unwrap();
    assert_eq!(fs::rename(p("empty"), p("d")).map_err(|e| e.kind()), Ok(()));
    fs::write(p("d/x"), "").unwrap();
    fs::create_dir(p("other")).unwrap();
    assert_eq!(fs::rename(p("other"), p("d")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(fs::metadata(mount.root()).unwrap().nlink(), 4);
    cluster.assert_sound(false);
}

#[test]
fn a_rename_can_leave_a_whiteout() {
    use std::os::unix::fs::FileTypeExt;
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    for (from, to) in [("a", "b"), ("c", "b")] {
        fs::write(mount.path(from), from).unwrap();
        renameat_with(CWD, mount.path(from), CWD, mount.path(to), RenameFlags::WHITEOUT).unwrap();
        for root in [&mount, &other] {
            let left = fs::symlink_metadata(root.path(from)).unwrap();
            assert!(left.file_type().is_char_device() && left.rdev() == 0);
            assert_eq!(fs::read_to_string(root.path(to)).unwrap(), from);
        }
    }
    cluster.assert_sound(false);
}

#[test]
fn special_files_links_and_modes() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount_with(&["-o", "dev"]);
    let check = "test -p fifo && test -S sock && test -c null && test $(stat -c %t:%T null) = 1:3
        test -b disk && test $(stat -c %a suid) = 4755 && test $(stat -c %h one) = 3 && test one -ef two
        test $(readlink sl) = /no/where && test $(stat -c %a dir) = 3777 && test $(stat -c %u:%g owned) = 1234:4321
        test \"$(stat -c %y times)\" = '2001-02-03 04:05:06.123456789 +0000'";
    shell(
        mount.root(),
        "export TZ=UTC; mkfifo fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'
         mknod null c 1 3; mknod disk b 8 1; touch suid one owned; chmod 4755 suid; ln one two; ln one three
         ln -s /no/where sl; mkdir -m 3777 dir; chown 1234:4321 owned; echo x > null; head -c 1 null | wc -c | grep -x 0 >/dev/null
         touch -d '2001-02-03 04:05:06.123456789 UTC' times",
    );
    shell(mount.root(), &format!("export TZ=UTC; {check}"));
    mount.remount();
    shell(mount.root(), &format!("export TZ=UTC; {check}"));
}

#[test]
fn permissions_are_enforced() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::write(mount.path("secret"), "x").unwrap();
    fs::set_permissions(mount.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(mount.path("sticky")).unwrap();
    fs::set_permissions(mount.path("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(mount.path("sticky/root"), "x").unwrap();
    // The way to the mount point must be open for others.
    shell(mount.root(), "chmod 755 . ; d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done");
    shell(
        mount.root(),
        "as() { setpriv --reuid 1000 --regid 1000 --clear-groups \"$@\"; }
         fails as cat secret; fails as touch new; fails as rm -f sticky/root
         as touch sticky/mine; test $(stat -c %u sticky/mine) = 1000; as rm sticky/mine
         chmod 4777 secret; chown 0:0 secret; chmod 4777 secret; as bash -c 'echo y >> secret'; test $(stat -c %a secret) = 777",
    );
}

#[test]
fn a_listing_goes_on_steadily_while_the_directory_changes() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::create_dir(mount.path("d")).unwrap();
    for i in 0..3000 {
        fs::write(mount.path(&format!("d/stay{i}")), "").unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for (n, entry) in fs::read_dir(mount.path("d")).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name.clone()), "{name} twice");
        if n % 100 == 0 {
            fs::write(mount.path(&format!("d/new{n}")), "").unwrap();
            fs::remove_file(mount.path(&format!("d/new{n}"))).unwrap();
        }
    }
    assert_eq!(seen.iter().filter(|n| n.starts_with("stay")).count(), 3000);
}

#[test]
fn a_listing_ends_though_its_entries_are_renamed_or_made_again() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    for how in ["rename", "again"] {
        let dir = mount.path(how);
        fs::create_dir(&dir).unwrap();
        for i in 0..500 {
            fs::write(dir.join(format!("f{i}")), "").unwrap();
        }
        let mut shown = 0;
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if how == "rename" {
                fs::rename(&path, path.with_extension("x")).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
                fs::write(&path, "").unwrap();
            }
            shown += 1;
            assert!(shown <= 500, "{how}: entries that are newer than the listing");
        }
        assert_eq!((shown, fs::read_dir(&dir).unwrap().count()), (500, 500), "{how}");
    }
}

#[test]
fn times_on_both_sides_of_1970_are_exact() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = (cluster.mount(), cluster.mount());
    let script = r#"
import os, sys
A, B = sys.argv[1:3]
S = 10**9
for t in -S, -1, -S // 2, -S - 1, -2**31 * S, -86400 * S + 123, 0, 1, S - 1, 2**31 * S + 5, 2**32 * S + 1, 4102444800 * S + 123456789:
    for here, there in (A, B), (B, A):
        open(f"{here}/f", "w").close()
        os.utime(f"{here}/f", ns=(t, t + 1))
        for root in here, there:
            st = os.stat(f"{root}/f")
            assert (st.st_atime_ns, st.st_mtime_ns) == (t, t + 1), (t, st.st_atime_ns, st.st_mtime_ns)
"#;
    let roots = format!("'{}' '{}'", a.root().display(), b.root().display());
    shell(a.root(), &format!("python3 - {roots} <<'END'\n{script}\nEND"));
}

#[test]
fn a_ctime_stays_as_it_was_shown() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let ctime = |path: std::path::PathBuf| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let mut shown = Vec::new();
    for i in 0..10 {
        fs::write(mount.path("new"), "x").unwrap();
        let name = format!("f{i}");
        if i % 2 == 0 {
            fs::rename(mount.path("new"), mount.path(&name)).unwrap();
        } else {
            fs::hard_link(mount.path("new"), mount.path(&name)).unwrap();
            fs::remove_file(mount.path("new")).unwrap();
        }
        shown.push(ctime(mount.path(&name)));
    }
    // What was written is sent to the cluster now: the other mount looks at it.
    for (i, shown) in shown.iter().enumerate() {
        let name = format!("f{i}");
        assert_eq!(fs::read_to_string(other.path(&name)).unwrap(), "x");
        assert_eq!((ctime(mount.path(&name)), ctime(other.path(&name))), (*shown, *shown), "{name}");
    }
}

#[test]
fn names_may_hold_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    let names: Vec<Vec<u8>> = (1..=255u8)
        .filter(|b| *b != b'/' && *b != b'.')
        .map(|b| vec![b])
        .chain([vec![b'x'; 255], vec![0xff; 255]])
        .collect();
    let path = |mount: &quarry_tests::Mount, n: &[u8]| mount.root().join(std::ffi::OsStr::from_bytes(n));
    for name in &names {
        fs::write(path(&mount, name), name).unwrap();
    }
    assert!(fs::write(path(&mount, &[b'x'; 256]), "").is_err());
    mount.remount();
    for name in &names {
        assert_eq!(&fs::read(path(&mount, name)).unwrap(), name);
    }
    assert_eq!(fs::read_dir(mount.root()).unwrap().count(), names.len());
}
