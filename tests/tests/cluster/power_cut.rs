//! The power of all servers is cut: what was fsynced is there, whatever was written since.

use quarry_tests::{Cluster, Mount};
use rustix::fs::copy_file_range;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SIZE: usize = 100_000;
const PART: usize = 5_000;
/// Files of each kind.
const FILES: usize = 4;
const KINDS: [&str; 5] = ["whole", "part", "append", "truncated", "renamed"];

fn content(seed: u8) -> Vec<u8> {
    (0..SIZE).map(|at| (at / 251) as u8 ^ (at as u8).wrapping_mul(seed)).collect()
}

fn write_synced(path: &Path, data: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(data).unwrap();
    file.sync_all().unwrap();
}

/// Changes a file and closes it, without fsync. Returns what it contains then.
fn change(mount: &Mount, kind: &str, name: &str, old: &[u8], new: &[u8]) -> Vec<u8> {
    let path = mount.path(name);
    let over = || File::options().write(true).open(&path).unwrap();
    match kind {
        "whole" => over().write_all_at(new, 0).unwrap(),
        "part" => {
            over().write_all_at(&new[..PART], 0).unwrap();
            return [&new[..PART], &old[PART..]].concat();
        }
        "append" => {
            File::options().append(true).open(&path).unwrap().write_all(&new[..PART]).unwrap();
            return [old, &new[..PART]].concat();
        }
        "truncated" => fs::write(&path, new).unwrap(),
        _ => {
            let other = mount.path(&format!("{name}.new"));
            fs::write(&other, new).unwrap();
            fs::rename(other, &path).unwrap();
        }
    }
    new.to_vec()
}

#[test]
fn what_was_fsynced_survives_a_power_cut_of_all_servers_whatever_was_written_since() {
    let mut cluster = Cluster::options().datanodes(2).replication("2").disks().start();
    let (mut ours, mut theirs) = (cluster.mount(), cluster.mount());
    let (old, new) = (content(3), content(7));
    let names = || KINDS.iter().flat_map(|kind| (0..FILES).map(move |n| (*kind, format!("{kind}{n}"))));
    for (_, name) in names() {
        write_synced(&ours.path(&name), &old);
    }
    let changed: Vec<_> =
        names().map(|(kind, name)| (change(&ours, kind, &name, &old, &new), name)).collect();
    // A look from elsewhere brings the changes into the cluster, but onto no disk.
    for (content, name) in &changed {
        assert!(fs::read(theirs.path(name)).unwrap() == *content, "{name}");
    }
    // What another mount wrote a moment ago, copied by reference, and synced.
    fs::write(ours.path("fresh"), &new).unwrap();
    let (from, to) = (File::open(theirs.path("fresh")).unwrap(), File::create(theirs.path("copy")).unwrap());
    let (mut from_at, mut to_at) = (0, 0);
    while from_at < SIZE as u64 {
        let left = SIZE - from_at as usize;
        assert!(copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), left).unwrap() > 0);
    }
    to.sync_all().unwrap();

    ours.process().kill();
    theirs.process().kill();
    cluster.cut_power();
    cluster.wait_healthy();
    ours.crash_and_remount();
    for (content, name) in &changed {
        let seen = fs::read(ours.path(name));
        let whole = seen.as_ref().is_ok_and(|seen| seen == &old || seen == content);
        assert!(
            whole,
            "{name}: {:?}",
            seen.map(|seen| (seen.len(), seen.iter().filter(|b| **b == 0).count()))
        );
    }
    assert!(fs::read(ours.path("copy")).unwrap() == new, "the synced copy");
    cluster.assert_sound(false);
}
