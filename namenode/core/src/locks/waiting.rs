//! The requests that wait, by inode in order of arrival.

use super::ranges::exclude;
use super::{Owner, Ticket};
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::session::Lock;
use std::collections::{BTreeMap, BTreeSet};

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) owner: Owner,
    pub(super) ino: Ino,
    pub(super) lock: Lock,
}

impl Waiter {
    /// Whether a request of the owner excludes this one.
    pub(super) fn conflicts(&self, owner: Owner, lock: &Lock) -> bool {
        self.owner != owner && exclude(&self.lock, lock)
    }
}

/// All queues. Tickets grow, so their order is the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Queues {
    waiters: BTreeMap<Ticket, Waiter>,
    by_ino: BTreeSet<(Ino, Ticket)>,
    by_owner: BTreeSet<(Owner, Ticket)>,
    last: u64,
}

const FIRST: Ticket = Ticket(0);
const LAST: Ticket = Ticket(u64::MAX);

impl Queues {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn len_of(&self, session: SessionId) -> usize {
        self.in_session(session).count()
    }

    pub(super) fn push(&mut self, waiter: Waiter) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.by_ino.insert((waiter.ino, ticket));
        self.by_owner.insert((waiter.owner, ticket));
        self.waiters.insert(ticket, waiter);
        ticket
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        self.by_ino.remove(&(waiter.ino, ticket));
        self.by_owner.remove(&(waiter.owner, ticket));
        Some(waiter)
    }

    /// Those on an inode, in order of arrival.
    pub(super) fn on(&self, ino: Ino) -> impl Iterator<Item = (Ticket, &Waiter)> {
        self.by_ino.range((ino, FIRST)..=(ino, LAST)).map(|(_, t)| (*t, &self.waiters[t]))
    }

    /// Whether a request of the owner conflicts with one that waits on the inode.
    pub(super) fn conflicts(&self, ino: Ino, owner: Owner, lock: &Lock) -> bool {
        self.on(ino).any(|(_, waiter)| waiter.conflicts(owner, lock))
    }

    /// Those of an owner.
    pub(super) fn of_owner(&self, owner: Owner) -> impl Iterator<Item = &Waiter> {
        self.by_owner.range((owner, FIRST)..=(owner, LAST)).map(|(_, t)| &self.waiters[t])
    }

    pub(super) fn of_owner_on(&self, owner: Owner, ino: Ino) -> Vec<Ticket> {
        let range = self.by_owner.range((owner, FIRST)..=(owner, LAST)).map(|(_, t)| *t);
        range.filter(|t| self.waiters[t].ino == ino).collect()
    }

    pub(super) fn of_session(&self, session: SessionId) -> Vec<Ticket> {
        self.in_session(session).collect()
    }

    pub(super) fn of_session_on(&self, session: SessionId, ino: Ino) -> Vec<Ticket> {
        self.on(ino).filter(|(_, w)| w.owner.session == session).map(|(t, _)| t).collect()
    }

    fn in_session(&self, session: SessionId) -> impl Iterator<Item = Ticket> {
        let first = (Owner { session, owner: 0 }, FIRST);
        let last = (Owner { session, owner: u64::MAX }, LAST);
        self.by_owner.range(first..=last).map(|(_, t)| *t)
    }
}
