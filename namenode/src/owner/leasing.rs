//! Leases: recalled before a change goes into the log, granted with answers.
//!
//! ```text
//!   mutation ── acquire ──> ready? ── yes ──────────────> admitted ──> applied ── more inodes? ──> answered
//!                             │ no                            ^           │ not ready
//!                             └─> parked ── acks or terms ────┘           └─> parked ── ... ──> answered
//!
//!   query    ── held exclusively? ── no ─────────────────────────────────────────────────────> answered
//!                             └─> parked ── the holder has committed what it kept ───────────> answered
//! ```
//!
//! The table of leases decides (see [`quarry_namenode_core::leases`]); this is what carries out its decisions.

use super::opens::OpenTable;
use super::proposer::{MutationWaiter, Pending, Waiter};
use super::{Fatal, Owner, millis, refusal};
use crate::handle::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{FileKind, Mutation, MutationReply, Query, QueryReply};
use quarry_common::wire::session::{LeaseGrant, LeaseMode, Push, Reply, Response};
use quarry_namenode_core::Body;
use quarry_namenode_core::leases::{Access, Actions, LeaseConfig, LeaseTable, Recall, Ticket};
use quarry_namenode_core::placement;
use std::collections::{BTreeMap, BTreeSet};

/// Of a directory's page, entries whose leases go with it.
const PAGE_GRANTS_MAX: usize = 1024;
/// Version of an inode that has not changed since it was made.
const FIRST_VERSION: u64 = 1;
/// Nobody: for what the NameNode itself does.
const NOBODY: SessionId = SessionId(0);

/// What waits for leases to end.
enum Parked {
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
    table: LeaseTable,
    parked: BTreeMap<Ticket, Parked>,
    /// Orphans whose leases are being recalled.
    orphans: BTreeSet<Ino>,
    /// Inodes whose leases ended unanswered: their holders may have them open and have not said so.
    kept: OpenTable,
}

impl Leasing {
    /// In the NameNode's run of this number; `former` are the sessions from before the start.
    pub(super) fn new(now_ms: u64, run: u64, former: impl IntoIterator<Item = SessionId>) -> Self {
        Self {
            table: LeaseTable::new(LeaseConfig::default(), now_ms, run, former),
            parked: BTreeMap::new(),
            orphans: BTreeSet::new(),
            kept: OpenTable::default(),
        }
    }

    /// Leases that the session holds.
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.table.count(session)
    }
}

impl Owner {
    /// A request of the session arrived.
    pub(super) fn renew_leases(&mut self, session: SessionId) -> Result<(), Fatal> {
        let now = self.now_ms();
        let actions = self.leasing.table.renew(now, session);
        self.carry_out(actions)
    }

    /// Admits a mutation once no other session caches what it changes.
    pub(super) fn acquire_for(&mut self, session: SessionId, pending: Pending) -> Result<(), Fatal> {
        let now = self.now_ms();
        let inos = self.footprint(&pending.body)?;
        match self.leasing.table.acquire(now, session, &inos) {
            Ok((ticket, actions)) => {
                let pending = with_ticket(pending, ticket);
                self.carry_out(actions)?;
                self.go_ahead_or_park(ticket, pending);
            }
            Err(overloaded) => self.refuse(pending.waiter, &overloaded.to_string()),
        }
        Ok(())
    }

    fn footprint(&self, body: &Body) -> Result<Vec<(Ino, Access)>, Fatal> {
        let Body::Mutate { mutation, .. } = body else { return Ok(Vec::new()) };
        let inos = self.state.footprint(mutation)?;
        let mut inos: Vec<_> = inos.into_iter().map(|ino| (ino, Access::Write)).collect();
        // Data that others keep are copied as well.
        if let Mutation::CopyRange { from, .. } = mutation {
            inos.push((*from, Access::Read));
        }
        Ok(inos)
    }

    fn go_ahead_or_park(&mut self, ticket: Ticket, pending: Pending) {
        if self.leasing.table.is_ready(ticket) {
            self.admit(pending);
        } else {
            self.leasing.parked.insert(ticket, Parked::Mutation(pending));
        }
    }

