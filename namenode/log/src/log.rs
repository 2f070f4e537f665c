//! The log as its users see it.

use crate::config::{IN_FLIGHT_MAX, LogConfig};
use crate::directory::Directory;
use crate::error::LogError;
use crate::index::LogIndex;
use crate::keeper::Keeper;
use crate::machine::Machine;
use crate::network::NoPeers;
use crate::queue::Queue;
use crate::raft_types::{Proposal, RaftLogId, TypeConfig};
use crate::recovery::recover;
use crate::shared::Shared;
use crate::storage::LogStore;
use crate::writer::Writer;
use bytes::Bytes;
use openraft::{Config, Raft, SnapshotPolicy};
use quarry_host::disk::{self, Disk};
use quarry_host::thread::{self, Running};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};

/// Proposals are counted against [`IN_FLIGHT_MAX`] in units of this many bytes.
const PERMIT_BYTES: usize = 1 << 10;
/// The only voter elects itself within a few writes; longer means that its disk hangs.
const ELECTION_DEADLINE: Duration = Duration::from_secs(60);
/// A purge takes a few writes; after this time it is asked for again.
const PURGE_RETRY: Duration = Duration::from_secs(2);
/// With one voter there is nobody to send heartbeats to: tick seldom.
const HEARTBEAT_MS: u64 = 1000;

type LogRaft = Raft<TypeConfig, Machine>;

/// An entry that will never be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry's number; the next one's is one more.
    pub index: u64,
    /// What was proposed; empty for entries that raft makes for itself.
    pub entry: Bytes,
}

/// An open log. Three threads work for it: raft with the reader, the writer, and the keeper of segments.
///
/// Dropping it without [`shutdown`](Self::shutdown) is safe, as a crash is; the threads end soon after.
pub struct Log {
    raft: LogRaft,
    shared: Arc<Shared>,
    in_flight: Semaphore,
    entry_max: usize,
    segment_bytes: u64,
    max_bytes: u64,
    recovered: u64,
    purging: Mutex<()>,
    stopping: watch::Sender<bool>,
    thread: Option<Running<()>>,
}

impl Log {
    /// Opens the log, or makes a new one.
    ///
    /// `applied` is the last entry that the caller's state has made durable, 0 for none. All entries behind it that the log
    /// holds, and then those that are proposed, come through `sink` in order. When the channel is full, the log waits; this
    /// call does not, so the receiver may be read after it returns.
    ///
    /// # Errors
    /// When the directory cannot be used or is in use, when acknowledged bytes are damaged, or when log and `applied` do
    /// not fit together.
    pub async fn open(
        config: LogConfig,
        applied: u64,
        sink: mpsc::Sender<Committed>,
    ) -> Result<Self, LogError> {
        Self::open_on(disk::current(), config, applied, sink).await
    }

    /// As [`open`](Self::open), on any disk.
    pub(crate) async fn open_on(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        applied: u64,
        sink: mpsc::Sender<Committed>,
    ) -> Result<Self, LogError> {
        if let Some(problem) = config.problem() {
            return Err(LogError::Config(problem));
        }
        let (opened, result) = oneshot::channel();
        let (stopping, stop) = watch::channel(false);
        let (entry_max, segment_bytes, max_bytes) =
            (config.entry_max(), config.segment_bytes, config.max_bytes);
        let thread = thread::run("log-raft", run(disk, config, applied, sink, opened, stop))
            .map_err(LogError::io("start a thread for", "the log"))?;
        let (raft, shared, recovered) = result.await.map_err(|_| stopped("its thread ended"))??;
        Ok(Self {
            raft,
            shared,
            in_flight: Semaphore::new(IN_FLIGHT_MAX / PERMIT_BYTES),
            entry_max,
            segment_bytes,
            max_bytes,
            recovered,
            purging: Mutex::new(()),
            stopping,
            thread: Some(thread),
        })
    }

    /// The last entry that the log held when it was opened: once it came through the sink, the caller's state is as it was.
    pub fn recovered(&self) -> u64 {
        self.recovered
    }

    /// The largest entry in bytes.
    pub fn entry_max(&self) -> usize {
        self.entry_max
    }

