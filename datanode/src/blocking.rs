//! Disk work and hashing, on threads that may wait.

use quarry_host::task;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Jobs at once. Most of them wait for the queue of a disk, not for a core; a disk that hangs keeps as many of them as its queue
/// takes for some seconds, and others must go on meanwhile.
const JOBS_MAX: usize = 256;

/// A bounded share of the runtime's blocking threads. A job never waits for another one that has not begun.
#[derive(Clone, Debug)]
pub(crate) struct Blocking(Arc<Semaphore>);

impl Default for Blocking {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(JOBS_MAX)))
    }
}

impl Blocking {
    /// Runs a job and waits for it. A job whose caller has gone away is finished nevertheless.
    ///
    /// # Panics
    /// When the job does.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = self.0.clone().acquire_owned().await.expect("the semaphore is never closed");
        let running = task::spawn_blocking(move || {
            let _permit = permit;
            job()
        });
        match running.await {
            Ok(value) => value,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}
