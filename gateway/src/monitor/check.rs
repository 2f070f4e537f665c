//! Checks of the whole cluster that were started from the gateway.

use super::log::Severity;
use super::now_ms;
use crate::error::{Error, Result};
use quarry_client::FileSystem;
use quarry_common::wire::cluster::{FsckOptions, FsckProgress};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a check is asked how far it is.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// Problems that the page lists.
const PROBLEMS_SHOWN: usize = 50;

/// A check and how far it is.
#[derive(Clone, Debug)]
pub(crate) struct CheckState {
    deep: bool,
    at_ms: u64,
    progress: FsckProgress,
    /// It broke off.
    error: Option<String>,
}

/// The check that runs, or the last one.
#[derive(Default)]
pub(super) struct Checks(Arc<Mutex<Option<CheckState>>>);

impl Checks {
    pub(super) fn state(&self) -> Option<CheckState> {
        lock(&self.0).clone()
    }

    /// # Errors
    /// `Conflict` while one runs.
    pub(super) async fn start(
        &self,
        fs: &FileSystem,
        deep: bool,
        note: impl Fn(Severity, String) + Send + 'static,
    ) -> Result<CheckState> {
        if lock(&self.0).as_ref().is_some_and(CheckState::runs) {
            return Err(Error::Conflict("a check runs already".to_owned()));
        }
        let progress = fs.fsck_start(FsckOptions { deep }).await?;
        let begun = CheckState { deep, at_ms: now_ms(), progress, error: None };
        *lock(&self.0) = Some(begun.clone());
        let (fs, state) = (fs.clone(), self.0.clone());
        tokio::spawn(async move {
            let run = begun.progress.run;
            let mut now = begun;
            while now.runs() {
                tokio::time::sleep(POLL_EVERY).await;
                match fs.fsck_poll(run).await {
                    Ok(progress) => now.progress = progress,
                    Err(error) => now.error = Some(error.to_string()),
                }
                *lock(&state) = Some(now.clone());
            }
            let (severity, text) = now.verdict();
            note(severity, text);
        });
        Ok(self.state().expect("it was just set"))
    }
}

impl CheckState {
    fn runs(&self) -> bool {
        !self.progress.done && self.error.is_none()
    }

    fn verdict(&self) -> (Severity, String) {
        let kind = if self.deep { "deep check" } else { "check" };
        match (&self.error, self.progress.problem_count) {
            (Some(error), _) => (Severity::Error, format!("The {kind} of the cluster broke off: {error}.")),
            (None, 0) => (
                Severity::Info,
                format!(
                    "The {kind} of the cluster found no problem in {} inodes and {} replicas.",
                    self.progress.inodes, self.progress.replicas
                ),
            ),
            (None, n) => (Severity::Error, format!("The {kind} of the cluster found {n} problems.")),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let p = &self.progress;
        json!({
            "deep": self.deep,
            "begun_ms": self.at_ms,
            "done": !self.runs(),
            "error": self.error,
            "phase": p.phase,
            "inodes": p.inodes,
            "names": p.dentries,
            "chunks": p.chunks,
            "replicas": p.replicas,
            "problem_count": p.problem_count,
            "problems": p.problems.iter().take(PROBLEMS_SHOWN).map(|problem| json!({
                "inode": problem.ino,
                "chunk": problem.chunk.map(|c| c.to_string()),
                "node": problem.node,
                "what": problem.what,
            })).collect::<Vec<_>>(),
            "unreachable": p.unreachable,
        })
    }
}

fn lock(state: &Mutex<Option<CheckState>>) -> MutexGuard<'_, Option<CheckState>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
