//! The world that a process runs in: the machine, or a simulation of several machines on one thread.
//!
//! Production code asks the facades of this crate ([`clock`](crate::clock), [`random`](crate::random), [`task`](crate::task),
//! [`thread`](crate::thread), [`disk`](crate::disk)) and never names a world. Without one they use the machine. In a
//! simulation every task carries the world of its process: [`task::spawn`](crate::task::spawn) hands the world of the
//! spawning task on, and each poll makes it the current one. So a simulation knows, whatever a task asks for, which process
//! asks, and can stop all tasks of one process without its consent.
//!
//! The monotonic clock is tokio's in both worlds: a simulation pauses it.

use crate::disk::Disk;
use quarry_common::wire::fs::Timestamp;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The surroundings of one simulated process.
pub trait World: Send + Sync + 'static {
    /// The name of the process's machine.
    fn host_name(&self) -> String;
    /// The process's wall clock.
    fn wall(&self) -> Timestamp;
    /// Time since the start of the process's machine, times of suspension included.
    fn boot(&self) -> Duration;
    /// What [`boot`](World::boot) is added to where it is wanted as an instant: the same for all times.
    fn boot_anchor(&self) -> Instant;
    /// The next random number.
    fn random(&self) -> u64;
    /// The disks of the process's machine.
    fn disk(&self) -> Arc<dyn Disk>;
    /// How long the next piece of blocking work takes.
    fn blocking_time(&self) -> Duration;
    /// A task of the process began.
    fn task_began(&self) -> u64;
    /// A task ended.
    fn task_ended(&self, task: u64);
    /// Whether a task may run now. While it may not, the waker is kept, and woken when that changes.
    fn may_run(&self, task: u64, waker: &Waker) -> Permission;
}

/// What a task of a simulated process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Run.
    Run,
    /// Wait: the process is paused.
    Wait,
    /// Never run again: the process is gone.
    Gone,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// The world of the running task; `None` on the machine itself.
pub fn current() -> Option<Arc<dyn World>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Asks the current world, if there is one.
pub(crate) fn ask<T>(question: impl FnOnce(&dyn World) -> T) -> Option<T> {
    current().map(|world| question(&*world))
}

/// Makes a world the current one until it is dropped.
struct Entered(Option<Arc<dyn World>>);

impl Entered {
    fn new(world: Option<Arc<dyn World>>) -> Self {
        Self(CURRENT.replace(world))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Runs a function in a world.
pub fn within<T>(world: &Arc<dyn World>, work: impl FnOnce() -> T) -> T {
    let _entered = Entered::new(Some(world.clone()));
    work()
}

/// A task of a simulated process: polled in its world, while the process may run.
pub struct Inside<F> {
    world: Arc<dyn World>,
    task: u64,
    /// `None` once the process is gone.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Inside<F> {
    /// A task of the process whose world this is.
    pub fn new(world: Arc<dyn World>, future: F) -> Self {
        let task = world.task_began();
        Self { world, task, future: Some(Box::pin(future)) }
    }
}

impl<F> Inside<F> {
    fn end(&mut self) {
        // What the future owns may ask for its world as well when it is dropped.
        let _entered = Entered::new(Some(self.world.clone()));
        self.future = None;
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.world.may_run(self.task, context.waker()) {
            Permission::Run => {}
            Permission::Wait => return Poll::Pending,
            Permission::Gone => {
                self.end();
                return Poll::Pending;
            }
        }
        let _entered = Entered::new(Some(self.world.clone()));
        match &mut self.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Inside<F> {
    fn drop(&mut self) {
        self.end();
        self.world.task_ended(self.task);
    }
}
