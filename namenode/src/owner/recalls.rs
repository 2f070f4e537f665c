//! Leases: recalled before a conflicting request goes ahead, granted with answers.
//!
//! The table of leases decides (see [`quarry_namenode_core::leases`]); this is what carries out its decisions. A request
//! whose ticket is not ready is parked here, and goes on where it was parked from.

use super::open::LeaseWait;
use super::open_table::OpenTable;
use super::proposer::{Pending, Waiter};
use super::{Fatal, Owner, millis, respond};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::fs::{MutationReply, Query};
use quarry_common::wire::session::{LeaseGrant, LeaseId, LeaseMode, Losses, Push, Reply};
use quarry_host::metrics::table::NAMENODE_RECALLS;
use quarry_namenode_core::leases::{
    Access, Actions, LeaseConfig, LeaseTable, MISSES_MAX, Overloaded, Recall, Ticket,
};
use quarry_namenode_core::{Body, Fence};
use std::collections::{BTreeMap, BTreeSet};

/// What waits for leases to end.
pub(super) enum Parked {
    /// To go into the log.
    Mutation(Pending),
    /// To be asked again, once nobody keeps changes of what it shows.
    Query { session: SessionId, query: Query, reply: ClientReplier },
    /// The same, for opening a file.
    Open { session: SessionId, ino: Ino, reply: ClientReplier },
    /// To be granted an exclusive lease.
    Lease { session: SessionId, ino: Ino, reply: ClientReplier },
    /// Applied, to be answered.
    Answer { session: SessionId, reply: ClientReplier, answer: MutationReply },
    /// An inode without a name, to be reaped.
    Orphan(Ino),
}

/// All leases and what waits for some to end.
pub(super) struct Leasing {
    pub(super) table: LeaseTable,
    pub(super) parked: BTreeMap<Ticket, Parked>,
    /// Orphans whose leases are being recalled.
    pub(super) orphans: BTreeSet<Ino>,
    /// Inodes whose leases ended unanswered: their holders may have them open and have not said so.
    pub(super) kept: OpenTable,
    /// Requests that want nothing but a lease, and have to wait for others.
    pub(super) queue: BTreeMap<Ticket, LeaseWait>,
    /// Some of them may be served now.
    pub(super) stirred: bool,
    /// Breaks that the log has not taken, to be proposed again.
    pub(super) unfenced: Vec<(SessionId, Fence)>,
}

impl Leasing {
    /// In the NameNode's run of this number; `former` are the sessions from before the start.
    pub(super) fn new(now_ms: u64, run: u64, former: impl IntoIterator<Item = SessionId>) -> Self {
        Self {
            table: LeaseTable::new(LeaseConfig::default(), now_ms, run, former),
            parked: BTreeMap::new(),
            orphans: BTreeSet::new(),
            kept: OpenTable::default(),
            queue: BTreeMap::new(),
            stirred: false,
            unfenced: Vec::new(),
        }
    }

    /// Leases that the session holds.
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.table.count(session)
    }
}

impl Owner {
    /// A request of the session arrived.
    pub(super) fn renew_leases(&mut self, session: SessionId) {
        let now = self.now_ms();
        self.clients.leasing.table.renew(now, session);
    }

    /// The session shows that it lives, and has taken note of its losses up to a number.
    pub(super) fn renew(&mut self, session: SessionId, acknowledged: u64, reply: ClientReplier) {
        let leases = self.clients.leasing.table.acknowledge(session, acknowledged);
        if !leases.is_empty() {
            let body = Body::ReleaseFences { session, leases };
            self.admit(Pending { body, waiter: Waiter::Nothing });
        }
        respond(reply, Ok(Reply::Renewed(self.clients.leasing.table.losses(session))));
    }

    /// A ticket to wait with, if another session keeps changes of the inode.
    pub(super) fn wait_to_read(
        &mut self,
        session: SessionId,
        ino: Ino,
    ) -> Result<Result<Option<Ticket>, Overloaded>, Fatal> {
        if !self.clients.leasing.table.must_acquire_to_read(session, ino) {
            return Ok(Ok(None));
        }
        let now = self.now_ms();
        match self.clients.leasing.table.acquire(now, session, &[(ino, Access::Read)]) {
            Ok((ticket, actions)) => {
                self.carry_out(actions)?;
                Ok(Ok(Some(ticket)))
            }
            Err(overloaded) => Ok(Err(overloaded)),
        }
    }

    /// Keeps something until its ticket is ready, which it may be already.
    pub(super) fn park(&mut self, ticket: Ticket, parked: Parked) -> Result<(), Fatal> {
        if self.clients.leasing.table.is_ready(ticket) {
            return self.unpark(ticket, parked);
        }
        self.clients.leasing.parked.insert(ticket, parked);
        Ok(())
    }

