//! The mount's write buffer: how many bytes may wait for the cluster.

use quarry_common::wire::error::FsError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Half of it must hold any write of a single byte with its overhead.
const CAPACITY_MIN: usize = 64 << 10;

/// Memory for written bytes, shared by all files of a mount. Writers wait in the order in which they came.
#[derive(Debug)]
pub(crate) struct Budget {
    capacity: usize,
    free: Semaphore,
    waiting: AtomicUsize,
    /// Half full was seen; armed again when three quarters are free, so that a flush is not asked for with each
    /// write around the mark and random writes are packed well.
    alarmed: AtomicBool,
}

impl Budget {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(CAPACITY_MIN, u32::MAX as usize);
        Self {
            capacity,
            free: Semaphore::new(capacity),
            waiting: AtomicUsize::new(0),
            alarmed: AtomicBool::new(false),
        }
    }

    /// The most that one write asks for at once.
    pub(crate) fn write_max(&self) -> usize {
        self.capacity / 2
    }

    /// Takes bytes if there are enough.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        match self.free.try_acquire_many(bytes as u32) {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Waits for bytes. `flush` begins to send all that is dirty now; whoever makes more of it afterwards sees that
    /// somebody waits.
    ///
    /// # Errors
    /// `Io` when the mount is going down.
    pub(crate) async fn take(&self, bytes: usize, flush: impl FnOnce()) -> Result<(), FsError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        flush();
        let permit = self.free.acquire_many(bytes as u32).await.map_err(|_| FsError::Io)?;
        permit.forget();
        Ok(())
    }

    /// Gives bytes back.
    pub(crate) fn give(&self, bytes: usize) {
        self.free.add_permits(bytes);
        if self.free.available_permits() >= self.capacity / 4 * 3 {
            self.alarmed.store(false, Ordering::Relaxed);
        }
    }

    /// Writers wait: whatever can be sent should be.
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// True once each time that half of the memory has come into use.
    pub(crate) fn half_reached(&self) -> bool {
        self.free.available_permits() < self.capacity / 2 && !self.alarmed.swap(true, Ordering::Relaxed)
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.capacity - self.free.available_permits()
    }
}

/// Counts a writer off, also one that stopped waiting.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_is_told_once_until_most_is_free_again() {
        let budget = Budget::new(100_000);
        assert!(budget.try_take(40_000) && !budget.half_reached());
        assert!(budget.try_take(20_000) && budget.half_reached() && !budget.half_reached());
        budget.give(30_000);
        assert!(budget.try_take(30_000) && !budget.half_reached());
        budget.give(50_000);
        assert!(budget.try_take(50_000) && budget.half_reached());
        assert!(!budget.try_take(50_000));
        tokio::select! {
            biased;
            _ = budget.take(50_000, || assert!(budget.is_short())) => panic!("there is no room"),
            () = std::future::ready(()) => {}
        }
        assert!(!budget.is_short());
        assert_eq!(budget.used(), 60_000);
    }
}
