//! The operations of one disk, on threads of their own.
//!
//! A disk that hangs holds the threads of its own queue and no others. Whoever waits for one of its operations is told after
//! [`STALLED_AFTER`], and goes on without the disk; the operation itself cannot be taken back and ends whenever the disk answers.

use quarry_host::{clock, thread, world};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Operations of one disk at the same time: disks want many requests in their queue.
const THREADS_MAX: usize = 16;
/// Operations that wait for a thread. More are refused: at 10 ms each the last one waits a second and a half.
const WAITING_MAX: usize = 128;
/// A disk that has operations to answer and answers none for this long is stalled: longer than a busy rotating disk or a
/// flush of its cache takes, shorter than a writer waits.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(5);
/// The longest wait for one operation of a disk that answers others.
const OPERATION_MAX: Duration = Duration::from_secs(15);
/// How often a wait looks whether the disk is stalled.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The weight of the past in the mean time of operations: seven eighths.
const LATENCY_SHIFT: u32 = 3;

/// Why an operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The disk answers nothing, or not this operation. It may still be carried out.
    #[error("the disk does not answer")]
    Stalled,
    /// The operation was not begun.
    #[error("the disk has too much to do")]
    Busy,
}

/// What is known of the operations of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Age of the oldest operation that has no answer.
    pub(crate) oldest: Duration,
    /// For how long operations have been waiting and none was answered.
    pub(crate) silent: Duration,
    /// Mean time of an operation.
    pub(crate) latency: Duration,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    threads: usize,
    idle: usize,
    next: u64,
    /// When each operation without an answer began; the first is the oldest.
    running: BTreeMap<u64, Instant>,
    /// The last answer, or the begin of the first operation after a pause.
    heard: Option<Instant>,
    latency_us: u64,
    closed: bool,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    work: Condvar,
}

/// The queue. Dropped, it lets its threads end.
pub(crate) struct Queue(Arc<Shared>);

/// Where an operation leaves its result.
enum Slot<T> {
    Waiting,
    Done(T),
    /// Nothing waits for the result any more.
    Abandoned,
}

/// An operation whose result is to be waited for.
pub(crate) struct Pending<T> {
    slot: Arc<(Mutex<Slot<T>>, Condvar)>,
    queue: Arc<Shared>,
}

impl Queue {
    /// `name` is that of the threads.
    pub(crate) fn new(name: String) -> Self {
        Self(Arc::new(Shared { name, state: Mutex::default(), work: Condvar::new() }))
    }

    /// Runs an operation and waits for its result, on a thread that may wait. `late` gets a result that nothing waits for
    /// any more.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub(crate) fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> T + Send + 'static,
        late: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, NoAnswer> {
        self.begin(operation, late)?.wait(Some(OPERATION_MAX))
    }

    /// Begins an operation, whose result is to be waited for.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> T + Send + 'static,
        late: impl FnOnce(T) + Send + 'static,
    ) -> Result<Pending<T>, NoAnswer> {
        if world::current().is_some() {
            // A simulation has one thread, and its disks always answer.
            let slot = Arc::new((Mutex::new(Slot::Done(operation())), Condvar::new()));
            return Ok(Pending { slot, queue: self.0.clone() });
        }
        let slot = Arc::new((Mutex::new(Slot::Waiting), Condvar::new()));
        let result = slot.clone();
        self.submit(move |answered| {
            let value = operation();
            answered();
            let (slot, done) = &*result;
            let mut slot = lock(slot);
            if matches!(*slot, Slot::Abandoned) {
                drop(slot);
                late(value);
            } else {
                *slot = Slot::Done(value);
                done.notify_one();
            }
        })?;
        Ok(Pending { slot, queue: self.0.clone() })
    }

    /// Hands work to a thread. The work calls what it is given when the disk has answered.
    fn submit(&self, work: impl FnOnce(&dyn Fn()) + Send + 'static) -> Result<(), NoAnswer> {
        let mut state = self.0.state();
        if state.waiting.len() >= WAITING_MAX {
            return Err(NoAnswer::Busy);
        }
        let now = clock::now();
        let number = state.next;
        state.next += 1;
        if state.running.is_empty() {
            state.heard = Some(now);
        }
        state.running.insert(number, now);
        let shared = self.0.clone();
        state.waiting.push_back(Box::new(move || work(&|| shared.answered(number))));
        if state.idle > 0 {
            self.0.work.notify_one();
        } else if state.threads < THREADS_MAX && self.0.clone().begin_thread() {
            state.threads += 1;
        }
        Ok(())
    }

    /// What is known of the operations.
    pub(crate) fn load(&self) -> Load {
        self.0.load()
    }

    /// What an operation that takes long calls whenever it has come further: that is no silence of the disk.
    pub(crate) fn progress(&self) -> impl Fn() + Send + use<> {
        let shared = self.0.clone();
        move || shared.state().heard = Some(clock::now())
    }
}

