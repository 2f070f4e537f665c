//! The online check of the whole file system.
//!
//! First the metadata, as a forced checkpoint has them, on a thread of its own; then every serving member of every group
//! is compared with what files refer to now; a deep check also has the members read and hash every chunk.

use super::checkpoint::CheckpointError;
use super::compare::{CompareError, compare};
use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::AuditGroup;
use async_trait::async_trait;
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::cluster::{FSCK_PROBLEMS_MAX, FsckOptions, FsckProblem, FsckProgress};
use quarry_common::wire::data::Endpoint;
use quarry_host::task;
use quarry_namenode_core::Base;
use quarry_namenode_core::fsck::{Fsck, STEP_ROWS_MAX};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::field::display;

/// Chunks that a node reads and hashes in one request.
const VERIFY_MAX: usize = 64;
/// Between looks whether a check is asked for.
const PAUSE: Duration = Duration::from_millis(100);

/// Where checks are asked for, and where their progress is.
#[derive(Debug, Default)]
pub(crate) struct FsckDesk(Mutex<Desk>);

#[derive(Debug, Default)]
struct Desk {
    /// Of the last run.
    progress: FsckProgress,
    /// The last run has not begun.
    asked: Option<FsckOptions>,
}

impl FsckDesk {
    /// Asks for a check, or joins the one that is under way.
    pub(crate) fn start(&self, options: FsckOptions) -> FsckProgress {
        let mut desk = self.lock();
        if desk.progress.run == 0 || desk.progress.done {
            let run = desk.progress.run + 1;
            desk.progress = FsckProgress { run, phase: "waiting".to_owned(), ..FsckProgress::default() };
            desk.asked = Some(options);
        }
        desk.progress.clone()
    }

    /// How far a check is.
    pub(crate) fn poll(&self, run: u64) -> Result<FsckProgress, String> {
        let desk = self.lock();
        if desk.progress.run == run && run > 0 {
            Ok(desk.progress.clone())
        } else {
            Err(format!("there is no check {run}; the last one is {}", desk.progress.run))
        }
    }

    fn take(&self) -> Option<FsckOptions> {
        self.lock().asked.take()
    }

    fn update(&self, change: impl FnOnce(&mut FsckProgress)) {
        change(&mut self.lock().progress);
    }

