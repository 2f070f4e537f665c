//! Tasks, and blocking work of tasks.

use crate::world::{self, Inside, World};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// Spawns a task on the current runtime.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match world::current() {
        None => tokio::spawn(future),
        Some(world) => tokio::spawn(Inside::new(world, future)),
    }
}

/// Spawns a task into a set. The handle knows the task's id.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn_in<F, T>(set: &mut JoinSet<T>, future: F) -> AbortHandle
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    match world::current() {
        None => set.spawn(future),
        Some(world) => set.spawn(Inside::new(world, future)),
    }
}

/// Runs work that may wait for a disk or takes long, on a thread for such work. It is carried out also when the handle is
/// dropped.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match world::current() {
        None => tokio::task::spawn_blocking(work),
        Some(world) => {
            let time = world.blocking_time();
            spawn(async move {
                // The work happens at some moment between its start and its answer.
                tokio::time::sleep(time / 2).await;
                let value = work();
                tokio::time::sleep(time / 2).await;
                value
            })
        }
    }
}

/// Spawns tasks from threads outside of the runtime.
#[derive(Clone)]
pub struct Spawner {
    runtime: Handle,
    world: Option<Arc<dyn World>>,
}

impl Spawner {
    /// For the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn current() -> Self {
        Self { runtime: Handle::current(), world: world::current() }
    }

    /// Spawns a task.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.world {
            None => self.runtime.spawn(future),
            Some(world) => self.runtime.spawn(Inside::new(world.clone(), future)),
        }
    }
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").field("is_simulated", &self.world.is_some()).finish_non_exhaustive()
    }
}
