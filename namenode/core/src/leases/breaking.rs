//! How leases break: an exclusive one only after that is a durable fact.

use super::holder::Overflow;
use super::{Actions, LeaseTable};
use crate::command::Fence;
use quarry_common::ids::{Ino, LeaseGeneration, SessionId};
use quarry_common::wire::session::{LeaseId, LeaseMode, Losses};
use std::collections::BTreeSet;

impl LeaseTable {
    /// What the session has lost and not acknowledged.
    pub fn losses(&self, session: SessionId) -> Losses {
        self.holders.get(&session).map_or_else(Losses::default, |holder| holder.losses.told())
    }

    /// The session has taken note of losses up to this number. Gives the leases whose fences may be released.
    pub fn acknowledge(&mut self, session: SessionId, number: u64) -> Vec<LeaseId> {
        self.holders.get_mut(&session).map_or_else(Vec::new, |holder| holder.losses.acknowledge(number))
    }

    /// A break is durable: what waited for it may go ahead.
    pub fn fenced(&mut self, session: SessionId, fence: Fence) -> Actions {
        let mut actions = Actions::default();
        let covers = |ino: Ino, generation: LeaseGeneration| match fence {
            Fence::Lease(lease) => lease == LeaseId { ino, generation },
            Fence::Below(below) => generation < below,
        };
        let inos = match fence {
            Fence::Lease(lease) => BTreeSet::from([lease.ino]),
            Fence::Below(_) => self.holders.get(&session).map(|h| h.inos.clone()).unwrap_or_default(),
        };
        for ino in inos {
            let lease = self.leases.get(&(ino, session));
            if lease.is_some_and(|lease| lease.breaking && covers(ino, lease.generation)) {
                self.drop_broken(ino, session, &mut actions);
            }
        }
        if matches!(fence, Fence::Below(_)) && self.former_fenced && self.former.remove(&session) {
            self.release_former(&mut actions);
        }
        actions
    }

    /// Breaks a lease: a shared one at once, an exclusive one when the fence is durable.
    pub(super) fn break_lease(&mut self, ino: Ino, session: SessionId, actions: &mut Actions) {
        let Some((id, mode)) = self.mark_breaking(ino, session) else { return };
        let holder = self.holders.get_mut(&session);
        let overflow = holder.and_then(|holder| holder.losses.add(id, mode));
        if !actions.losers.contains(&session) {
            actions.losers.push(session);
        }
        match mode {
            LeaseMode::Shared => self.drop_broken(ino, session, actions),
            LeaseMode::Exclusive => actions.fences.push((session, Fence::Lease(id))),
        }
        if let Some(Overflow) = overflow {
            self.break_all(session, mode, actions);
        }
    }

    /// From now on nothing renews or recalls the lease. `None` if that is so already.
    fn mark_breaking(&mut self, ino: Ino, session: SessionId) -> Option<(LeaseId, LeaseMode)> {
        let lease = self.leases.get_mut(&(ino, session)).filter(|lease| !lease.breaking)?;
        lease.breaking = true;
        self.order.remove(&lease.used);
        if let Some(first) = lease.recalls.first() {
            self.deadlines.remove(&(first.deadline, ino, session));
        }
        Some((LeaseId { ino, generation: lease.generation }, lease.mode))
    }

    /// The session has lost more leases of a mode than can be told one by one: all of them are broken.
    fn break_all(&mut self, session: SessionId, mode: LeaseMode, actions: &mut Actions) {
        let below = self.next_generation();
        let Some(holder) = self.holders.get_mut(&session) else { return };
        holder.losses.add_below(below, mode);
        if mode == LeaseMode::Exclusive {
            actions.fences.push((session, Fence::Below(below)));
        }
        for ino in holder.inos.clone() {
            let is_of_mode = self.leases.get(&(ino, session)).is_some_and(|lease| lease.mode == mode);
            if is_of_mode && self.mark_breaking(ino, session).is_some() && mode == LeaseMode::Shared {
                self.drop_broken(ino, session, actions);
            }
        }
    }

    /// A broken lease is gone, and what waited for that may go ahead.
    fn drop_broken(&mut self, ino: Ino, session: SessionId, actions: &mut Actions) {
        let lease = self.leases.get(&(ino, session));
        if let (Some(lease), Some(holder)) = (lease, self.holders.get_mut(&session)) {
            holder.remember_late(ino, lease.recalls.iter().map(|recall| recall.number));
        }
        self.end_lease(ino, session);
        actions.broken.push((session, ino));
        self.unblock(ino, session, actions);
    }

    /// A recall was not acknowledged in time. A session that lives could have done so.
    pub(super) fn missed(&mut self, now: u64, session: SessionId, actions: &mut Actions) {
        if self.has_lapsed(now, session) {
            return;
        }
        let term = self.config.term_ms;
        let too_many = self.holders.get_mut(&session).is_some_and(|holder| holder.misses.add(now, term));
        if too_many && !actions.evicted.contains(&session) {
            actions.evicted.push(session);
        }
    }
}
