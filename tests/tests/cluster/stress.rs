//! Many processes doing random operations at once, then a check of everything.

use quarry_tests::Cluster;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `scripts/soak` makes it minutes.
fn duration() -> Duration {
    Duration::from_secs(
        std::env::var("QUARRY_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(15),
    )
}

/// The names of all entries: few, so that workers meet.
const NAMES: [&str; 8] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"];

fn any(root: &Path, rng: &mut StdRng) -> PathBuf {
    let mut path = root.to_path_buf();
    for _ in 0..rng.random_range(1..4) {
        path.push(NAMES[rng.random_range(0..NAMES.len())]);
    }
    path
}

/// Kinds of operations.
const KINDS: usize = 14;

/// How often each kind of operation succeeded: a kind that never does tests nothing.
#[derive(Default)]
struct Successes([AtomicU64; KINDS]);

impl Successes {
    fn assert_all(&self) {
        let counts: Vec<u64> = self.0.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        eprintln!("successes by kind: {counts:?}");
        assert!(counts.iter().all(|n| *n > 0), "an operation never succeeded: {counts:?}");
    }
}

/// One random operation. Races make many of them fail; only an I/O error is never right.
fn operate(root: &Path, rng: &mut StdRng, successes: &Successes) {
    let (a, b) = (any(root, rng), any(root, rng));
    let kind = rng.random_range(0..KINDS);
    let result = match kind {
        0 | 1 => fs::create_dir(&a),
        2 | 3 => File::create(&a).and_then(|f| f.write_all_at(&vec![1; rng.random_range(1..200_000)], 0)),
        4 => File::options().write(true).open(&a).and_then(|f| {
            f.write_all_at(&vec![2; rng.random_range(1..50_000)], rng.random_range(0..6_000_000))?;
            if rng.random_bool(0.2) { f.sync_all() } else { Ok(()) }
        }),
        5 => File::options().write(true).open(&a).and_then(|f| f.set_len(rng.random_range(0..5_000_000))),
        6 => fs::read(&a).map(drop),
        7 => fs::rename(&a, &b),
        8 => fs::hard_link(&a, &b),
        9 => fs::remove_file(&a),
        10 => fs::remove_dir(&a),
        11 => std::os::unix::fs::symlink("x", &a),
        12 => list(&a),
        _ => fs::copy(&a, &b).map(drop),
    };
    match result {
        Ok(()) => {
            successes.0[kind].fetch_add(1, Ordering::Relaxed);
        }
        Err(e) => {
            let bad = [libc::EIO, libc::ENOTCONN, libc::ENOSYS, libc::ETIMEDOUT];
            assert!(!e.raw_os_error().is_some_and(|n| bad.contains(&n)), "{a:?} {b:?}: {e}");
        }
    }
}

/// A listing shows only names that the workers use, and the one that their symbolic links name. One that is made anew meanwhile may
/// be there twice.
fn list(directory: &Path) -> io::Result<()> {
    let names = fs::read_dir(directory)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
    assert!(
        names.iter().all(|n| n == "x" || NAMES.iter().any(|known| n == known)),
        "{directory:?} shows {names:?}"
    );
    Ok(())
}

fn stress(cluster: &Cluster, roots: &[PathBuf]) {
    let seed: u64 =
        std::env::var("QUARRY_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("QUARRY_SEED={seed}");
    let end = Instant::now() + duration();
    let successes = Successes::default();
    std::thread::scope(|s| {
        for worker in 0..8u64 {
            let (root, successes) = (&roots[worker as usize % roots.len()], &successes);
            s.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed ^ worker);
                while Instant::now() < end {
                    operate(root, &mut rng, successes);
                }
            });
        }
    });
    successes.assert_all();
    cluster.assert_sound(true);
    fs::read_dir(&roots[0]).unwrap().for_each(|e| {
        let path = e.unwrap().path();
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            .unwrap();
    });
    quarry_tests::eventually("all chunks of removed files go", Duration::from_secs(60), || {
        let status = cluster.status();
        status["chunks"] == 0 && status["chunks_deleting"] == 0 && status["files"] == 0
    });
    cluster.assert_sound(true);
}

#[test]
fn one_mount() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    stress(&cluster, &[mount.root().to_path_buf()]);
}

#[test]
fn two_mounts() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.mount(), cluster.mount());
    stress(&cluster, &[a.root().to_path_buf(), b.root().to_path_buf()]);
}

#[test]
fn work_in_progress_is_no_problem_for_fsck() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let (stop, successes) = (AtomicBool::new(false), Successes::default());
    std::thread::scope(|s| {
        for worker in 0..4u64 {
            let (root, stop, successes) = (mount.root(), &stop, &successes);
            s.spawn(move || {
                let mut rng = StdRng::seed_from_u64(worker);
                while !stop.load(Ordering::Relaxed) {
                    operate(root, &mut rng, successes);
                }
            });
        }
        for round in 0..4 {
            cluster.assert_sound(round == 3);
        }
        stop.store(true, Ordering::Relaxed);
    });
    successes.assert_all();
}
