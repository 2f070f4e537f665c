//! Notices operations that hang.

use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What one worker does now, and since when.
type Now = Option<(Instant, String)>;

/// Watches workers, of which each says what it begins. If one takes too long, the watchdog says which, and kills the mounts: then the
/// kernel ends every system call on them with an error, and the test can end as well.
pub struct Watchdog {
    limit: Duration,
    workers: Vec<Mutex<Now>>,
    over: AtomicBool,
    barked: AtomicBool,
}

impl Watchdog {
    /// For so many workers, whose operations must not take longer than `limit`.
    pub fn new(workers: usize, limit: Duration) -> Self {
        Self {
            limit,
            workers: (0..workers).map(|_| Mutex::new(None)).collect(),
            over: AtomicBool::new(false),
            barked: AtomicBool::new(false),
        }
    }

    /// Runs `work` for each worker in a thread of its own, with a watch on all. Work should end when [`Self::barked`].
    ///
    /// # Panics
    /// When an operation hung, or a worker panicked.
    pub fn watch(&self, mounts: &[u32], work: impl Fn(usize) + Sync) {
        std::thread::scope(|s| {
            let threads: Vec<_> = (0..self.workers.len())
                .map(|w| {
                    s.spawn({
                        let work = &work;
                        move || work(w)
                    })
                })
                .collect();
            s.spawn(|| self.look(mounts));
            let ended: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            self.over.store(true, Ordering::Relaxed);
            // Once a mount was killed, that its workers failed is no news.
            assert!(!self.barked(), "an operation hung, see above");
            ended.into_iter().for_each(|e| e.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
    }

    /// Does something as a worker, under watch.
    pub fn during<T>(
        &self,
        worker: usize,
        what: impl FnOnce() -> String,
        operation: impl FnOnce() -> T,
    ) -> T {
        *self.now(worker) = Some((Instant::now(), what()));
        let done = operation();
        *self.now(worker) = None;
        done
    }

    /// Something hung, and everything is about to end.
    pub fn barked(&self) -> bool {
        self.barked.load(Ordering::Relaxed)
    }

    fn now(&self, worker: usize) -> MutexGuard<'_, Now> {
        self.workers[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, mounts: &[u32]) {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
            let late = |now: &Now| now.as_ref().is_some_and(|(since, _)| since.elapsed() > self.limit);
            if !(0..self.workers.len()).any(|w| late(&self.now(w))) {
                continue;
            }
            eprintln!("an operation takes longer than {:?}:", self.limit);
            for worker in 0..self.workers.len() {
                if let Some((since, what)) = &*self.now(worker) {
                    eprintln!("  worker {worker}, for {:?}: {what}", since.elapsed());
                }
            }
            self.barked.store(true, Ordering::Relaxed);
            for pid in mounts.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_operations_pass() {
        let watchdog = Watchdog::new(2, Duration::from_secs(5));
        watchdog.watch(&[], |worker| watchdog.during(worker, String::new, || {}));
        assert!(!watchdog.barked());
    }

    #[test]
    #[should_panic(expected = "an operation hung")]
    fn a_slow_one_is_noticed() {
        let watchdog = Watchdog::new(2, Duration::from_millis(50));
        let slow = |worker: usize| {
            while worker == 1 && !watchdog.barked() {
                std::thread::sleep(LOOK_EVERY / 4)
            }
        };
        watchdog.watch(&[], |worker| watchdog.during(worker, || "a nap".to_owned(), || slow(worker)));
    }
}
