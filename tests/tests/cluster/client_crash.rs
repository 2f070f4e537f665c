//! `kill -9` of the client in the middle of writing: old or new, never mixed within what one fsync covered.

use quarry_tests::{Cluster, eventually};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each record fills a block of this size with its number.
const RECORD: usize = 32 << 10;

#[test]
fn what_was_fsynced_survives_and_the_rest_is_whole_or_absent() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    for round in 0..4 {
        let name = format!("log{round}");
        let synced = Arc::new(AtomicU64::new(0));
        let writer = {
            let (path, synced) = (mount.path(&name), synced.clone());
            std::thread::spawn(move || {
                let Ok(file) = File::create(path) else { return };
                for n in 1..=u64::from(u32::MAX) {
                    let record: Vec<u8> = n.to_le_bytes().repeat(RECORD / 8);
                    // The mount is killed under us: then every call fails, and that is the end.
                    if file.write_all_at(&record, (n - 1) * RECORD as u64).is_err()
                        || file.sync_data().is_err()
                    {
                        return;
                    }
                    synced.store(n, Ordering::SeqCst);
                }
            })
        };
        eventually("some records are synced", Duration::from_secs(60), || {
            synced.load(Ordering::SeqCst) > 10 + round * 7
        });
        mount.process().kill();
        writer.join().unwrap();
        mount.crash_and_remount();
        let data = fs::read(mount.path(&name)).unwrap();
        let promised = synced.load(Ordering::SeqCst) as usize;
        assert!(data.len() >= promised * RECORD, "{} bytes of {promised} records", data.len());
        for (i, record) in data.chunks(RECORD).enumerate() {
            let number = (i as u64 + 1).to_le_bytes();
            let whole = record.chunks(8).all(|w| w == &number[..w.len()]);
            let absent = i >= promised && record.iter().all(|b| *b == 0);
            assert!(whole || absent, "record {} is neither whole nor absent", i + 1);
        }
    }
    cluster.assert_sound(true);
}