    /// Answers a mutation that was applied, once no other session caches what it changed.
    pub(super) fn answer_mutation(
        &mut self,
        waiter: MutationWaiter,
        answer: MutationReply,
        changed: &[Ino],
    ) -> Result<(), Fatal> {
        let now = self.now_ms();
        let MutationWaiter { session, reply, ticket, .. } = waiter;
        // Whatever is carried out for a client has acquired what it changes.
        let Some(ticket) = ticket else {
            reply.send(Response { result: Ok(Reply::Mutation(answer)), leases: Vec::new() });
            return Ok(());
        };
        let inos: Vec<_> = changed.iter().map(|ino| (*ino, Access::Write)).collect();
        let actions = self.leasing.table.extend(now, ticket, &inos);
        if self.leasing.table.is_ready(ticket) {
            self.carry_out(actions)?;
            self.finish(ticket, session, reply, answer)
        } else {
            self.leasing.parked.insert(ticket, Parked::Answer { session, reply, answer });
            self.carry_out(actions)
        }
    }

    /// The mutation failed, or was not carried out.
    pub(super) fn release_ticket(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.leasing.table.done(ticket);
        }
    }

    fn finish(
        &mut self,
        ticket: Ticket,
        session: SessionId,
        reply: ClientReplier,
        answer: MutationReply,
    ) -> Result<(), Fatal> {
        self.release_ticket(Some(ticket));
        let attr = match &answer {
            MutationReply::Attr(attr) | MutationReply::Removed(attr) => attr,
            MutationReply::Renamed { moved, .. } => moved,
            MutationReply::Committed { attr, .. } | MutationReply::Copied { attr, .. } => attr,
        };
        let is_open = self.opens.is_open_by(session, attr.ino);
        // Nobody else can know a file that was just made and opened, and its maker is about to write.
        let fresh = attr.version == FIRST_VERSION && attr.kind == FileKind::File && is_open;
        let mode = if fresh { LeaseMode::Exclusive } else { LeaseMode::Shared };
        let ino = (attr.nlink > 0 || is_open).then_some(attr.ino);
        let leases = self.grant_leases(session, mode, ino)?;
        reply.send(Response { result: Ok(Reply::Mutation(answer)), leases });
        Ok(())
    }

    /// Answers a query, after everybody who keeps changes of what it shows has brought them in.
    pub(super) fn answer_query(
        &mut self,
        session: SessionId,
        query: Query,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let mut result = self.state.query(&query)?;
        self.feed.passed(&query, &result);
        if let Some(ino) = shown(&query, &result)
            && let Some(ticket) = self.wait_to_read(session, ino)?
        {
            return self.park(ticket, Parked::Query { session, query, reply });
        }
        match &mut result {
            Ok(QueryReply::StatFs(statfs)) => {
                let policy = self.state.meta().default_replication;
                (statfs.capacity, statfs.free) =
                    placement::capacity(&self.nodes.views(self.now), self.nodes.timing(self.now), policy);
            }
            // Of files whose changes others keep, only the names: who wants to know more asks for each.
            Ok(QueryReply::Entries { entries, .. }) => {
                for entry in entries.iter_mut().filter(|e| e.kind == FileKind::File) {
                    if self.leasing.table.is_kept_by_other(session, entry.ino) {
                        entry.attr = None;
                    }
                }
            }
            _ => {}
        }
        let leases = self.leases_for(session, &query, &result)?;
        let result = result.map(Reply::Query).map_err(ServiceError::from);
        reply.send(Response { result, leases });
        Ok(())
    }

    /// The session has the inode open from now on. Answers with its attributes.
    pub(super) fn open(&mut self, session: SessionId, ino: Ino, reply: ClientReplier) -> Result<(), Fatal> {
        let there = self.state.attr(ino)?.is_some() && !self.reaping.contains(&ino);
        if !there {
            reply.send(refusal(FsError::Stale.into()));
            return Ok(());
        }
        // Registered before any wait, so that it cannot be reaped meanwhile.
        if self.opens.open(session, ino).is_err() {
            reply.send(refusal(FsError::NoLocks.into()));
            return Ok(());
        }
        match self.wait_to_read(session, ino)? {
            Some(ticket) => self.park(ticket, Parked::Open { session, ino, reply }),
            None => self.answer_attr(session, LeaseMode::Shared, ino, reply),
        }
    }

    /// The session wants to keep changes of a file.
    pub(super) fn lease(&mut self, session: SessionId, ino: Ino, reply: ClientReplier) -> Result<(), Fatal> {
        let now = self.now_ms();
        match self.leasing.table.acquire(now, session, &[(ino, Access::Write)]) {
            Ok((ticket, actions)) => {
                self.carry_out(actions)?;
                self.park(ticket, Parked::Lease { session, ino, reply })
            }
            Err(overloaded) => {
                reply.send(refusal(ServiceError::Unavailable(overloaded.to_string())));
                Ok(())
            }
        }
    }

    fn answer_attr(
        &mut self,
        session: SessionId,
        mode: LeaseMode,
        ino: Ino,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let Some(attr) = self.state.attr(ino)? else {
            reply.send(refusal(FsError::Stale.into()));
            return Ok(());
        };
        let mode = if attr.kind == FileKind::File { mode } else { LeaseMode::Shared };
        let may = attr.nlink > 0 || self.opens.is_open_by(session, ino);
        let leases = self.grant_leases(session, mode, may.then_some(ino))?;
        reply.send(Response { result: Ok(Reply::Attr(attr)), leases });
        Ok(())
    }

    /// A ticket to wait with, if another session keeps changes of the inode.
    fn wait_to_read(&mut self, session: SessionId, ino: Ino) -> Result<Option<Ticket>, Fatal> {
        if !self.leasing.table.is_kept_by_other(session, ino) {
            return Ok(None);
        }
        let now = self.now_ms();
        // With too many requests under way it does not wait, as after the end of the lease's term.
        let Ok((ticket, actions)) = self.leasing.table.acquire(now, session, &[(ino, Access::Read)]) else {
            return Ok(None);
        };
        self.carry_out(actions)?;
        Ok(Some(ticket))
    }

    /// Keeps something until its ticket is ready, which it may be already.
    fn park(&mut self, ticket: Ticket, parked: Parked) -> Result<(), Fatal> {
        if self.leasing.table.is_ready(ticket) {
            return self.unpark(ticket, parked);
        }
        self.leasing.parked.insert(ticket, parked);
        Ok(())
    }

    /// Leases for what the answer to a query says.
    pub(super) fn leases_for(
        &mut self,
        session: SessionId,
        query: &Query,
        result: &Result<QueryReply, FsError>,
    ) -> Result<Vec<LeaseGrant>, Fatal> {
        let asked = match query {
            Query::Lookup { parent, .. } => *parent,
            Query::Attr { ino }
            | Query::Parent { ino }
            | Query::ReadDir { ino, .. }
            | Query::ReadLink { ino }
            | Query::GetXattr { ino, .. }
            | Query::ListXattr { ino }
            | Query::Layout { ino, .. }
            | Query::NextWindow { ino, .. } => *ino,
            Query::Chunks { .. } | Query::StatFs => return Ok(Vec::new()),
        };
        // Without a name it is about to be reaped, which leases would hold up for ever.
        let is_orphan = match result {
            Ok(QueryReply::Attr(attr) | QueryReply::Layout { attr, .. }) if attr.ino == asked => {
                attr.nlink == 0
            }
            _ => self.state.inode(asked)?.is_none_or(|inode| inode.nlink == 0),
        };
        if is_orphan && !self.opens.is_open_by(session, asked) {
            return Ok(Vec::new());
        }
        let mut inos = vec![asked];
        match result {
            Ok(QueryReply::Attr(attr)) if attr.ino != asked => inos.push(attr.ino),
            Ok(QueryReply::Entries { entries, .. }) => {
                let known = entries.iter().filter(|e| e.attr.is_some());
                inos.extend(known.take(PAGE_GRANTS_MAX).map(|e| e.ino));
            }
            Ok(_) => {}
            // That a name or an attribute is absent may be cached.
            Err(FsError::NotFound | FsError::NoAttribute) => {}
            Err(_) => return Ok(Vec::new()),
        }
        self.grant_leases(session, LeaseMode::Shared, inos)
    }

    fn grant_leases(
        &mut self,
        session: SessionId,
        mode: LeaseMode,
        inos: impl IntoIterator<Item = Ino>,
    ) -> Result<Vec<LeaseGrant>, Fatal> {
        let now = self.now_ms();
        let mut granted = Vec::new();
        let mut todo = Vec::new();
        for ino in inos {
            let (result, actions) = self.leasing.table.grant(now, session, ino, mode);
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
            let (ino, actions) = self.leasing.table.ack(session, number);
            if let Some(ino) = ino {
                if open {
                    self.keep_open(session, ino)?;
                }
                // An answer after the end of the lease: now it is known whether the inode is open.
                self.reap_due |= self.leasing.kept.close(session, ino);
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
            let actions = self.leasing.table.give_back(session, &[ino]);
            self.carry_out(actions)?;
        }
        Ok(())
    }

    /// The session has the inode open, as it says itself. Too many are kept until the session ends.
    fn keep_open(&mut self, session: SessionId, ino: Ino) -> Result<(), Fatal> {
        let there = self.state.attr(ino)?.is_some() && !self.reaping.contains(&ino);
        if there && self.opens.open(session, ino).is_err() {
            tracing::warn!(%session, %ino, "a session has too many inodes open; this one may be freed");
        }
        Ok(())
    }

    /// The session goes on, without any lease.
    pub(super) fn leases_of_resumed(&mut self, session: SessionId) -> Result<(), Fatal> {
        let now = self.now_ms();
        self.reap_due |= self.leasing.kept.close_all(session);
        let actions = self.leasing.table.resume(now, session);
        self.carry_out(actions)
    }

    /// The session has ended.
    pub(super) fn leases_of_ended(&mut self, session: SessionId) -> Result<(), Fatal> {
        self.reap_due |= self.leasing.kept.close_all(session);
        let actions = self.leasing.table.end_session(session);
        self.carry_out(actions)
    }

    /// Ends leases whose holders have not answered in time.
    pub(super) fn tick_leases(&mut self) -> Result<(), Fatal> {
        let now = self.now_ms();
        let actions = self.leasing.table.tick(now);
        self.carry_out(actions)
    }

    /// Whether somebody may have the orphan open under a lease. If so its leases are recalled: the answers will tell.
    pub(super) fn is_leased(&mut self, ino: Ino) -> Result<bool, Fatal> {
        let now = self.now_ms();
        if self.leasing.kept.is_open(ino) || self.leasing.orphans.contains(&ino) {
            return Ok(true);
        }
        if self.leasing.table.holders(ino).next().is_none() {
            return Ok(false);
        }
        // With too many requests under way, the next look tries again.
        let Ok((ticket, actions)) = self.leasing.table.acquire(now, NOBODY, &[(ino, Access::Write)]) else {
            self.reap_due = true;
            return Ok(true);
        };
        self.leasing.orphans.insert(ino);
        self.leasing.parked.insert(ticket, Parked::Orphan(ino));
        self.carry_out(actions)?;
        Ok(true)
    }

    /// Does what the table says. Recalls go out before any later answer: all leave through this thread.
    fn carry_out(&mut self, actions: Actions) -> Result<(), Fatal> {
        let Actions { recalls, ready, broken } = actions;
        for Recall { session, number, ino, keep } in recalls {
            // A session without a connection does not get it; its leases end by their term.
            if let Some(pusher) = self.registry.pusher(session) {
                pusher.push(Push::Recall { number, ino, keep });
            }
        }
        for (session, ino) in broken {
            if self.leasing.kept.open(session, ino).is_err() {
                tracing::warn!(%session, %ino, "too many leases of a session ended unanswered");
            }
        }
        for ticket in ready {
            if let Some(parked) = self.leasing.parked.remove(&ticket) {
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
                let mut actions = self.leasing.table.extend(now, ticket, &inos);
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
            Parked::Lease { session, ino, reply } => {
                self.release_ticket(Some(ticket));
                self.answer_attr(session, LeaseMode::Exclusive, ino, reply)
            }
            Parked::Orphan(ino) => {
                self.leasing.orphans.remove(&ino);
                self.leasing.table.done(ticket);
                self.reap_due = true;
                Ok(())
            }
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.uptime())
    }
}

/// The file whose attributes or data an answer shows.
fn shown(query: &Query, result: &Result<QueryReply, FsError>) -> Option<Ino> {
    match (query, result) {
        (_, Ok(QueryReply::Attr(attr) | QueryReply::Layout { attr, .. })) => {
            (attr.kind == FileKind::File).then_some(attr.ino)
        }
        // What changes of data do to these waits with them.
        (Query::GetXattr { ino, .. } | Query::ListXattr { ino }, _) => Some(*ino),
        _ => None,
    }
}

fn with_ticket(mut pending: Pending, ticket: Ticket) -> Pending {
    if let Waiter::Mutation(waiter) = &mut pending.waiter {
        waiter.ticket = Some(ticket);
    }
    pending
}