    fn problem(&self, problem: FsckProblem) {
        let (ino, chunk, node) =
            (problem.ino.map(display), problem.chunk.map(display), problem.node.map(display));
        tracing::error!(ino, chunk, node, what = %problem.what, "fsck found a problem");
        self.update(|progress| {
            progress.problem_count += 1;
            if progress.problems.len() < FSCK_PROBLEMS_MAX {
                progress.problems.push(problem);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with a replica.
enum Reason {
    /// Its node listed twice that it has none.
    Missing,
    /// Its node read it and found it damaged: other opinions are asked for.
    Bad,
}

pub(super) struct FsckWorker {
    tools: Tools,
    desk: Arc<FsckDesk>,
    line: String,
}

impl FsckWorker {
    pub(super) fn new(tools: Tools, desk: Arc<FsckDesk>) -> Self {
        Self { tools, desk, line: "none yet".to_owned() }
    }

    async fn run(&mut self, options: FsckOptions) -> Result<(), Stopped> {
        match self.metadata().await {
            Ok(()) => {}
            Err(CheckpointError::Stopped(stopped)) => return Err(stopped),
            Err(CheckpointError::Failed(what)) => {
                let what = format!("the metadata cannot be checked: {what}");
                self.desk.problem(FsckProblem { ino: None, chunk: None, node: None, what });
            }
        }
        self.desk.update(|progress| progress.phase = "checking replicas".to_owned());
        let groups = self.tools.owner.ask(|owner| Ok(owner.audit_groups(Duration::ZERO))).await?;
        for group in &groups {
            self.group(group, options).await?;
        }
        for (node, pg, chunks) in self.tools.owner.ask(|owner| Ok(owner.strange_chunks())).await? {
            let what = format!("the node holds {chunks} chunks of group {pg}, which is unknown here");
            self.desk.problem(FsckProblem { ino: None, chunk: None, node: Some(node), what });
        }
        self.desk.update(|progress| {
            progress.phase = "done".to_owned();
            progress.done = true;
        });
        Ok(())
    }

    /// The tables, of a snapshot that has everything up to now.
    async fn metadata(&self) -> Result<(), CheckpointError> {
        self.desk.update(|progress| progress.phase = "making a checkpoint".to_owned());
        self.tools.checkpointer.checkpoint().await?;
        let snapshot = self.tools.checkpointer.snapshot()?;
        let desk = self.desk.clone();
        let checked = task::spawn_blocking(move || check_tables(snapshot, &desk)).await;
        match checked {
            Ok(result) => result.map_err(CheckpointError::Failed),
            Err(error) => Err(CheckpointError::Failed(error.to_string())),
        }
    }

    async fn group(&self, group: &AuditGroup, options: FsckOptions) -> Result<(), Stopped> {
        for node in &group.unreachable {
            self.unreachable(*node);
        }
        self.desk.update(|progress| progress.behind += group.behind);
        for (target, _) in group.members.iter().filter(|(_, serves)| *serves) {
            match self.member(group.pg, target, options).await {
                Ok(()) => {}
                Err(CompareError::Stopped(stopped)) => return Err(stopped),
                Err(CompareError::Node(error)) => {
                    tracing::warn!(pg = %group.pg, node = %target.node, %error, "cannot check a member");
                    self.unreachable(target.node);
                }
            }
        }
        Ok(())
    }

    fn unreachable(&self, node: quarry_common::ids::NodeId) {
        self.desk.update(|progress| {
            if !progress.unreachable.contains(&node) {
                progress.unreachable.push(node);
            }
        });
    }

    async fn member(&self, pg: PgId, target: &Endpoint, options: FsckOptions) -> Result<(), CompareError> {
        let mut after = None;
        loop {
            let findings = compare(&self.tools, pg, target, after).await?;
            self.desk.update(|progress| {
                progress.replicas += findings.present.len() as u64;
                progress.unreferenced += findings.unreferenced;
            });
            for chunk in findings.missing {
                let what = "the node serves the group and lacks the chunk".to_owned();
                self.bad(target, chunk, (Reason::Missing, what)).await?;
            }
            if options.deep {
                self.verify(pg, target, &findings.present).await?;
            }
            match findings.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn verify(&self, pg: PgId, target: &Endpoint, chunks: &[ChunkId]) -> Result<(), CompareError> {
        for ids in chunks.chunks(VERIFY_MAX) {
            for (chunk, reason) in self.tools.datanodes.verify(target, ids.to_vec()).await? {
                let node = target.node;
                let still = self.tools.owner.ask(move |owner| {
                    Ok(owner.serves(pg, node) && !owner.still_referenced(&[chunk])?.is_empty())
                });
                if still.await? {
                    self.bad(target, chunk, (Reason::Bad, reason)).await?;
                }
            }
        }
        Ok(())
    }

    /// Reports a replica, and has it replaced.
    async fn bad(
        &self,
        target: &Endpoint,
        chunk: ChunkId,
        (reason, what): (Reason, String),
    ) -> Result<(), Stopped> {
        let node = target.node;
        self.desk.problem(FsckProblem { ino: None, chunk: Some(chunk), node: Some(node), what });
        self.tools
            .owner
            .ask(move |owner| {
                match reason {
                    Reason::Missing => owner.lacks(chunk.pg(), node),
                    Reason::Bad => owner.suspect(chunk, node),
                }
                Ok(())
            })
            .await
    }
}

/// Goes through all tables; says why it cannot.
fn check_tables(snapshot: Arc<dyn Base>, desk: &FsckDesk) -> Result<(), String> {
    let mut fsck = Fsck::new(snapshot).map_err(|e| e.to_string())?;
    loop {
        let step = fsck.step(STEP_ROWS_MAX).map_err(|e| e.to_string())?;
        for problem in step.problems {
            desk.problem(problem);
        }
        let (counts, phase) = (fsck.counts(), fsck.phase());
        desk.update(|progress| {
            (progress.inodes, progress.dentries) = (counts.inodes, counts.dentries);
            progress.chunks = counts.chunks;
            phase.clone_into(&mut progress.phase);
        });
        if step.done {
            return Ok(());
        }
    }
}

#[async_trait]
impl Worker for FsckWorker {
    fn name(&self) -> &'static str {
        "fsck"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        if let Some(options) = self.desk.take() {
            self.tools.board.set("fsck", "checking".to_owned());
            self.run(options).await?;
            let report = self.desk.lock().progress.clone();
            self.line = format!("check {} found {} problems", report.run, report.problem_count);
            tracing::info!(run = report.run, problems = report.problem_count, "fsck done");
        }
        Ok(Round { line: self.line.clone(), pause: PAUSE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_check_joins_the_first() {
        let desk = FsckDesk::default();
        assert!(desk.poll(0).is_err());
        assert_eq!(desk.start(FsckOptions { deep: true }).run, 1);
        assert_eq!(desk.start(FsckOptions { deep: false }).run, 1);
        assert_eq!(desk.take(), Some(FsckOptions { deep: true }));
        assert_eq!(desk.take(), None);
        assert!(!desk.poll(1).unwrap().done);
        desk.update(|progress| progress.done = true);
        assert_eq!(desk.start(FsckOptions { deep: false }).run, 2);
        assert!(desk.poll(1).is_err());
    }
}
