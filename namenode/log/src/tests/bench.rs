//! What a proposal costs. `cargo test -p quarry-log -- --ignored --nocapture bench`, on a directory of a real disk in
//! `QUARRY_BENCH_DIR`.

use super::*;
use futures::future::join_all;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Median time in microseconds of overwriting and syncing a page of a written file.
fn sync_micros(dir: &Path) -> f64 {
    let file = File::options().create(true).truncate(true).write(true).open(dir.join("probe")).unwrap();
    file.write_all_at(&vec![0; 4 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let mut times: Vec<f64> = (0..500)
        .map(|n| {
            let start = Instant::now();
            file.write_all_at(&[n as u8; 4096], n * 4096).unwrap();
            file.sync_data().unwrap();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::test]
#[ignore = "a measurement"]
async fn bench_proposals() {
    let parent = std::env::var("QUARRY_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".to_owned());
    let dir = tempfile::tempdir_in(parent).unwrap();
    println!("write and fdatasync of a page: {:.0} us", sync_micros(dir.path()));
    let (sink, mut committed) = mpsc::channel(4096);
    let log = Log::open(LogConfig::new(dir.path().join("log"), NameNodeId(1)), 0, sink).await.unwrap();
    tokio::spawn(async move { while committed.recv().await.is_some() {} });
    for in_flight in [1, 4, 16, 64, 256] {
        let rounds = (2000 / in_flight).max(50);
        let mut times = Vec::new();
        let (cpu, start) = (cpu_seconds(), Instant::now());
        for round in 0..rounds {
            let began = Instant::now();
            let proposals = (0..in_flight).map(|n| log.propose(entry((round * in_flight + n) as u64, 300)));
            assert!(join_all(proposals).await.iter().all(Result::is_ok));
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        let entries = (rounds * in_flight) as f64;
        times.sort_by(f64::total_cmp);
        println!(
            "{in_flight:4} at a time: median {:.0} us, p99 {:.0} us, {:.0} entries/s, CPU {:.1} us an entry",
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            entries / start.elapsed().as_secs_f64(),
            (cpu_seconds() - cpu) * 1e6 / entries,
        );
    }
    log.shutdown().await;
}
