//! Sessions that go on over a new connection or after a start of the NameNode, and sessions that end.

use super::holder::Holder;
use super::{Actions, LeaseTable, Recall};
use crate::command::Fence;
use quarry_common::ids::{Ino, LeaseGeneration, SessionId};
use quarry_common::wire::session::{LeaseId, LeaseMode};
use std::collections::BTreeMap;

impl LeaseTable {
    /// The session goes on over a new connection, and says what it has open. It wants these exclusive leases back, and has
    /// given up all others. `broken` are the fences that the state has of it, and `below` its floor.
    ///
    /// What it does not get back is in its [`losses`](Self::losses). Recalls of what it does get back are among the
    /// actions again, for they may have been lost with the connection.
    pub fn resume(
        &mut self,
        now: u64,
        session: SessionId,
        reclaims: &[LeaseId],
        (broken, below): (&[LeaseId], LeaseGeneration),
    ) -> Actions {
        let mut actions = Actions::default();
        self.renew(now, session);
        let wanted: BTreeMap<Ino, LeaseGeneration> = reclaims.iter().map(|l| (l.ino, l.generation)).collect();
        let inos = self.holders.get(&session).map(|h| h.inos.clone()).unwrap_or_default();
        for ino in inos {
            let Some(lease) = self.leases.get(&(ino, session)) else { continue };
            if lease.breaking {
                continue;
            }
            if lease.mode == LeaseMode::Exclusive && wanted.get(&ino) == Some(&lease.generation) {
                let again = lease.recalls.iter();
                actions.recalls.extend(again.map(|r| Recall {
                    session,
                    number: r.number,
                    ino,
                    keep: r.keep,
                }));
            } else {
                self.end_lease(ino, session);
                self.unblock(ino, session, &mut actions);
            }
        }
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.late.clear();
            holder.losses.add_below(below, LeaseMode::Exclusive);
            for lease in broken {
                holder.losses.add(*lease, LeaseMode::Exclusive);
            }
        }
        // A fence breaks earlier leases on its inode as well: a client may not know yet that it lost one and was granted another.
        let is_broken = |lease: &LeaseId| {
            let by = |fence: &LeaseId| fence.ino == lease.ino && lease.generation <= fence.generation;
            lease.generation < below || broken.iter().any(by)
        };
        for lease in reclaims {
            if self.reclaim(session, *lease, is_broken(lease)) {
                // Requests that came before it was back find it in their way now.
                for (ticket, access) in self.tickets.of_others(session, lease.ino) {
                    let more = self.extend(now, ticket, &[(lease.ino, access)]);
                    actions.recalls.extend(more.recalls);
                }
            }
        }
        // While its fence is on the way, others wait for that.
        if !self.former_fenced && self.former.remove(&session) {
            self.release_former(&mut actions);
        }
        actions
    }

    /// Puts a lease of an earlier run back and tells so, unless it may have been broken; then it is a loss.
    fn reclaim(&mut self, session: SessionId, lease: LeaseId, is_broken: bool) -> bool {
        let LeaseId { ino, generation } = lease;
        let held = self.leases.get(&(ino, session));
        if held.is_some_and(|held| held.generation == generation && !held.breaking) {
            return false;
        }
        let untouched =
            self.former.contains(&session) && !self.former_fenced && generation <= self.run_begins;
        let is_free = self.on(ino).next().is_none() && self.leases.len() < self.config.budget;
        if untouched && !is_broken && is_free {
            self.insert(ino, session, LeaseMode::Exclusive, generation);
            return true;
        }
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.losses.add(lease, LeaseMode::Exclusive);
        }
        false
    }

    /// The session has ended, and with it all that was buffered under its leases: the state machine refuses whatever it
    /// still sends, also in a later session of its client.
    pub fn end_session(&mut self, session: SessionId) -> Actions {
        let mut actions = Actions::default();
        let inos = self.holders.remove(&session).map(|holder| holder.inos).unwrap_or_default();
        for ino in inos {
            self.end_lease(ino, session);
            self.unblock(ino, session, &mut actions);
        }
        if self.former.remove(&session) {
            self.release_former(&mut actions);
        }
        actions
    }

    /// Sessions from before the start have had their time: what they have not reclaimed breaks.
    pub(super) fn fence_former(&mut self, now: u64, actions: &mut Actions) {
        if now < self.former_until || self.former_fenced {
            return;
        }
        self.former_fenced = true;
        let below = LeaseGeneration(self.run_begins.0 + 1);
        for session in self.former.clone() {
            let holder = self.holders.entry(session).or_insert_with(|| Holder::new(now));
            holder.losses.add_below(below, LeaseMode::Exclusive);
            actions.fences.push((session, Fence::Below(below)));
        }
    }

    pub(super) fn release_former(&mut self, actions: &mut Actions) {
        let former = &self.former;
        actions.ready.extend(self.tickets.release_former(|own| former.iter().all(|s| *s == own)));
    }

    /// The NameNode stood still for this long, and could hear nobody: that time counts for no lease.
    pub fn forgive(&mut self, pause: u64) {
        for holder in self.holders.values_mut() {
            holder.renewed += pause;
        }
        for recall in self.leases.values_mut().flat_map(|lease| &mut lease.recalls) {
            recall.deadline += pause;
        }
        self.deadlines =
            self.deadlines.iter().map(|(at, ino, session)| (at + pause, *ino, *session)).collect();
        self.former_until += pause;
    }
}
