//! Work in the background. Each worker goes round: it looks what is due, does it, and says what it did.

mod auditor;
mod checkpoint;
mod compare;
mod deleter;
mod floors;
mod fsck;
mod healing;
mod membership;
mod reaper;
mod snapshots;

pub(crate) use checkpoint::{Checkpointer, save};
pub(crate) use fsck::FsckDesk;
pub(crate) use snapshots::{PageRequest, SnapshotDesk};

use crate::board::Board;
use crate::config::NameNodeConfig;
use crate::events::{Handle, Stopped};
use async_trait::async_trait;
use quarry_datanode_client::DataNodeClient;
use quarry_host::task;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a worker works with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) owner: Handle,
    pub(crate) config: Arc<NameNodeConfig>,
    pub(crate) datanodes: Arc<DataNodeClient>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) board: Arc<Board>,
}

/// What came of a round.
pub(crate) struct Round {
    /// What the worker does, for people.
    pub(crate) line: String,
    /// When to go round again.
    pub(crate) pause: Duration,
}

/// Something that goes on in the background.
#[async_trait]
pub(crate) trait Worker: Send + 'static {
    /// A word.
    fn name(&self) -> &'static str;
    /// Does what is due. May be abandoned at any await when the NameNode stops.
    async fn round(&mut self) -> Result<Round, Stopped>;
}

/// Where clients ask workers for something.
#[derive(Clone, Default)]
pub(crate) struct Desks {
    pub(crate) fsck: Arc<FsckDesk>,
    pub(crate) snapshots: Arc<SnapshotDesk>,
}

/// Starts all workers; they end when `stop` is cancelled.
pub(crate) fn start(tools: &Tools, desks: Desks, stop: &CancellationToken) -> TaskTracker {
    let workers: Vec<Box<dyn Worker>> = vec![
        Box::new(membership::Membership::new(tools.clone())),
        Box::new(healing::Healing::new(tools.clone())),
        Box::new(deleter::Deleter::new(tools.clone())),
        Box::new(auditor::Auditor::new(tools.clone())),
        Box::new(floors::Floors::new(tools.clone())),
        Box::new(reaper::Reaper::new(tools.clone())),
        Box::new(checkpoint::CheckpointWorker::new(tools.clone())),
        Box::new(fsck::FsckWorker::new(tools.clone(), desks.fsck)),
        Box::new(snapshots::Snapshots::new(tools.clone(), desks.snapshots)),
    ];
    let tracker = TaskTracker::new();
    for worker in workers {
        let (board, stop) = (tools.board.clone(), stop.clone());
        task::spawn(tracker.track_future(async move {
            let name = worker.name();
            if stop.run_until_cancelled_owned(go_round(worker, board)).await.is_some() {
                tracing::debug!(worker = name, "ended, since the owner did");
            }
        }));
    }
    tracker.close();
    tracker
}

async fn go_round(mut worker: Box<dyn Worker>, board: Arc<Board>) {
    while let Ok(Round { line, pause }) = worker.round().await {
        board.set(worker.name(), line);
        tokio::time::sleep(pause).await;
    }
}