impl<T> Pending<T> {
    /// Waits for the result, until the disk is stalled or the limit is over.
    ///
    /// # Errors
    /// `Stalled`.
    pub(crate) fn wait(self, limit: Option<Duration>) -> Result<T, NoAnswer> {
        let begun = clock::now();
        let (slot, done) = &*self.slot;
        let mut slot = lock(slot);
        loop {
            match std::mem::replace(&mut *slot, Slot::Waiting) {
                Slot::Done(value) => return Ok(value),
                Slot::Waiting | Slot::Abandoned => {}
            }
            let late = limit.is_some_and(|limit| clock::since(begun) >= limit);
            if late || self.queue.load().silent >= STALLED_AFTER {
                *slot = Slot::Abandoned;
                return Err(NoAnswer::Stalled);
            }
            slot = done.wait_timeout(slot, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn load(&self) -> Load {
        let state = self.state();
        Load {
            oldest: state.running.values().next().map_or(Duration::ZERO, |begun| clock::since(*begun)),
            silent: match state.heard {
                Some(heard) if !state.running.is_empty() => clock::since(heard),
                _ => Duration::ZERO,
            },
            latency: Duration::from_micros(state.latency_us),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn answered(&self, number: u64) {
        let mut state = self.state();
        let now = clock::now();
        state.heard = Some(now);
        if let Some(begun) = state.running.remove(&number) {
            let took = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
            let old = state.latency_us;
            state.latency_us =
                if old == 0 { took } else { old - (old >> LATENCY_SHIFT) + (took >> LATENCY_SHIFT) };
        }
    }

    /// Begins one more thread; says whether the machine has it.
    fn begin_thread(self: Arc<Self>) -> bool {
        let name = self.name.clone();
        match thread::run(&name, async move { self.serve() }) {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(name, %error, "cannot begin a thread for a disk");
                false
            }
        }
    }

    fn serve(&self) {
        loop {
            let mut state = self.state();
            let job = loop {
                if let Some(job) = state.waiting.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            };
            drop(state);
            job();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn results_come_back_and_operations_run_side_by_side() {
        let queue = Queue::new("disk".into());
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.run(move || receive.recv().unwrap(), |_| ()));
            // The second operation ends the first.
            assert_eq!(queue.run(move || send.send(5).is_ok(), |_| ()), Ok(true));
            assert_eq!(waiting.join().unwrap(), Ok(5));
        });
        assert_eq!(queue.load().oldest, Duration::ZERO);
    }

    #[test]
    fn an_operation_without_an_answer_is_given_up_and_its_late_result_is_told() {
        let queue = Queue::new("disk".into());
        let (release, held) = mpsc::channel::<()>();
        let (late, told) = mpsc::channel();
        let outcome = queue.run(
            move || {
                let _ = held.recv();
                7
            },
            move |value| late.send(value).unwrap(),
        );
        assert_eq!(outcome, Err(NoAnswer::Stalled));
        let load = queue.load();
        assert!(load.silent >= STALLED_AFTER && load.oldest >= STALLED_AFTER, "{load:?}");
        release.send(()).unwrap();
        assert_eq!(told.recv(), Ok(7));
    }

    #[test]
    fn a_hung_disk_takes_no_more_than_its_queue_holds() {
        let queue = Queue::new("disk".into());
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for number in 0..THREADS_MAX + WAITING_MAX {
            let held = held.clone();
            queue.submit(move |_| lock(&held).recv().unwrap_or_default()).unwrap();
            while number < THREADS_MAX && !queue.0.state().waiting.is_empty() {
                std::thread::yield_now();
            }
        }
        assert_eq!(queue.submit(|_| ()), Err(NoAnswer::Busy));
        drop(release);
    }
}
