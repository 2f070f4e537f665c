//! Two mounts of one cluster: what one closed, the other sees when it opens.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount};
use std::fs;
use std::io::Write;

fn two(cluster: &Cluster) -> (Mount, Mount) {
    (cluster.mount(), cluster.mount())
}

#[test]
fn closed_here_is_seen_there() {
    let cluster = Cluster::start();
    let (a, b) = two(&cluster);
    for round in 0..20u8 {
        let data = vec![round; 100_000 * (1 + usize::from(round) % 3)];
        fs::write(a.path("f"), &data).unwrap();
        assert!(fs::read(b.path("f")).unwrap() == data, "round {round}");
        let mut back = fs::File::options().append(true).open(b.path("f")).unwrap();
        back.write_all(b"tail").unwrap();
        drop(back);
        assert!(fs::read(a.path("f")).unwrap().ends_with(b"tail"), "round {round}");
    }
}

#[test]
fn names_and_attributes_are_seen_at_once() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = two(&cluster);
    for round in 0..20 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        assert!(!b.path(&old).exists());
        fs::write(a.path(&old), "x").unwrap();
        assert!(b.path(&old).exists());
        fs::rename(b.path(&old), b.path(&new)).unwrap();
        assert!(!a.path(&old).exists() && a.path(&new).exists());
        shell(a.root(), &format!("chmod 604 {new}"));
        assert_eq!(shell(b.root(), &format!("stat -c %a {new}")), "604\n");
        fs::remove_file(a.path(&new)).unwrap();
        assert!(!b.path(&new).exists());
    }
    assert_eq!(fs::read_dir(b.root()).unwrap().count(), 0);
}

#[test]
fn unlinked_there_but_open_here() {
    let cluster = Cluster::start();
    let (a, b) = two(&cluster);
    fs::write(a.path("f"), vec![5; 3_000_000]).unwrap();
    let open = fs::File::open(a.path("f")).unwrap();
    fs::remove_file(b.path("f")).unwrap();
    let mut data = Vec::new();
    std::io::Read::read_to_end(&mut &open, &mut data).unwrap();
    assert!(data == vec![5; 3_000_000]);
}

#[test]
fn both_create_in_one_directory() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = two(&cluster);
    fs::create_dir(a.path("d")).unwrap();
    let winners: usize = std::thread::scope(|s| {
        let race = &|mount: &Mount| {
            let dir = mount.path("d");
            (0..200).filter(|i| fs::File::create_new(dir.join(i.to_string())).is_ok()).count()
        };
        let (x, y) = (s.spawn(|| race(&a)), s.spawn(|| race(&b)));
        x.join().unwrap() + y.join().unwrap()
    });
    assert_eq!(winners, 200, "each name has exactly one creator");
    cluster.assert_sound(false);
}
