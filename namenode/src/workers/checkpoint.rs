//! Brings what was applied into the database, so that the log need not be kept for ever.
//!
//! The order is what makes it safe: the frozen changes go into the database in one durable transaction, with the index of
//! the last entry that is in them; only then may the log forget the entries up to there.

use super::{Round, Tools, Worker};
use crate::events::{Handle, Stopped};
use crate::kv::RedbBase;
use async_trait::async_trait;
use quarry_host::metrics::table::NAMENODE_CHECKPOINT;
use quarry_host::{clock, task};
use quarry_log::Log;
use quarry_namenode_core::{Base, Overlay};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// So many commands are saved before their time.
const UNSAVED_LARGE: usize = 50_000;

/// Why a checkpoint is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("{0}")]
    Failed(String),
}

/// Makes checkpoints, one at a time.
pub(crate) struct Checkpointer {
    owner: Handle,
    base: Arc<RedbBase>,
    log: Arc<Log>,
    one_at_a_time: Mutex<()>,
}

impl Checkpointer {
    pub(crate) fn new(owner: Handle, base: Arc<RedbBase>, log: Arc<Log>) -> Self {
        Self { owner, base, log, one_at_a_time: Mutex::new(()) }
    }

    /// Makes a checkpoint of all that is applied. `false` if there is nothing new.
    pub(crate) async fn checkpoint(&self) -> Result<bool, CheckpointError> {
        let _guard = self.one_at_a_time.lock().await;
        let Some((overlay, applied)) = self.owner.ask(|owner| Ok(owner.freeze())).await? else {
            return Ok(false);
        };
        save(&self.base, overlay.clone()).await?;
        let base: Arc<dyn Base> = self.base.clone();
        self.owner
            .ask(move |owner| {
                owner.thaw(base);
                Ok(())
            })
            .await?;
        // To free it takes a while for a large one: the owner has better things to do.
        task::spawn_blocking(move || drop(overlay));
        if let Err(error) = self.log.purge(applied).await {
            tracing::warn!(%error, "the log keeps entries that are in the database");
        }
        Ok(true)
    }

    /// What the last checkpoint made durable, unchanged by later ones.
    pub(crate) fn snapshot(&self) -> Result<Arc<dyn Base>, CheckpointError> {
        self.base.snapshot().map_err(|e| CheckpointError::Failed(e.to_string()))
    }
}

/// Brings changes into the database, on a thread that may wait for the disk.
pub(crate) async fn save(base: &Arc<RedbBase>, overlay: Arc<Overlay>) -> Result<(), CheckpointError> {
    let base = base.clone();
    let saved = task::spawn_blocking(move || base.checkpoint(&overlay)).await;
    match saved {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(CheckpointError::Failed(error.to_string())),
        Err(error) => Err(CheckpointError::Failed(error.to_string())),
    }
}

pub(super) struct CheckpointWorker {
    tools: Tools,
    last: Instant,
    done: u64,
    line: String,
}

impl CheckpointWorker {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, last: clock::now(), done: 0, line: "none yet".to_owned() }
    }
}

#[async_trait]
impl Worker for CheckpointWorker {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        let unsaved = self.tools.owner.ask(|owner| Ok(owner.unsaved())).await?;
        let interval = self.tools.config.checkpoint_interval;
        if unsaved > 0 && (unsaved >= UNSAVED_LARGE || clock::since(self.last) >= interval) {
            let begun = clock::now();
            match self.tools.checkpointer.checkpoint().await {
                Ok(_) => {
                    NAMENODE_CHECKPOINT.observe_since(&[], begun);
                    self.done += 1;
                    self.line = format!(
                        "{} done, the last of {unsaved} changes in {} ms",
                        self.done,
                        clock::since(begun).as_millis()
                    );
                }
                Err(CheckpointError::Stopped(stopped)) => return Err(stopped),
                Err(CheckpointError::Failed(error)) => {
                    tracing::error!(%error, "the checkpoint failed; it is tried again, and the log is kept");
                    self.line = format!("FAILED: {error}");
                }
            }
            self.last = clock::now();
        }
        let pause = (interval / 10).clamp(Duration::from_millis(10), self.tools.config.tick);
        Ok(Round { line: self.line.clone(), pause })
    }
}
