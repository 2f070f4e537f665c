//! Bytes: written, read back, through every kind of call.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

const MIB: usize = 1 << 20;

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

fn rw(mount: &Mount, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mount.path(name)).unwrap()
}

#[test]
fn files_of_every_size_come_back() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let sizes = [
        0,
        1,
        4095,
        4096,
        65_535,
        65_536,
        65_537,
        2 * MIB - 1,
        2 * MIB,
        2 * MIB + 1,
        5 * MIB + 12_345,
        33 * MIB,
    ];
    for (seed, &size) in sizes.iter().enumerate() {
        fs::write(mount.path(&format!("f{size}")), bytes(seed as u64, size)).unwrap();
    }
    for cold in [false, true] {
        if cold {
            mount.remount();
        }
        for (seed, &size) in sizes.iter().enumerate() {
            let name = mount.path(&format!("f{size}"));
            assert_eq!(fs::metadata(&name).unwrap().len(), size as u64);
            assert!(fs::read(&name).unwrap() == bytes(seed as u64, size), "{size} bytes, cold: {cold}");
        }
    }
    cluster.assert_sound(true);
}

#[test]
fn overwrites_in_the_middle_are_seen_at_once_and_later() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let mut model = bytes(1, 7 * MIB);
    fs::write(mount.path("f"), &model).unwrap();
    let file = rw(&mount, "f");
    let mut rng = StdRng::seed_from_u64(2);
    for round in 0..200u64 {
        let at = (rng.next_u64() as usize) % (model.len() - 9000);
        let piece = bytes(100 + round, 1 + (rng.next_u64() as usize) % 8999);
        file.write_all_at(&piece, at as u64).unwrap();
        model[at..at + piece.len()].copy_from_slice(&piece);
        if round % 50 == 0 {
            file.sync_all().unwrap();
        }
    }
    assert!(fs::read(mount.path("f")).unwrap() == model);
    drop(file);
    mount.remount();
    assert!(fs::read(mount.path("f")).unwrap() == model);
    cluster.assert_sound(true);
}

#[test]
fn appends_go_to_the_end() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let mut model = Vec::new();
    for i in 0..300u64 {
        let mut file = OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
        let line = bytes(i, 1 + (i as usize * 37) % 5000);
        file.write_all(&line).unwrap();
        model.extend_from_slice(&line);
    }
    mount.remount();
    assert!(fs::read(mount.path("log")).unwrap() == model);
}

#[test]
fn holes_read_as_zeros_and_are_found() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let file = rw(&mount, "sparse");
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"far", 1 << 40).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.remount();
    let file = rw(&mount, "sparse");
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), (1 << 40) + 3);
    assert!(meta.blocks() * 512 < MIB as u64, "a hole takes no space: {} blocks", meta.blocks());
    let mut buffer = [1; 4096];
    file.read_exact_at(&mut buffer, 1 << 30).unwrap();
    assert_eq!(buffer, [0; 4096]);
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 5);
    assert_eq!(seek(&file, SeekFrom::Data(5)).unwrap(), 1 << 40);
    assert_eq!(seek(&file, SeekFrom::Hole(1 << 40)).unwrap(), (1 << 40) + 3);
    assert!(seek(&file, SeekFrom::Data((1 << 40) + 3)).is_err());
}

#[test]
fn truncate_cuts_and_extends_with_zeros() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    let data = bytes(3, 5 * MIB);
    fs::write(mount.path("f"), &data).unwrap();
    let file = rw(&mount, "f");
    file.set_len(3 * MIB as u64 + 77).unwrap();
    file.set_len(6 * MIB as u64).unwrap();
    let mut model = data[..3 * MIB + 77].to_vec();
    model.resize(6 * MIB, 0);
    assert!(fs::read(mount.path("f")).unwrap() == model);
    drop(file);
    mount.remount();
    assert!(fs::read(mount.path("f")).unwrap() == model);
    fs::write(mount.path("f"), b"short").unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"short");
}

