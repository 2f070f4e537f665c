//! The requests that have acquired inodes or wait for them.

use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::session::LeaseMode;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers the requests. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a request does with an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Looks at it: nobody else may have changes that wait.
    Read,
    /// Changes it: nobody else may have it in a cache.
    Write,
}

#[derive(Debug)]
struct Request {
    session: SessionId,
    inos: BTreeMap<Ino, Access>,
    /// Leases that are in the way.
    blockers: BTreeSet<(Ino, SessionId)>,
    /// Sessions from before the start are in the way.
    former: bool,
    /// It wants nothing but a lease: later ones of its kind are not in its way.
    is_queued: bool,
}

impl Request {
    fn is_ready(&self) -> bool {
        self.blockers.is_empty() && !self.former
    }
}

#[derive(Debug, Default)]
pub(super) struct Tickets {
    requests: BTreeMap<Ticket, Request>,
    by_ino: BTreeSet<(Ino, Ticket)>,
    last: u64,
}

impl Tickets {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn is_ready(&self, ticket: Ticket) -> bool {
        self.requests.get(&ticket).is_some_and(Request::is_ready)
    }

    pub(super) fn session(&self, ticket: Ticket) -> Option<SessionId> {
        self.requests.get(&ticket).map(|r| r.session)
    }

    pub(super) fn open(&mut self, session: SessionId, former: bool) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let request =
            Request { session, inos: BTreeMap::new(), blockers: BTreeSet::new(), former, is_queued: false };
        self.requests.insert(ticket, request);
        ticket
    }

    pub(super) fn add(&mut self, ticket: Ticket, ino: Ino, access: Access) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            let known = request.inos.entry(ino).or_insert(access);
            *known = access.max(*known);
            self.by_ino.insert((ino, ticket));
        }
    }

    pub(super) fn block(&mut self, ticket: Ticket, ino: Ino, holder: SessionId) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.blockers.insert((ino, holder));
        }
    }

    pub(super) fn close(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.remove(&ticket) {
            for ino in request.inos.keys() {
                self.by_ino.remove(&(*ino, ticket));
            }
        }
    }

    /// The request wants nothing but a lease.
    pub(super) fn queue(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.is_queued = true;
        }
    }

    /// Whether requests of other sessions forbid to grant a lease, to go with an answer or to the queued request `own`.
    pub(super) fn exclude(&self, session: SessionId, ino: Ino, mode: LeaseMode, own: Option<Ticket>) -> bool {
        self.on(ino).any(|ticket| {
            self.requests.get(&ticket).is_some_and(|r| {
                let is_later = r.is_queued && own.is_some_and(|own| own < ticket);
                !is_later
                    && r.session != session
                    && (mode == LeaseMode::Exclusive || r.inos.get(&ino) == Some(&Access::Write))
            })
        })
    }

    /// The requests of other sessions that acquire an inode.
    pub(super) fn of_others(&self, session: SessionId, ino: Ino) -> Vec<(Ticket, Access)> {
        let requests = self.on(ino).filter_map(|ticket| Some((ticket, self.requests.get(&ticket)?)));
        let others = requests.filter(|(_, request)| request.session != session);
        others.filter_map(|(ticket, request)| Some((ticket, *request.inos.get(&ino)?))).collect()
    }

    /// A lease changed: those that it is no longer in the way of need not wait for it. Returns those that became ready.
    pub(super) fn unblock(
        &mut self,
        ino: Ino,
        holder: SessionId,
        still: impl Fn(Access) -> bool,
    ) -> Vec<Ticket> {
        let waiting: Vec<_> = self.on(ino).collect();
        waiting
            .into_iter()
            .filter(|ticket| {
                self.requests.get_mut(ticket).is_some_and(|r| {
                    let blocked = r.inos.get(&ino).is_some_and(|access| still(*access));
                    !blocked && r.blockers.remove(&(ino, holder)) && r.is_ready()
                })
            })
            .collect()
    }

    /// Sessions from before the start are no longer in the way of those whose own session passes the test.
    pub(super) fn release_former(&mut self, free: impl Fn(SessionId) -> bool) -> Vec<Ticket> {
        let mut ready = Vec::new();
        for (ticket, request) in self.requests.iter_mut().filter(|(_, r)| r.former && free(r.session)) {
            request.former = false;
            if request.is_ready() {
                ready.push(*ticket);
            }
        }
        ready
    }

    fn on(&self, ino: Ino) -> impl Iterator<Item = Ticket> {
        self.by_ino.range((ino, Ticket(0))..=(ino, Ticket(u64::MAX))).map(|(_, ticket)| *ticket)
    }
}