    /// Appends an entry, and returns its index once it is durable, committed and sent to the sink. What is proposed at the
    /// same time shares one sync of the disk, and gets its indices in any order.
    ///
    /// Dropping the future does not take the entry back.
    ///
    /// # Errors
    /// When the entry was not taken, or ([`LogError::Stopped`]) when it is not known whether it was.
    pub async fn propose(&self, entry: Bytes) -> Result<u64, LogError> {
        let size = entry.len();
        if size == 0 || size > self.entry_max {
            return Err(LogError::EntrySize { size, max: self.entry_max });
        }
        if let Some(error) = self.shared.failure() {
            return Err(error);
        }
        let bytes = self.shared.segments().len() as u64 * self.segment_bytes;
        if bytes + self.segment_bytes > self.max_bytes {
            return Err(LogError::Full { bytes });
        }
        let permits = 1 + size / PERMIT_BYTES;
        let _permits =
            self.in_flight.acquire_many(permits as u32).await.map_err(|_| stopped("it was closed"))?;
        match self.raft.client_write(Proposal(entry)).await {
            Ok(response) => Ok(response.log_id.index),
            Err(error) => Err(self.stopped_by(&error)),
        }
    }

    /// Forgets the entries up to `up_to`, which the caller's state has made durable. Returns when that is durable and the
    /// files that hold nothing else are gone.
    ///
    /// # Errors
    /// When `up_to` was not delivered yet, or when the log has stopped.
    pub async fn purge(&self, up_to: u64) -> Result<(), LogError> {
        let _one_at_a_time = self.purging.lock().await;
        let delivered = self.shared.delivered();
        if up_to > delivered {
            return Err(LogError::PurgeAhead { up_to, delivered });
        }
        let id = {
            let index = self.shared.index();
            match index.log_id(up_to) {
                Some(id) if Some(id) > index.purged() => id,
                _ => return Ok(()),
            }
        };
        self.shared.set_checkpoint(id);
        let mut purged = self.shared.keeper.purged();
        loop {
            // Raft purges what a snapshot contains; the snapshot that it builds here is the claim that the checkpoint is
            // one. It ignores this while it builds another, which a caller who gave up may have left behind: ask again.
            self.raft.trigger().snapshot().await.map_err(|error| self.stopped_by(&error))?;
            tokio::select! {
                result = purged.wait_for(|purged| *purged >= Some(up_to)) => {
                    return result.map(|_| ()).map_err(|_| stopped("it was closed"));
                }
                error = self.shared.wait_for_failure() => return Err(error),
                () = tokio::time::sleep(PURGE_RETRY) => {}
            }
        }
    }

    /// Returns when the log has stopped by itself, with the reason. The process should end then: what was proposed and not
    /// answered may or may not be there after a restart.
    pub async fn failed(&self) -> LogError {
        self.shared.wait_for_failure().await
    }

    /// Writes what is queued and ends the threads.
    pub async fn shutdown(mut self) {
        self.stopping.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _ = thread.ended().await;
        }
    }

    #[cfg(test)]
    pub(crate) fn delivered(&self) -> u64 {
        self.shared.delivered()
    }

    fn stopped_by(&self, error: &impl ToString) -> LogError {
        self.shared.failure().unwrap_or_else(|| LogError::Stopped(error.to_string()))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
    }
}

fn stopped(why: &str) -> LogError {
    LogError::Stopped(why.to_owned())
}

type Opened = Result<(LogRaft, Arc<Shared>, u64), LogError>;

/// The log's own thread: opens everything, then runs raft's tasks. One thread with a runtime of its own wakes them faster
/// than a pool that others use as well.
async fn run(
    disk: Arc<dyn Disk>,
    config: LogConfig,
    applied: u64,
    sink: mpsc::Sender<Committed>,
    opened: oneshot::Sender<Opened>,
    mut stop: watch::Receiver<bool>,
) {
    let storage = match thread::block(|| Storage::open(disk, &config, applied)).await {
        Ok(storage) => storage,
        Err(error) => return drop(opened.send(Err(error))),
    };
    let shared = storage.shared.clone();
    let machine = Machine::new(shared.clone(), sink, stop.clone(), storage.applied);
    let result = start_raft(&config, &shared, machine).await;
    let raft = result.as_ref().ok().cloned();
    let opened = opened.send(result.map(|raft| (raft, shared.clone(), storage.recovered)));
    if let (Some(raft), Ok(())) = (raft, opened) {
        // An error means that the log was dropped.
        let _ = stop.wait_for(|stop| *stop).await;
        if let Err(error) = raft.shutdown().await {
            tracing::warn!("raft did not end cleanly: {error}");
        }
    }
    storage.close().await;
}

