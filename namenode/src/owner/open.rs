//! Opening and closing inodes, and asking for the right to buffer changes of one.

use super::recalls::Parked;
use super::{Fatal, Owner, refusal};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::FileKind;
use quarry_common::wire::session::{LeaseMode, Reply, Response};
use quarry_namenode_core::leases::Access;

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
            Some(ticket) => self.park(ticket, Parked::Open { session, ino, reply }),
            None => self.answer_attr(session, LeaseMode::Shared, ino, reply),
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
        match self.clients.leasing.table.acquire(now, session, &[(ino, Access::Write)]) {
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
