//! Opening and closing inodes, and asking for the right to buffer changes of one.

use super::recalls::Parked;
use super::{Fatal, Owner, refusal};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Attr, FileKind};
use quarry_common::wire::session::{LeaseMode, Reply, Response};
use quarry_namenode_core::leases::{Refusal, Ticket};
use std::time::{Duration, Instant};

/// How long a request for a lease waits while other requests use the inode. The client goes on without it: its write
/// waits for the cluster.
const LEASE_WAIT: Duration = Duration::from_secs(10);

/// A request for a lease that others hold no longer, and that other requests keep it from.
pub(super) struct LeaseWait {
    session: SessionId,
    ino: Ino,
    reply: ClientReplier,
    deadline: Instant,
}

impl Owner {
    /// The session has the inode open from now on. Answers with its attributes.
    pub(super) fn open(&mut self, session: SessionId, ino: Ino, reply: ClientReplier) -> Result<(), Fatal> {
        let there = self.state.attr(ino)?.is_some() && !self.orphans.reaping.contains(&ino);
        if !there {
            reply.send(refusal(FsError::Stale.into()));
            return Ok(());
        }
        // Registered before any wait, so that it cannot be reaped meanwhile.
        if self.clients.opens.open(session, ino).is_err() {
            reply.send(refusal(FsError::NoLocks.into()));
            return Ok(());
        }
        match self.wait_to_read(session, ino)? {
            Ok(Some(ticket)) => self.park(ticket, Parked::Open { session, ino, reply }),
            Ok(None) => self.answer_attr(session, LeaseMode::Shared, ino, reply),
            Err(overloaded) => {
                reply.send(refusal(ServiceError::Unavailable(overloaded.to_string())));
                Ok(())
            }
        }
    }

    /// The session has the inode no longer open.
    pub(super) fn close(&mut self, session: SessionId, ino: Ino) {
        self.release_locks_on(session, ino);
        self.orphans.due |= self.clients.opens.close(session, ino);
    }

    /// The session has these inodes open and no others.
    pub(super) fn restore_opens(&mut self, session: SessionId, open: &[Ino]) -> Result<(), Fatal> {
        self.orphans.due |= self.clients.opens.close_all(session);
        for &ino in open {
            if self.orphans.reaping.contains(&ino) || self.state.attr(ino)?.is_none() {
                tracing::warn!(%session, %ino, "a resumed session has an inode open that is gone");
            } else if self.clients.opens.open(session, ino).is_err() {
                tracing::warn!(%session, "a resumed session has too many inodes open");
                break;
            }
        }
        Ok(())
    }

    /// The session has the inode open, as it says itself. Too many are kept until the session ends.
    pub(super) fn keep_open(&mut self, session: SessionId, ino: Ino) -> Result<(), Fatal> {
        let there = self.state.attr(ino)?.is_some() && !self.orphans.reaping.contains(&ino);
        if there && self.clients.opens.open(session, ino).is_err() {
            tracing::warn!(%session, %ino, "a session has too many inodes open; this one may be freed");
        }
        Ok(())
    }

    /// The session wants to keep changes of a file.
    pub(super) fn lease(&mut self, session: SessionId, ino: Ino, reply: ClientReplier) -> Result<(), Fatal> {
        let now = self.now_ms();
        match self.clients.leasing.table.acquire_queued(now, session, ino) {
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

    /// Nobody else caches the file any more: the request has its turn.
    pub(super) fn lease_is_free(
        &mut self,
        ticket: Ticket,
        (session, ino): (SessionId, Ino),
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let deadline = self.now + LEASE_WAIT;
        self.grant_or_queue(ticket, LeaseWait { session, ino, reply, deadline })
    }

    /// Serves the requests that wait for a lease, in their order.
    pub(super) fn serve_lease_queue(&mut self) -> Result<(), Fatal> {
        if !std::mem::take(&mut self.clients.leasing.stirred) {
            return Ok(());
        }
        for (ticket, wait) in std::mem::take(&mut self.clients.leasing.queue) {
            self.grant_or_queue(ticket, wait)?;
        }
        Ok(())
    }

    fn grant_or_queue(&mut self, ticket: Ticket, wait: LeaseWait) -> Result<(), Fatal> {
        let LeaseWait { session, ino, reply, deadline } = wait;
        if !self.clients.leasing.table.is_ready(ticket) {
            // An earlier request was served, and its lease is being recalled.
            return self.park(ticket, Parked::Lease { session, ino, reply });
        }
        let attr = self.state.attr(ino)?;
        let may = |attr: &Attr| attr.nlink > 0 || self.clients.opens.is_open_by(session, ino);
        let Some(attr) = attr.filter(|attr| attr.kind == FileKind::File && may(attr)) else {
            self.release_ticket(Some(ticket));
            return self.answer_attr(session, LeaseMode::Shared, ino, reply);
        };
        let now = self.now_ms();
        let (result, actions) = self.clients.leasing.table.grant_queued(now, ticket, ino);
        match result {
            Err(Refusal::Busy) if self.now < deadline => {
                self.clients.leasing.queue.insert(ticket, LeaseWait { session, ino, reply, deadline });
            }
            result => {
                self.release_ticket(Some(ticket));
                // Before the recall of the lease that it grants.
                reply.send(Response { result: Ok(Reply::Attr(attr)), leases: result.into_iter().collect() });
            }
        }
        self.carry_out(actions)
    }

    pub(super) fn answer_attr(
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
        let may = attr.nlink > 0 || self.clients.opens.is_open_by(session, ino);
        let leases = self.grant_leases(session, mode, may.then_some(ino))?;
        reply.send(Response { result: Ok(Reply::Attr(attr)), leases });
        Ok(())
    }
}
