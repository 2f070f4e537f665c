//! The locks of one inode.

use super::{END, Owner};
use quarry_common::wire::session::{Lock, LockKind};

/// A lock that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) owner: Owner,
    /// Never `Unlock`.
    pub(super) lock: Lock,
}

/// Locks in order of their starts. Those of one owner are disjoint, and such that touch are of different kinds.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Held>);

/// Whether two locks of different owners exclude each other.
pub(super) fn exclude(a: &Lock, b: &Lock) -> bool {
    a.family == b.family && overlap(a, b) && (a.kind == LockKind::Write || b.kind == LockKind::Write)
}

fn overlap(a: &Lock, b: &Lock) -> bool {
    a.start <= b.end && b.start <= a.end
}

/// Whether one lock begins where the other ends, or they overlap.
fn touch(a: &Lock, b: &Lock) -> bool {
    // Ends are at most `END`, so adding one does not overflow.
    a.start <= b.end + 1 && b.start <= a.end + 1
}

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.iter()
    }

    /// Locks of the owner.
    pub(super) fn count(&self, owner: Owner) -> usize {
        self.0.iter().filter(|h| h.owner == owner).count()
    }

    /// Locks of others that exclude this one.
    pub(super) fn conflicts<'a>(&'a self, owner: Owner, lock: &'a Lock) -> impl Iterator<Item = &'a Held> {
        let before_end = self.0.partition_point(|h| h.lock.start <= lock.end);
        self.0[..before_end].iter().filter(move |h| h.owner != owner && exclude(&h.lock, lock))
    }

    /// Whether the range lies inside one lock of the owner, which would be split around it.
    pub(super) fn would_split(&self, owner: Owner, lock: &Lock) -> bool {
        self.0.iter().any(|h| h.owner == owner && h.lock.start < lock.start && h.lock.end > lock.end)
    }

    /// Makes the range of the owner what the lock says. Conflicts are the caller's to check.
    pub(super) fn set(&mut self, owner: Owner, lock: &Lock) {
        let mut new = *lock;
        let mut rests = Vec::new();
        self.0.retain(|h| {
            if h.owner != owner {
                return true;
            }
            let old = h.lock;
            if old.kind == new.kind && touch(&old, &new) {
                new.start = new.start.min(old.start);
                new.end = new.end.max(old.end);
                return false;
            }
            if !overlap(&old, lock) {
                return true;
            }
            if old.start < lock.start {
                rests.push(Lock { end: lock.start - 1, ..old });
            }
            if old.end > lock.end {
                rests.push(Lock { start: lock.end + 1, ..old });
            }
            false
        });
        if new.kind != LockKind::Unlock {
            rests.push(new);
        }
        for lock in rests {
            debug_assert!(lock.start <= lock.end && lock.end <= END, "{lock:?}");
            let at = self.0.partition_point(|h| h.lock.start <= lock.start);
            self.0.insert(at, Held { owner, lock });
        }
    }
}
