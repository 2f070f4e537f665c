//! Slots: how many mutations are under way, and which number each has.
//!
//! A slot stays with its mutation until that is answered, over as many connections as it takes: so the NameNode can
//! tell a retry from the next mutation by the number alone.

use quarry_common::ids::SessionId;
use quarry_common::limits::SESSION_SLOTS;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots that carry nothing.
pub(crate) struct Slots {
    free: Mutex<Vec<Place>>,
    permits: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    index: u16,
    /// The session in which it was last used, and the number of the last mutation that took effect there.
    session: SessionId,
    last: u64,
}

/// A slot that carries a mutation. Dropped, it is free for the next one.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    place: Place,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new() -> Arc<Self> {
        let place = |index| Place { index, session: SessionId(0), last: 0 };
        Arc::new(Self {
            free: Mutex::new((0..SESSION_SLOTS).rev().map(place).collect()),
            permits: Arc::new(Semaphore::new(usize::from(SESSION_SLOTS))),
        })
    }

    /// Waits for a free slot.
    pub(crate) async fn take(self: &Arc<Self>) -> Slot {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let place = self.free().pop().expect("there is one for each permit");
        Slot { slots: self.clone(), place, _permit: permit }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(crate) fn index(&self) -> u16 {
        self.place.index
    }

    /// The number of the mutation in this session: the same until [`used`](Self::used). A new session begins at 1.
    pub(crate) fn sequence(&mut self, session: SessionId) -> u64 {
        if self.place.session != session {
            self.place.session = session;
            self.place.last = 0;
        }
        self.place.last + 1
    }

    /// The NameNode says which number the slot used last.
    pub(crate) fn set(&mut self, last: u64) {
        self.place.last = last;
    }

    /// The state machine answered, also with an error: the next mutation gets the next number.
    pub(crate) fn used(&mut self) {
        self.place.last += 1;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the permit goes, so that whoever gets that finds the slot.
        self.slots.free().push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_grow_with_use_and_begin_anew_with_a_session() {
        let slots = Slots::new();
        let (old, new) = (SessionId(1), SessionId(2));
        let mut slot = slots.take().await;
        let index = slot.index();
        assert_eq!((slot.sequence(old), slot.sequence(old)), (1, 1));
        slot.used();
        drop(slot);
        let mut slot = slots.take().await;
        assert_eq!((slot.index(), slot.sequence(old), slot.sequence(new)), (index, 2, 1));
    }

    #[tokio::test]
    async fn there_are_as_many_as_a_session_may_have() {
        let slots = Slots::new();
        let mut taken = Vec::new();
        for _ in 0..SESSION_SLOTS {
            taken.push(slots.take().await);
        }
        let mut indexes: Vec<u16> = taken.iter().map(Slot::index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        assert_eq!(indexes.len(), usize::from(SESSION_SLOTS));
        let next = slots.take();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        taken.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }
}
