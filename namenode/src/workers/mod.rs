//! Work in the background. Each worker goes round: it looks what is due, does it, and says what it did.

mod auditor;
mod checkpoint;
mod compare;
mod deleter;
mod eviction;
mod floors;
mod fsck;
mod healing;
mod membership;
mod reaper;
mod snapshots;
mod suspicion;

pub(crate) use checkpoint::{Checkpointer, save};
pub(crate) use fsck::FsckDesk;
pub(crate) use snapshots::{PageRequest, SnapshotDesk};

use crate::board::Board;
use crate::config::NameNodeConfig;
use crate::events::{Handle, Stopped};
use async_trait::async_trait;
use futures::FutureExt;
use quarry_datanode_client::DataNodeClient;
use quarry_host::task;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
pub(crate) fn start(tools: &Tools, desks: Desks, stop: &CancellationToken) -> Workers {
    let workers: Vec<Box<dyn Worker>> = vec![
        Box::new(membership::Membership::new(tools.clone())),
        Box::new(healing::Healing::new(tools.clone())),
        Box::new(deleter::Deleter::new(tools.clone())),
        Box::new(auditor::Auditor::new(tools.clone())),
        Box::new(eviction::Evictor::new(tools.clone())),
        Box::new(suspicion::Suspicion::new(tools.clone())),
        Box::new(floors::Floors::new(tools.clone())),
        Box::new(reaper::Reaper::new(tools.clone())),
        Box::new(checkpoint::CheckpointWorker::new(tools.clone())),
        Box::new(fsck::FsckWorker::new(tools.clone(), desks.fsck)),
        Box::new(snapshots::Snapshots::new(tools.clone(), desks.snapshots)),
    ];
    supervise(workers, &tools.board, stop)
}

fn supervise(workers: Vec<Box<dyn Worker>>, board: &Arc<Board>, stop: &CancellationToken) -> Workers {
    let mut tasks = JoinSet::new();
    for worker in workers {
        let (name, board, stop) = (worker.name(), board.clone(), stop.clone());
        task::spawn_in(&mut tasks, async move {
            let work = AssertUnwindSafe(go_round(worker, board)).catch_unwind();
            match stop.run_until_cancelled_owned(work).await {
                Some(Err(_)) => Some(name),
                Some(Ok(())) => {
                    tracing::debug!(worker = name, "ended, since the owner did");
                    None
                }
                None => None,
            }
        });
    }
    Workers { tasks }
}

/// The workers of a NameNode that serves.
pub(crate) struct Workers {
    /// Each gives its name if the worker panicked.
    tasks: JoinSet<Option<&'static str>>,
}

impl Workers {
    /// Waits until a worker panics, and gives its name. No other worker does its work, so the process must end.
    pub(crate) async fn panicked(&mut self) -> &'static str {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Some(name)) = ended {
                return name;
            }
        }
        std::future::pending().await
    }

    /// Waits until all have ended.
    pub(crate) async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn go_round(mut worker: Box<dyn Worker>, board: Arc<Board>) {
    while let Ok(Round { line, pause }) = worker.round().await {
        board.set(worker.name(), line);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes round well some times, and then panics or stops.
    struct Fragile {
        rounds: u32,
        panics: bool,
    }

    #[async_trait]
    impl Worker for Fragile {
        fn name(&self) -> &'static str {
            if self.panics { "fragile" } else { "steady" }
        }

        async fn round(&mut self) -> Result<Round, Stopped> {
            if self.rounds == 0 {
                assert!(!self.panics, "as this test wants it");
                return Err(Stopped);
            }
            self.rounds -= 1;
            Ok(Round { line: format!("{} left", self.rounds), pause: Duration::ZERO })
        }
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_noticed() {
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        let worker = |panics| -> Box<dyn Worker> { Box::new(Fragile { rounds: 3, panics }) };
        let mut workers = supervise(vec![worker(false), worker(true)], &board, &stop);
        assert_eq!(workers.panicked().await, "fragile");
        assert!(board.lines().contains(&("fragile".to_owned(), "0 left".to_owned())));
        stop.cancel();
        workers.wait().await;
    }
}
