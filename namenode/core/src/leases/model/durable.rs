//! The breaks that are in the log.

use crate::command::Fence;
use quarry_common::ids::{Ino, LeaseGeneration, SessionId};
use quarry_common::wire::session::LeaseId;
use std::collections::BTreeMap;

/// What the state machine keeps of breaks.
#[derive(Default)]
pub(super) struct Fences {
    pub(super) leases: BTreeMap<(SessionId, Ino), LeaseGeneration>,
    pub(super) floors: BTreeMap<SessionId, LeaseGeneration>,
}

impl Fences {
    pub(super) fn add(&mut self, session: SessionId, fence: Fence) {
        match fence {
            Fence::Lease(lease) => {
                let known = self.leases.entry((session, lease.ino)).or_default();
                *known = lease.generation.max(*known);
            }
            Fence::Below(below) => {
                let known = self.floors.entry(session).or_default();
                *known = below.max(*known);
            }
        }
    }

    pub(super) fn is_broken(&self, session: SessionId, lease: LeaseId) -> bool {
        let fenced = self.leases.get(&(session, lease.ino)).is_some_and(|upto| lease.generation <= *upto);
        fenced || lease.generation < self.floor(session)
    }

    pub(super) fn floor(&self, session: SessionId) -> LeaseGeneration {
        self.floors.get(&session).copied().unwrap_or_default()
    }

    pub(super) fn of(&self, session: SessionId) -> Vec<LeaseId> {
        let own = self.leases.iter().filter(|((of, _), _)| *of == session);
        own.map(|((_, ino), generation)| LeaseId { ino: *ino, generation: *generation }).collect()
    }
}
