//! The log as a whole: on real files, on a disk that fails, and after bits have flipped.

mod basic;
mod bench;
mod crash;
mod damage;
mod suite;

use crate::{Committed, Log, LogConfig, LogError};
use bytes::Bytes;
use quarry_common::ids::NameNodeId;
use quarry_host::disk::Disk;
use quarry_host::disk::faulty::{FaultyDisk, Survival};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Where the log is on a faulty disk.
const DIR: &str = "/log";

/// A file of the log on a faulty disk.
fn file(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A copy of the disk on which a file has other bytes.
fn with_content(disk: &FaultyDisk, name: &str, bytes: Vec<u8>) -> FaultyDisk {
    let copy = disk.copy();
    copy.replace(&file(name), bytes);
    copy
}

/// A copy of the disk without a file.
fn without(disk: &FaultyDisk, name: &str) -> FaultyDisk {
    let copy = disk.copy();
    copy.remove(&file(name)).unwrap();
    copy
}

/// Small segments, so that a test uses several; seals only when the log is shut down.
fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        max_bytes: 64 << 20,
        cache_bytes: 8 << 10,
        seal_after: Duration::from_secs(3600),
        ..LogConfig::new(DIR, NameNodeId(1))
    }
}

async fn open_faulty(disk: &FaultyDisk, applied: u64) -> Result<(Log, mpsc::Receiver<Committed>), LogError> {
    let (sink, committed) = mpsc::channel(4096);
    Ok((Log::open_on(Arc::new(disk.clone()), small(), applied, sink).await?, committed))
}

/// What comes through the sink up to entry `last`, without raft's own entries.
async fn entries_up_to(committed: &mut mpsc::Receiver<Committed>, last: u64) -> Vec<(u64, Bytes)> {
    let mut entries = Vec::new();
    let mut reached = None;
    while reached < Some(last) {
        let Some(Committed { index, entry }) = committed.recv().await else { break };
        assert!(reached.is_none_or(|r| r + 1 == index), "entries come in order");
        reached = Some(index);
        if !entry.is_empty() {
            entries.push((index, entry));
        }
    }
    entries
}

/// An entry that nothing else looks like.
fn entry(number: u64, size: usize) -> Bytes {
    let mut bytes = format!("entry {number} ").into_bytes();
    let fill = (number % 251) as u8;
    bytes.resize(bytes.len().max(size), fill);
    bytes.into()
}
