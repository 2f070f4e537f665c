//! Requests that want nothing but a lease. Of one inode they are served in their order, each before the later ones.

use super::{Access, Actions, LeaseTable, Overloaded, Refusal, Ticket};
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::session::{LeaseGrant, LeaseMode};

impl LeaseTable {
    /// A request wants an exclusive lease. Once its ticket is ready, it is served with
    /// [`grant_queued`](Self::grant_queued).
    ///
    /// # Errors
    /// When there are [`TICKETS_MAX`](super::TICKETS_MAX) tickets.
    pub fn acquire_queued(
        &mut self,
        now: u64,
        session: SessionId,
        ino: Ino,
    ) -> Result<(Ticket, Actions), Overloaded> {
        let (ticket, actions) = self.acquire(now, session, &[(ino, Access::Write)])?;
        self.tickets.queue(ticket);
        Ok((ticket, actions))
    }

    /// Serves a request whose ticket is ready; it is done then. Later requests for the same inode wait for the lease's
    /// recall, which is among the actions: these are carried out after the answer is sent.
    ///
    /// # Errors
    /// When the lease cannot be had now; `Busy` for as long as other requests use the inode.
    pub fn grant_queued(
        &mut self,
        now: u64,
        ticket: Ticket,
        ino: Ino,
    ) -> (Result<LeaseGrant, Refusal>, Actions) {
        let mut actions = Actions::default();
        let Some(session) = self.tickets.session(ticket).filter(|_| self.is_ready(ticket)) else {
            return (Err(Refusal::Busy), actions);
        };
        let mode = LeaseMode::Exclusive;
        let result = self.try_grant(now, session, ino, mode, Some(ticket), &mut actions);
        if result.is_ok() {
            self.done(ticket);
            for (later, access) in self.tickets.of_others(session, ino) {
                let more = self.extend(now, later, &[(ino, access)]);
                actions.recalls.extend(more.recalls);
            }
        }
        (result, actions)
    }
}
