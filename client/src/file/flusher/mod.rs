//! The task that sends a file's dirty data: several chunks at once, committed in the order of the writes.

mod commit;
mod merge;
mod put;

use super::buffer::Job;
use super::inode::Inode;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use put::{Prepared, prepare};
use quarry_common::limits::COMMIT_SLICES_MAX;
use quarry_common::wire::error::FsError;
use quarry_host::trace::Scope;
use std::sync::Arc;

/// A job after its put.
pub(crate) struct Outcome {
    /// The windows that it took.
    pub(crate) windows: Vec<u64>,
    pub(crate) result: Result<Prepared, FsError>,
}

/// Sends until nothing is to be sent. At most one of these runs for an inode; [`State::flushing`] says so.
///
/// [`State::flushing`]: super::inode::State::flushing
pub(crate) async fn run(inode: Arc<Inode>) {
    // Twice as many jobs as puts: the next data is at hand when a put ends.
    let jobs_max = inode.shared.config.puts * 2;
    let mut puts: FuturesOrdered<BoxFuture<'static, Outcome>> = FuturesOrdered::new();
    let mut ready: Vec<Outcome> = Vec::new();
    let mut commit: Option<BoxFuture<'static, ()>> = None;
    loop {
        while puts.len() + ready.len() < jobs_max {
            let job = inode.state().next_job();
            let Some(job) = job else { break };
            puts.push_back(start(&inode, job));
        }
        if commit.is_none() && !ready.is_empty() {
            let work = commit::commit(Arc::clone(&inode), next_batch(&mut ready)).boxed();
            commit = Some(Scope::new(inode.operation(), work).boxed());
        }
        if commit.is_none() && puts.is_empty() {
            match inode.state().last_job() {
                Some(job) => puts.push_back(start(&inode, job)),
                None => return,
            }
        }
        tokio::select! {
            Some(outcome) = puts.next(), if !puts.is_empty() => {
                ready.push(outcome);
                while let Some(Some(outcome)) = puts.next().now_or_never() {
                    ready.push(outcome);
                }
            }
            () = async { commit.as_mut().expect("checked").await }, if commit.is_some() => commit = None,
            () = inode.work.notified() => {}
        }
    }
}

/// Jobs that go into one commit: in order, under one lease, with no more slices than a commit may have.
fn next_batch(ready: &mut Vec<Outcome>) -> Vec<Outcome> {
    let (mut slices, mut count) = (0, 0);
    let lease = |outcome: &Outcome| outcome.result.as_ref().ok().map(|job| job.about.lease);
    let first = ready.first().and_then(lease);
    for outcome in ready.iter() {
        slices += outcome.result.as_ref().map_or(0, Prepared::slices);
        if slices > COMMIT_SLICES_MAX || lease(outcome) != first {
            break;
        }
        count += 1;
    }
    ready.drain(..count.max(1)).collect()
}

/// Prepares a job in a task of its own.
fn start(inode: &Arc<Inode>, job: Job) -> BoxFuture<'static, Outcome> {
    let windows: Vec<u64> = job.windows.iter().map(|w| w.index).collect();
    let work = Box::pin(prepare(Arc::clone(inode), job));
    let task = inode.shared.runtime.spawn(Scope::new(inode.operation(), work));
    async move {
        let result = task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "sending data failed");
            Err(FsError::Io)
        });
        Outcome { windows, result }
    }
    .boxed()
}
