//! The exclusive leases of the client, valid or lapsed: what says under which right buffered data were taken in.
//!
//! ```text
//!   granted ──► owned ──(term runs out)──► owned, but not to be used before the next answer: the cache knows
//!                 ├─ released: recalled, and what was buffered is committed
//!                 └─ lost: another session was let past it. What is buffered under it is never written
//! ```

use quarry_common::ids::{Ino, LeaseGeneration};
use quarry_common::limits::RECLAIMS_MAX;
use quarry_common::wire::session::{LeaseGrant, LeaseId, LeaseMode, Losses};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Ownership(Mutex<HashMap<Ino, LeaseGeneration>>);

impl Ownership {
    fn owned(&self) -> MutexGuard<'_, HashMap<Ino, LeaseGeneration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer names these leases as the session has them.
    pub(crate) fn granted(&self, grants: &[LeaseGrant]) {
        if grants.is_empty() {
            return;
        }
        let mut owned = self.owned();
        for grant in grants {
            match grant.mode {
                LeaseMode::Exclusive => owned.insert(grant.ino, grant.generation),
                LeaseMode::Shared => owned.remove(&grant.ino),
            };
        }
    }

    /// The generation of the exclusive lease on an inode, which may have lapsed.
    pub(crate) fn generation(&self, ino: Ino) -> Option<LeaseGeneration> {
        self.owned().get(&ino).copied()
    }

    /// The lease is given back: nothing is buffered under it.
    pub(crate) fn released(&self, ino: Ino) {
        self.owned().remove(&ino);
    }

    /// What a resumed session asks for: the leases of these dirty inodes first, then the others.
    pub(crate) fn reclaims(&self, dirty: &[Ino]) -> Vec<LeaseId> {
        let mut owned = self.owned();
        let mut reclaims: Vec<LeaseId> = Vec::new();
        for ino in dirty {
            if let Some(generation) = owned.remove(ino) {
                reclaims.push(LeaseId { ino: *ino, generation });
            }
        }
        let mut clean: Vec<_> = owned.drain().map(|(ino, generation)| LeaseId { ino, generation }).collect();
        clean.sort_unstable();
        reclaims.append(&mut clean);
        reclaims.truncate(RECLAIMS_MAX);
        // What is not asked for is given up.
        *owned = reclaims.iter().map(|lease| (lease.ino, lease.generation)).collect();
        reclaims
    }

    /// The session has lost leases.
    pub(crate) fn lost(&self, losses: &Losses) {
        self.owned().retain(|ino, generation| !is_broken(losses, *ino, *generation));
    }

    /// The session has ended: another one owns nothing.
    pub(crate) fn expired(&self) {
        self.owned().clear();
    }
}

/// Whether losses name this lease.
pub(crate) fn is_broken(losses: &Losses, ino: Ino, generation: LeaseGeneration) -> bool {
    generation < losses.below || losses.leases.contains(&LeaseId { ino, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(ino: u64, generation: u64, mode: LeaseMode) -> LeaseGrant {
        LeaseGrant { ino: Ino(ino), mode, generation: LeaseGeneration(generation) }
    }

    fn exclusive(ownership: &Ownership, leases: &[(u64, u64)]) {
        let grants: Vec<_> = leases.iter().map(|(i, g)| grant(*i, *g, LeaseMode::Exclusive)).collect();
        ownership.granted(&grants);
    }

    #[test]
    fn dirty_leases_are_reclaimed_first_and_what_is_not_asked_for_is_given_up() {
        let ownership = Ownership::default();
        let many: Vec<_> = (1..=RECLAIMS_MAX as u64 + 10).map(|i| (i, i)).collect();
        exclusive(&ownership, &many);
        let dirty = [Ino(RECLAIMS_MAX as u64 + 9), Ino(7), Ino(1 << 40)];
        let reclaims = ownership.reclaims(&dirty);
        assert_eq!(reclaims.len(), RECLAIMS_MAX);
        assert_eq!((reclaims[0].ino, reclaims[1].ino), (dirty[0], dirty[1]));
        assert_eq!(ownership.generation(dirty[0]), Some(LeaseGeneration(dirty[0].0)));
        assert_eq!(ownership.generation(Ino(RECLAIMS_MAX as u64 + 10)), None);
    }

    #[test]
    fn what_losses_name_is_not_owned_any_more() {
        let ownership = Ownership::default();
        exclusive(&ownership, &[(1, 10), (2, 11), (3, 12), (4, 5)]);
        let leases = vec![
            LeaseId { ino: Ino(1), generation: LeaseGeneration(10) },
            LeaseId { ino: Ino(2), generation: LeaseGeneration(9) },
        ];
        let losses = Losses { number: 3, leases, below: LeaseGeneration(6), ..Losses::default() };
        ownership.lost(&losses);
        let left = [1, 2, 3, 4].map(|ino| ownership.generation(Ino(ino)).is_some());
        assert_eq!(left, [false, true, true, false]);
        // The same inode was granted again since.
        exclusive(&ownership, &[(1, 20)]);
        ownership.lost(&losses);
        assert!(ownership.generation(Ino(1)).is_some());
        ownership.granted(&[grant(1, 21, LeaseMode::Shared)]);
        assert_eq!(ownership.generation(Ino(1)), None);
        ownership.expired();
        assert_eq!(ownership.generation(Ino(3)), None);
    }
}