    /// The mutation failed, or was not carried out.
    pub(super) fn release_ticket(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.clients.leasing.table.done(ticket);
            self.clients.leasing.stirred = true;
        }
    }

    pub(super) fn grant_leases(
        &mut self,
        session: SessionId,
        mode: LeaseMode,
        inos: impl IntoIterator<Item = Ino>,
    ) -> Result<Vec<LeaseGrant>, Fatal> {
        let now = self.now_ms();
        let mut granted = Vec::new();
        let mut todo = Vec::new();
        for ino in inos {
            let (result, actions) = self.clients.leasing.table.grant(now, session, ino, mode);
            granted.extend(result);
            if actions != Actions::default() {
                todo.push(actions);
            }
        }
        for actions in todo {
            self.carry_out(actions)?;
        }
        Ok(granted)
    }

    /// The client has dropped what recalls asked for; the flag says that it has the inode open.
    pub(super) fn recalls_done(&mut self, session: SessionId, recalls: &[(u64, bool)]) -> Result<(), Fatal> {
        for &(number, open) in recalls {
            let (ino, actions) = self.clients.leasing.table.ack(session, number);
            if let Some(ino) = ino {
                if open {
                    self.keep_open(session, ino)?;
                }
                // An answer after the end of the lease: now it is known whether the inode is open.
                self.orphans.due |= self.clients.leasing.kept.close(session, ino);
            }
            self.carry_out(actions)?;
        }
        Ok(())
    }

    /// The client gives leases back by itself.
    pub(super) fn leases_returned(&mut self, session: SessionId, inos: &[(Ino, bool)]) -> Result<(), Fatal> {
        for &(ino, open) in inos {
            if open {
                self.keep_open(session, ino)?;
            }
            let actions = self.clients.leasing.table.give_back(session, &[ino]);
            self.carry_out(actions)?;
        }
        Ok(())
    }

    /// The session goes on, with the leases that it reclaims and gets back. Gives what it has lost.
    pub(super) fn leases_of_resumed(
        &mut self,
        session: SessionId,
        reclaims: &[LeaseId],
    ) -> Result<Losses, Fatal> {
        let now = self.now_ms();
        self.orphans.due |= self.clients.leasing.kept.close_all(session);
        let fences = self.state.fences(session)?;
        let record = self.state.session(session)?.filter(|record| record.fenced_below > record.began_at);
        let below = record.map(|record| record.fenced_below).unwrap_or_default();
        let actions = self.clients.leasing.table.resume(now, session, reclaims, (&fences, below));
        self.carry_out(actions)?;
        Ok(self.clients.leasing.table.losses(session))
    }

    /// A break is durable.
    pub(super) fn fenced(&mut self, session: SessionId, fence: Fence) -> Result<(), Fatal> {
        let actions = self.clients.leasing.table.fenced(session, fence);
        self.carry_out(actions)
    }

    fn propose_fence(&mut self, session: SessionId, fence: Fence) {
        let waiter = Waiter::Fence { session, fence };
        self.admit(Pending { body: Body::Fence { session, fence }, waiter });
    }

    /// The session has ended.
    pub(super) fn leases_of_ended(&mut self, session: SessionId) -> Result<(), Fatal> {
        self.orphans.due |= self.clients.leasing.kept.close_all(session);
        let actions = self.clients.leasing.table.end_session(session);
        self.carry_out(actions)
    }

    /// Breaks leases whose holders have not answered in time.
    pub(super) fn tick_leases(&mut self) -> Result<(), Fatal> {
        for (session, fence) in std::mem::take(&mut self.clients.leasing.unfenced) {
            self.propose_fence(session, fence);
        }
        self.clients.leasing.stirred = true;
        let now = self.now_ms();
        let actions = self.clients.leasing.table.tick(now);
        self.carry_out(actions)
    }

    /// Does what the table says. Recalls go out before any later answer: all leave through this thread.
    pub(super) fn carry_out(&mut self, actions: Actions) -> Result<(), Fatal> {
        let Actions { recalls, ready, broken, fences, losers, evicted } = actions;
        for session in losers {
            tracing::warn!(%session, "leases are broken: the session has not answered in time");
            // A session without a connection is told when it resumes.
            if let Some(pusher) = self.clients.registry.pusher(session) {
                pusher.push(Push::Lost(self.clients.leasing.table.losses(session)));
            }
        }
        NAMENODE_RECALLS.add(&[], recalls.len() as u64);
        for Recall { session, number, ino, keep } in recalls {
            // A session without a connection does not get it; its leases end by their term.
            if let Some(pusher) = self.clients.registry.pusher(session) {
                pusher.push(Push::Recall { number, ino, keep });
            }
        }
        for (session, ino) in broken {
            if self.clients.leasing.kept.open(session, ino).is_err() {
                tracing::warn!(%session, %ino, "too many leases of a session ended unanswered");
            }
        }
        for (session, fence) in fences {
            self.propose_fence(session, fence);
        }
        for session in evicted {
            tracing::error!(%session, "evicted: its client lives, and has not acknowledged {MISSES_MAX} recalls");
            self.end_session(session);
        }
        for ticket in ready {
            if let Some(parked) = self.clients.leasing.parked.remove(&ticket) {
                self.unpark(ticket, parked)?;
            }
        }
        Ok(())
    }

    fn unpark(&mut self, ticket: Ticket, parked: Parked) -> Result<(), Fatal> {
        match parked {
            Parked::Mutation(pending) => {
                // What it changes may have become more while it waited.
                let now = self.now_ms();
                let inos = self.footprint(&pending.body)?;
                let mut actions = self.clients.leasing.table.extend(now, ticket, &inos);
                actions.ready.retain(|other| *other != ticket);
                self.carry_out(actions)?;
                self.go_ahead_or_park(ticket, pending);
                Ok(())
            }
            Parked::Answer { session, reply, answer } => self.finish(ticket, session, reply, answer),
            Parked::Query { session, query, reply } => {
                self.release_ticket(Some(ticket));
                self.answer_query(session, query, reply)
            }
            Parked::Open { session, ino, reply } => {
                self.release_ticket(Some(ticket));
                self.answer_attr(session, LeaseMode::Shared, ino, reply)
            }
            Parked::Lease { session, ino, reply } => self.lease_is_free(ticket, (session, ino), reply),
            Parked::Orphan(ino) => {
                self.clients.leasing.orphans.remove(&ino);
                self.clients.leasing.table.done(ticket);
                self.orphans.due = true;
                Ok(())
            }
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        millis(self.uptime())
    }
}
