//! A full cluster.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::io::Write;
use std::time::Duration;

const CAPACITY: u64 = 48 << 20;

#[test]
fn a_full_cluster_says_so_at_once_and_loses_nothing() {
    let cluster = Cluster::options().capacity(CAPACITY).start();
    let mut mount = cluster.mount();
    let blocks = |mount: &quarry_tests::Mount, what: &str| -> u64 {
        shell(mount.root(), &format!("stat -f -c '%S %{what}' . | awk '{{ print $1 * $2 }}'"))
            .trim()
            .parse()
            .unwrap()
    };
    let capacity = blocks(&mount, "b");
    assert!((CAPACITY * 9 / 10..=CAPACITY).contains(&capacity), "capacity is logical: {capacity}");
    let (mut kept, mut error) = (Vec::new(), None);
    for i in 0..100u32 {
        let name = format!("f{i}");
        let write = fs::File::create(mount.path(&name)).and_then(|mut f| {
            f.write_all(&vec![i as u8; 1_000_000])?;
            f.sync_all()
        });
        match write {
            Ok(()) => kept.push((name, i as u8)),
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let error = error.expect("it gets full");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(kept.len() >= 35, "only {} MB of 48 MiB were usable", kept.len());
    // Names still work, and everything acknowledged is there.
    fs::create_dir(mount.path("d")).unwrap();
    mount.remount();
    for (name, fill) in &kept {
        let data = fs::read(mount.path(name)).unwrap();
        assert!(data.len() == 1_000_000 && data.iter().all(|b| b == fill), "{name}");
    }
    // Deleting makes room again.
    for (name, _) in &kept[..20] {
        fs::remove_file(mount.path(name)).unwrap();
    }
    eventually("there is room again", Duration::from_secs(60), || {
        fs::File::create(mount.path("again"))
            .and_then(|mut f| f.write_all(&[1; 500_000]).and_then(|()| f.sync_all()))
            .is_ok()
    });
    assert!(blocks(&mount, "a") > 0);
    cluster.assert_sound(true);
}

#[test]
fn fallocate_of_more_than_is_free_is_refused() {
    let cluster = Cluster::options().capacity(CAPACITY).start();
    let mount = cluster.mount();
    for how in ["-l", "-n -l"] {
        shell(
            mount.root(),
            &format!("fails fallocate {how} 32T f; fallocate {how} 1M f; fallocate {how} 1M f"),
        );
    }
}

/// Programs that do not fsync: what was taken in without an error is there, the rest was refused at the write.
#[test]
fn what_a_full_cluster_took_is_whole() {
    let cluster = Cluster::options().datanodes(1).replication("1").capacity(64 << 20).start();
    let mut mount = cluster.mount();
    // Not a multiple of a chunk: the rest waits in the mount for a while.
    let content = |i: usize| (0..5_000_000).map(|at| (at / 1000 + i) as u8).collect::<Vec<u8>>();
    let (mut taken, mut refused) = (Vec::new(), 0);
    for i in 0..40 {
        let name = format!("f{i}");
        match fs::write(mount.path(&name), content(i)) {
            Ok(()) => taken.push(i),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
                refused += 1;
            }
        }
        if refused == 4 {
            break;
        }
    }
    assert!(refused > 0 && taken.len() > 6, "{} were taken and {refused} refused", taken.len());
    mount.remount();
    for i in taken {
        assert!(fs::read(mount.path(&format!("f{i}"))).unwrap() == content(i), "f{i} is not whole");
    }
    cluster.assert_sound(false);
}
