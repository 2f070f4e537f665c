//! Several tasks on one file.

use super::cluster::{Cluster, Faults, Mount, pattern, read, small};
use quarry_common::wire::fs::{FallocateMode, SetAttr};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// Each task owns every eighth stripe of the file and checks it against its own model, while all of them write,
/// flush, read and punch holes through the same inode.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_with_stripes_of_their_own_do_not_disturb_one_another() {
    const TASKS: usize = 8;
    const STRIPE: usize = 100_003;
    let faults = Faults { rewrite: 10, window_changed: 10, gone: 3 };
    let cluster = Cluster::new(11, faults);
    let mount = Arc::new(Mount::new(&cluster, small()));
    let ino = cluster.create("a").ino;
    mount.files.setattr(ino, SetAttr { size: Some(9 << 20), ..SetAttr::default() }, true).await.unwrap();
    let tasks = (0..TASKS).map(|task| {
        let mount = Arc::clone(&mount);
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(task as u64);
            let file = mount.open(ino);
            let mut model = vec![vec![0; STRIPE]; 8];
            for step in 0..200u64 {
                let stripe = random.random_range(0..model.len());
                let base = ((stripe * TASKS + task) * STRIPE) as u64;
                let from = random.random_range(0..STRIPE);
                let length = random.random_range(1..=(STRIPE - from).min(40_000));
                let range = from..from + length;
                match random.random_range(0..10) {
                    0..5 => {
                        let data = pattern(step, length);
                        model[stripe][range].copy_from_slice(&data);
                        file.write(base + from as u64, data, false).await.unwrap();
                    }
                    5..8 => {
                        let got = read(&file, base + from as u64, length).await.unwrap();
                        assert!(got == model[stripe][range], "task {task} step {step}");
                    }
                    8 => file.flush().await.unwrap(),
                    _ => {
                        model[stripe][range].fill(0);
                        let (at, length) = (base + from as u64, length as u64);
                        file.fallocate(FallocateMode::PunchHole, at, length, false).await.unwrap();
                    }
                }
            }
            model
        })
    });
    let mut expected = vec![0; 9 << 20];
    for (task, handle) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
        for (stripe, bytes) in handle.await.unwrap().into_iter().enumerate() {
            let at = (stripe * TASKS + task) * STRIPE;
            expected[at..at + STRIPE].copy_from_slice(&bytes);
        }
    }
    mount.files.shutdown().await.unwrap();
    cluster.check(ino);
    assert_eq!(cluster.volatile_chunks(ino), 0);
    let other = Mount::new(&cluster, small());
    assert!(read(&other.open(ino), 0, 9 << 20).await.unwrap() == expected);
    assert_eq!(mount.files.shared.budget.used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_of_one_mount_never_overlap() {
    let cluster = Cluster::new(5, Faults::default());
    let mount = Arc::new(Mount::new(&cluster, small()));
    let ino = cluster.create("a").ino;
    let tasks = (0..8u64).map(|task| {
        let mount = Arc::clone(&mount);
        tokio::spawn(async move {
            let file = mount.open(ino);
            let mut places = Vec::new();
            for i in 0..50u64 {
                let data = pattern(task * 1000 + i, 1 + (i as usize * 611) % 20_000);
                let at = file.append(data.clone(), false).await.unwrap();
                places.push((at, data));
                if i % 10 == task {
                    file.fsync().await.unwrap();
                }
            }
            places
        })
    });
    let mut end = 0;
    let mut places = Vec::new();
    for handle in tasks.collect::<Vec<_>>() {
        places.extend(handle.await.unwrap());
    }
    places.sort_by_key(|(at, _)| *at);
    let file = mount.open(ino);
    for (at, data) in places {
        assert_eq!(at, end);
        end += data.len() as u64;
        assert!(read(&file, at, data.len()).await.unwrap() == data);
    }
    assert_eq!(mount.stat(ino).size, end);
}