#[test]
fn fallocate_punches_zeroes_and_extends() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let mut model = bytes(4, 6 * MIB);
    fs::write(mount.path("f"), &model).unwrap();
    let file = rw(&mount, "f");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 1_000_000, 3_000_000).unwrap();
    model[1_000_000..4_000_000].fill(0);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 6 * MIB as u64 - 10, 20).unwrap();
    model[6 * MIB - 10..].fill(0);
    model.resize(6 * MIB + 10, 0);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 100 * MIB as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
    fallocate(&file, FallocateFlags::empty(), 0, 7 * MIB as u64).unwrap();
    model.resize(7 * MIB, 0);
    assert!(fs::read(mount.path("f")).unwrap() == model);
    let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(rustix::io::Errno::OPNOTSUPP));
    cluster.assert_sound(true);
}

#[test]
fn copies_are_made_by_reference() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let data = bytes(5, 9 * MIB);
    fs::write(mount.path("a"), &data).unwrap();
    let (a, b) = (rw(&mount, "a"), rw(&mount, "b"));
    a.sync_all().unwrap();
    let chunks = cluster.status()["chunks"].as_u64().unwrap();
    let (mut from, mut to, mut left) = (123_456, 7, 8 * MIB);
    while left > 0 {
        let n = copy_file_range(&a, Some(&mut from), &b, Some(&mut to), left).unwrap();
        assert!(n > 0);
        left -= n;
    }
    let mut model = vec![0; 7];
    model.extend_from_slice(&data[123_456..123_456 + 8 * MIB]);
    assert!(fs::read(mount.path("b")).unwrap() == model);
    assert_eq!(cluster.status()["chunks"].as_u64().unwrap(), chunks, "no data was written for the copy");
    // The copy stays when the original changes and goes.
    fs::write(mount.path("a"), b"other").unwrap();
    fs::remove_file(mount.path("a")).unwrap();
    assert!(fs::read(mount.path("b")).unwrap() == model);
    cluster.assert_sound(true);
}

#[test]
fn mmap_shared_and_private() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    fs::write(mount.path("m"), vec![7; 3 * MIB]).unwrap();
    let script = r#"
import mmap, os, sys
f = open(sys.argv[1], "r+b")
private = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
private[0:4] = b"none"
shared = mmap.mmap(f.fileno(), 0)
assert shared[0] == 7 and len(shared) == 3 << 20
shared[100:105] = b"hello"
shared[2 << 20] = 9
shared.flush()
assert open(sys.argv[1], "rb").read()[100:105] == b"hello"
"#;
    fs::write(cluster.path("maps.py"), script).unwrap();
    let run = format!("python3 '{}' '{}'", cluster.path("maps.py").display(), mount.path("m").display());
    shell(cluster.path("").as_path(), &run);
    mount.remount();
    let mut model = vec![7; 3 * MIB];
    model[100..105].copy_from_slice(b"hello");
    model[2 * MIB] = 9;
    assert!(fs::read(mount.path("m")).unwrap() == model);
}

#[test]
fn direct_and_synchronous_io() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(
        mount.root(),
        "dd if=/dev/urandom of=../source bs=1M count=9 status=none
         dd if=../source of=direct bs=1M oflag=direct status=none && cmp ../source direct
         dd if=direct of=../back bs=64k iflag=direct status=none && cmp ../source ../back
         dd if=../source of=sync bs=512k oflag=sync status=none && cmp ../source sync
         dd if=../source of=dsync bs=300k oflag=dsync status=none && cmp ../source dsync",
    );
    // Direct and buffered views of one file agree.
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(mount.path("direct"))
        .unwrap();
    let mut buffered = File::open(mount.path("direct")).unwrap();
    let mut first = [0; 4096];
    buffered.read_exact(&mut first).unwrap();
    /// Direct I/O wants its memory aligned.
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    direct.write_all_at(&Page([42; 4096]).0, 0).unwrap();
    buffered.rewind().unwrap();
    buffered.read_exact(&mut first).unwrap();
    assert_eq!(first, [42; 4096]);
}

#[test]
fn an_unlinked_file_lives_as_long_as_it_is_open() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let data = bytes(6, 5 * MIB);
    let file = rw(&mount, "gone");
    file.write_all_at(&data, 0).unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    assert!(!mount.path("gone").exists());
    file.write_all_at(b"still here", 10).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; data.len()];
    file.read_exact_at(&mut back, 0).unwrap();
    let mut model = data;
    model[10..20].copy_from_slice(b"still here");
    assert!(back == model);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    quarry_tests::eventually("its chunks are deleted", std::time::Duration::from_secs(40), || {
        let status = cluster.status();
        status["chunks"] == 0 && status["chunks_deleting"] == 0
    });
}
