//! A mutation from its request to its reply.
//!
//! ```text
//!   mutate ── acquire ──> ready? ── yes ──> admitted ──> log ──> mutated ── more inodes? ──> finish
//!                           │ no               ^                    │ not ready                 ^
//!                           └─> parked ────────┘                    └─> parked ─────────────────┘
//! ```

use super::proposer::{MutationWaiter, Pending, Waiter};
use super::recalls::Parked;
use super::{Fatal, Owner, refusal};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FileKind, Mutation, MutationReply, NewNode};
use quarry_common::wire::session::{LeaseMode, Reply, Response};
use quarry_namenode_core::leases::{Access, Ticket};
use quarry_namenode_core::{Body, Outcome};

/// Version of an inode that has not changed since it was made.
const FIRST_VERSION: u64 = 1;

impl Owner {
    /// A client's mutation.
    pub(super) fn mutate(
        &mut self,
        session: SessionId,
        (slot, sequence): (u16, u64),
        mutation: Mutation,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        if let Mutation::Commit(commit) = &mutation
            && commit.lease.is_some()
        {
            self.clients.leasing.table.progress(self.now_ms(), session, commit.ino);
        }
        let opens = matches!(mutation, Mutation::Create { node: NewNode::File { open: true }, .. });
        let waiter = Waiter::Mutation(MutationWaiter { session, reply, opens, ticket: None });
        let body = Body::Mutate { session, slot, sequence, mutation };
        self.acquire_for(session, Pending { body, waiter })
    }

    /// Admits a mutation once no other session caches what it changes.
    fn acquire_for(&mut self, session: SessionId, pending: Pending) -> Result<(), Fatal> {
        let now = self.now_ms();
        let inos = self.footprint(&pending.body)?;
        match self.clients.leasing.table.acquire(now, session, &inos) {
            Ok((ticket, actions)) => {
                let pending = with_ticket(pending, ticket);
                self.carry_out(actions)?;
                self.go_ahead_or_park(ticket, pending);
            }
            Err(overloaded) => self.refuse(pending.waiter, &overloaded.to_string()),
        }
        Ok(())
    }

    pub(super) fn footprint(&self, body: &Body) -> Result<Vec<(Ino, Access)>, Fatal> {
        let Body::Mutate { mutation, .. } = body else { return Ok(Vec::new()) };
        let inos = self.state.footprint(mutation)?;
        let mut inos: Vec<_> = inos.into_iter().map(|ino| (ino, Access::Write)).collect();
        // Data that others keep are copied as well.
        if let Mutation::CopyRange { from, .. } = mutation {
            inos.push((*from, Access::Read));
        }
        Ok(inos)
    }

    pub(super) fn go_ahead_or_park(&mut self, ticket: Ticket, pending: Pending) {
        if self.clients.leasing.table.is_ready(ticket) {
            self.admit(pending);
        } else {
            self.clients.leasing.parked.insert(ticket, Parked::Mutation(pending));
        }
    }

    pub(super) fn mutated(
        &mut self,
        waiter: MutationWaiter,
        outcome: Outcome,
        changed: &[Ino],
    ) -> Result<(), Fatal> {
        let Outcome::Mutation(mut result) = outcome else {
            unreachable!("a mutation gives its own outcome, not {outcome:?}");
        };
        if waiter.opens
            && let Ok(MutationReply::Attr(attr)) = &result
            && self.clients.registry.is_live(waiter.session)
            && self.clients.opens.open(waiter.session, attr.ino).is_err()
        {
            result = Err(FsError::NoLocks.into());
        }
        match result {
            Ok(answer) => self.answer_mutation(waiter, answer, changed),
            Err(error) => {
                self.release_ticket(waiter.ticket);
                waiter.reply.send(refusal(error));
                Ok(())
            }
        }
    }

    /// Answers a mutation that was applied, once no other session caches what it changed.
    fn answer_mutation(
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
        let actions = self.clients.leasing.table.extend(now, ticket, &inos);
        if self.clients.leasing.table.is_ready(ticket) {
            self.carry_out(actions)?;
            self.finish(ticket, session, reply, answer)
        } else {
            self.clients.leasing.parked.insert(ticket, Parked::Answer { session, reply, answer });
            self.carry_out(actions)
        }
    }

    pub(super) fn finish(
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
        let is_open = self.clients.opens.is_open_by(session, attr.ino);
        // Nobody else can know a file that was just made and opened, and its maker is about to write.
        let fresh = attr.version == FIRST_VERSION && attr.kind == FileKind::File && is_open;
        let mode = if fresh { LeaseMode::Exclusive } else { LeaseMode::Shared };
        // The answer may have waited while others changed the inode: a lease goes only with what is still so.
        let is_current = self.state.inode(attr.ino)?.is_some_and(|inode| inode.version == attr.version);
        let ino = (is_current && (attr.nlink > 0 || is_open)).then_some(attr.ino);
        let leases = self.grant_leases(session, mode, ino)?;
        reply.send(Response { result: Ok(Reply::Mutation(answer)), leases });
        Ok(())
    }
}

fn with_ticket(mut pending: Pending, ticket: Ticket) -> Pending {
    if let Waiter::Mutation(waiter) = &mut pending.waiter {
        waiter.ticket = Some(ticket);
    }
    pending
}
