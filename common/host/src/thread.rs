//! Threads with a loop of their own.
//!
//! The loop is a future, driven by a runtime that has no other task but what the loop spawns. It may block in between; where
//! it waits for others it awaits, so that a simulation can run it as a task beside all others.

use crate::{task, world};
use std::io;
use tokio::sync::oneshot;

/// A running thread.
#[derive(Debug)]
pub struct Running<T>(oneshot::Receiver<T>);

/// The thread panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a thread panicked")]
pub struct Panicked;

impl<T> Running<T> {
    /// Waits for the end of the loop. Dropping the handle leaves the thread running.
    ///
    /// # Errors
    /// When the loop panicked.
    pub async fn ended(self) -> Result<T, Panicked> {
        self.0.await.map_err(|_| Panicked)
    }
}

/// Runs a loop on a thread of its own.
///
/// # Errors
/// When the machine has no more threads.
pub fn run<F>(name: &str, body: F) -> io::Result<Running<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (done, end) = oneshot::channel();
    if world::current().is_some() {
        task::spawn(async move { drop(done.send(body.await)) });
        return Ok(Running(end));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new()
        .name(name.to_owned())
        // The handle may be gone: nothing waits for the end then.
        .spawn(move || drop(done.send(runtime.block_on(body))))?;
    Ok(Running(end))
}

/// Does some pieces of blocking work, each on a thread of its own, and waits for all. A simulation does one after the other.
///
/// # Panics
/// When one of them does.
pub fn all<T: Send>(works: impl IntoIterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    if world::current().is_some() {
        return works.into_iter().map(|work| work()).collect();
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = works.into_iter().map(|work| scope.spawn(work)).collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.map(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Pauses blocking work. A simulation, in which blocking work takes no time of its own, does not pause.
pub fn pause(time: std::time::Duration) {
    if world::current().is_none() {
        std::thread::sleep(time);
    }
}

/// Runs blocking work within such a loop: at once on the machine; a simulation lets time pass around it.
pub async fn block<T>(work: impl FnOnce() -> T) -> T {
    let Some(time) = world::ask(|world| world.blocking_time()) else { return work() };
    tokio::time::sleep(time / 2).await;
    let value = work();
    tokio::time::sleep(time / 2).await;
    value
}
