//! What a DataNode does without being asked.

use crate::blocking::Blocking;
use crate::server::in_progress;
use crate::store::Store;
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::cluster::DiskState;
use quarry_host::metrics::{self, Row, table};
use quarry_host::random;
use quarry_host::variant::VariantName;
use rand::Rng;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// What was written without waiting for the disk is on it after this time and that of the sync itself.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How often each data directory is looked after.
const TEND_INTERVAL: Duration = Duration::from_secs(2);
/// The scrubber does not look at a chunk more often than this, however few there are.
const SCRUB_PASS_MIN: Duration = Duration::from_secs(600);

/// How often gauges are set.
const GAUGES_INTERVAL: Duration = Duration::from_secs(1);

/// Sets the gauges again and again, if anybody records them. Never touches a disk.
pub(crate) async fn keep_gauges(store: Arc<Store>) -> Infallible {
    while metrics::is_recording() {
        let figures = store.figures();
        table::DATANODE_CHUNKS.set(&[], figures.chunks as f64);
        table::DATANODE_CHUNK_BYTES.set(&[], figures.bytes as f64);
        table::DATANODE_CAPACITY.set(&[], figures.capacity as f64);
        table::DATANODE_FREE.set(&[], figures.free as f64);
        table::DATANODE_WRITABLE.set(&[], f64::from(u8::from(figures.writable)));
        table::DATANODE_SCRUBBED.total(&[], figures.scrubbed.0);
        table::DATANODE_ROTTEN.total(&[], figures.scrubbed.1);
        table::DATANODE_REQUESTS.set(&[], in_progress() as f64);
        tell_disks(&store);
        sleep(GAUGES_INTERVAL).await;
    }
    std::future::pending().await
}

fn tell_disks(store: &Store) {
    let disks = store.disks();
    for disk in &disks {
        table::DATANODE_DISK_ERRORS.total(&[&disk.path], disk.errors);
        table::DATANODE_DISK_LATENCY.set(&[&disk.path], disk.latency_us as f64 / 1e6);
        table::DATANODE_DISK_WAITS.set(&[&disk.path], disk.oldest_ms as f64 / 1e3);
    }
    let states =
        [DiskState::Working, DiskState::Slow, DiskState::Full, DiskState::Stalled, DiskState::Failed];
    table::DATANODE_DISK_STATE.replace(disks.iter().flat_map(|disk| {
        states.iter().map(|state| -> Row {
            let labels = vec![disk.path.clone(), VariantName::of(state).to_string()];
            (labels, f64::from(u8::from(disk.state == *state)))
        })
    }));
}

/// Brings to the disk what was written without waiting for it.
pub(crate) async fn sync(store: Arc<Store>, blocking: Blocking) -> Infallible {
    loop {
        sleep(SYNC_INTERVAL).await;
        let store = store.clone();
        blocking.run(move || store.sync_waiting()).await;
    }
}

/// Looks after all data directories, each for itself: one that hangs delays no other.
pub(crate) async fn tend(store: Arc<Store>, blocking: Blocking) -> Infallible {
    let each = store.numbers().map(|number| {
        let (store, blocking) = (store.clone(), blocking.clone());
        async move {
            loop {
                let store = store.clone();
                blocking.run(move || store.tend(number)).await;
                sleep(TEND_INTERVAL).await;
            }
        }
    });
    let never: Vec<Infallible> = futures::future::join_all(each).await;
    match never.into_iter().next() {
        Some(never) => match never {},
        None => std::future::pending().await,
    }
}

/// Reads and checks every chunk, again and again, at a bounded rate. What is rotten is moved away and reported by the
/// store. The first pass begins anywhere, so that a node that is often restarted does not always check the same.
pub(crate) async fn scrub(store: Arc<Store>, blocking: Blocking, bytes_per_second: u64) -> Infallible {
    if bytes_per_second == 0 {
        return std::future::pending().await;
    }
    let mut at = Some(ChunkId::new(PgId(random::rng().random_range(0..=ChunkId::MAX_PG.0)), 0));
    if store.next(at).is_none() {
        at = None;
    }
    let mut pass_began = Instant::now();
    loop {
        let Some((id, length)) = store.next(at) else {
            if at.take().is_some() {
                store.scrub_ended();
            }
            sleep_until(pass_began + SCRUB_PASS_MIN).await;
            pass_began = Instant::now();
            continue;
        };
        at = Some(id);
        let began = Instant::now();
        let chunks = store.clone();
        if let Err(error) = blocking.run(move || chunks.scrub(id)).await {
            tracing::debug!(%id, %error, "the scrubber could not verify a chunk");
        }
        sleep_until(began + Duration::from_secs_f64(f64::from(length) / bytes_per_second as f64)).await;
    }
}
