//! The locks that the session holds, as the NameNode must be told after it restarted.

use quarry_common::ids::Ino;
use quarry_common::wire::session::{Lock, LockKind};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By file; the ranges of one owner do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<BTreeMap<Ino, Vec<Lock>>>);

impl Locks {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Ino, Vec<Lock>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The NameNode granted this, in place of what the owner had in the range.
    pub(crate) fn granted(&self, ino: Ino, new: Lock) {
        let mut table = self.table();
        let old = table.remove(&ino).unwrap_or_default();
        let mut locks: Vec<Lock> = old.into_iter().flat_map(|lock| outside(lock, &new)).flatten().collect();
        if new.kind != LockKind::Unlock {
            let new = join(&mut locks, new);
            locks.push(new);
        }
        if !locks.is_empty() {
            table.insert(ino, locks);
        }
    }

    /// Those of one owner on one file.
    pub(crate) fn of(&self, ino: Ino, owner: u64) -> Vec<Lock> {
        let table = self.table();
        table.get(&ino).into_iter().flatten().filter(|lock| lock.owner == owner).copied().collect()
    }

    /// Those on one file.
    pub(crate) fn on(&self, ino: Ino) -> Vec<Lock> {
        self.table().get(&ino).cloned().unwrap_or_default()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(Ino, Lock)> {
        self.table().iter().flat_map(|(ino, locks)| locks.iter().map(|lock| (*ino, *lock))).collect()
    }

    /// The NameNode frees all locks of a file that the session has no longer open.
    pub(crate) fn closed(&self, inos: &[Ino]) {
        let mut table = self.table();
        for ino in inos {
            table.remove(ino);
        }
    }

    /// The session that held them has ended. Returns the files on which there were some.
    pub(crate) fn lost(&self) -> Vec<Ino> {
        std::mem::take(&mut *self.table()).into_keys().collect()
    }
}

/// What of a lock is outside another's range: all of it if the owners differ.
fn outside(lock: Lock, hole: &Lock) -> [Option<Lock>; 2] {
    if lock.owner != hole.owner || lock.end < hole.start || hole.end < lock.start {
        return [Some(lock), None];
    }
    let before = (lock.start < hole.start).then(|| Lock { end: hole.start - 1, ..lock });
    let after = (lock.end > hole.end).then(|| Lock { start: hole.end + 1, ..lock });
    [before, after]
}

/// Takes neighbours of the same owner and kind into a new lock, so that a file locked piece by piece is one range.
fn join(locks: &mut Vec<Lock>, mut new: Lock) -> Lock {
    locks.retain(|lock| {
        let same = lock.owner == new.owner && lock.kind == new.kind;
        let touches =
            lock.end.checked_add(1) == Some(new.start) || new.end.checked_add(1) == Some(lock.start);
        if same && touches {
            new.start = new.start.min(lock.start);
            new.end = new.end.max(lock.end);
        }
        !(same && touches)
    });
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock(owner: u64, start: u64, end: u64, kind: LockKind) -> Lock {
        Lock { owner, pid: 1, start, end, kind }
    }

    #[test]
    fn an_unlock_splits_a_range() {
        let (locks, ino) = (Locks::default(), Ino(7));
        locks.granted(ino, lock(1, 0, u64::MAX, LockKind::Write));
        locks.granted(ino, lock(1, 10, 19, LockKind::Unlock));
        let ranges: Vec<_> = locks.all().iter().map(|(_, l)| (l.start, l.end)).collect();
        assert_eq!(ranges, [(0, 9), (20, u64::MAX)]);
        locks.granted(ino, lock(1, 0, u64::MAX, LockKind::Unlock));
        assert!(locks.all().is_empty());
    }

    #[test]
    fn neighbours_become_one() {
        let (locks, ino) = (Locks::default(), Ino(7));
        for i in [0, 2, 1] {
            locks.granted(ino, lock(1, i, i, LockKind::Read));
        }
        assert_eq!(locks.all(), [(ino, lock(1, 0, 2, LockKind::Read))]);
        assert_eq!(locks.lost(), [ino]);
        assert!(locks.all().is_empty());
    }

    fn kind() -> impl Strategy<Value = LockKind> {
        prop_oneof![Just(LockKind::Read), Just(LockKind::Write), Just(LockKind::Unlock)]
    }

    proptest! {
        #[test]
        fn the_last_grant_holds_for_every_byte(
            grants in proptest::collection::vec((0..3u64, 0..20u64, 0..20u64, kind()), 0..40),
        ) {
            let locks = Locks::default();
            let mut model = [[LockKind::Unlock; 40]; 3];
            for (owner, start, length, kind) in grants {
                locks.granted(Ino(1), lock(owner, start, start + length, kind));
                model[owner as usize][start as usize..=(start + length) as usize].fill(kind);
            }
            let mut seen = [[LockKind::Unlock; 40]; 3];
            for (_, l) in locks.all() {
                for byte in l.start..=l.end {
                    let byte = &mut seen[l.owner as usize][byte as usize];
                    prop_assert_eq!(*byte, LockKind::Unlock);
                    *byte = l.kind;
                }
            }
            prop_assert_eq!(seen, model);
        }
    }
}