/// What was recovered, and the threads that write.
pub(crate) struct Storage {
    pub(crate) shared: Arc<Shared>,
    applied: Option<RaftLogId>,
    recovered: u64,
    writer: Running<()>,
    keeper: Running<()>,
}

impl Storage {
    pub(crate) fn open(disk: Arc<dyn Disk>, config: &LogConfig, applied: u64) -> Result<Self, LogError> {
        let disk = Arc::new(Directory::open(disk, &config.dir)?);
        let found = recover(&disk, config)?;
        let applied_id = locate(&found.index, applied)?;
        let recovered = found.index.last().map_or(0, |last| last.index);
        let queue = Queue::new(config.frame_payload_max());
        let keeper = Keeper::new(found.prepared, found.next_number, found.has_spare);
        let shared = Arc::new(Shared::new(found.index, found.segments, found.vote, queue, keeper));
        shared.set_delivered(applied);
        let writer = Writer::new(
            shared.clone(),
            disk.clone(),
            found.position,
            config.segment_bytes,
            config.seal_after,
        );
        let no_thread = LogError::io("start a thread for", "the log");
        let writer = thread::run("log-writer", writer.run()).map_err(no_thread)?;
        let (node, length, kept) = (config.node.0, config.segment_bytes, shared.clone());
        let keeper = async move { kept.keeper.run(&kept, &disk, node, length).await };
        let no_thread = LogError::io("start a thread for", "the log");
        let keeper = thread::run("log-keeper", keeper).map_err(no_thread)?;
        Ok(Self { shared, applied: applied_id, recovered, writer, keeper })
    }

    /// Writes what is queued, then ends the threads.
    pub(crate) async fn close(self) {
        self.shared.queue.close("it was closed");
        // The writer first: it may need the keeper for a last segment.
        if self.writer.ended().await.is_err() {
            tracing::error!("the log's writer panicked");
        }
        self.shared.keeper.close();
        if self.keeper.ended().await.is_err() {
            tracing::error!("the keeper of the log's segments panicked");
        }
    }
}

/// The entry that the state has applied, which log and state must agree on.
fn locate(index: &LogIndex, applied: u64) -> Result<Option<RaftLogId>, LogError> {
    match (index.purged(), index.last()) {
        (Some(purged), _) if purged.index > applied => Err(LogError::Gap { applied, purged: purged.index }),
        (_, None) if applied == 0 => Ok(None),
        (_, last) => match index.log_id(applied) {
            Some(id) => Ok(Some(id)),
            None => Err(LogError::Behind { applied, last: last.map_or(0, |last| last.index) }),
        },
    }
}

/// Starts raft and makes it the leader of its group.
async fn start_raft(config: &LogConfig, shared: &Arc<Shared>, machine: Machine) -> Result<LogRaft, LogError> {
    let node = config.node.0;
    let raft_config = Config {
        cluster_name: "quarry".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: 3 * HEARTBEAT_MS,
        election_timeout_max: 6 * HEARTBEAT_MS,
        // The NameNode makes its own checkpoints and says what may be purged.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        // A leader that starts again in its old term could give an index to another entry than it sent to others before.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let raft_config = raft_config.validate().map_err(|error| LogError::Stopped(error.to_string()))?;
    let stopped = |error: &dyn std::fmt::Display| {
        shared.failure().unwrap_or_else(|| LogError::Stopped(format!("raft did not start: {error}")))
    };
    let raft = Raft::new(node, Arc::new(raft_config), NoPeers, LogStore(shared.clone()), machine)
        .await
        .map_err(|error| stopped(&error))?;
    if !raft.is_initialized().await.map_err(|error| stopped(&error))? {
        raft.initialize(BTreeSet::from([node])).await.map_err(|error| stopped(&error))?;
    }
    raft.trigger().elect(false).await.map_err(|error| stopped(&error))?;
    let wait = raft.wait(Some(ELECTION_DEADLINE));
    tokio::select! {
        leader = wait.current_leader(node, "the only voter leads") => leader.map(|_| ()).map_err(|error| stopped(&error))?,
        error = shared.wait_for_failure() => return Err(error),
    }
    Ok(raft)
}
