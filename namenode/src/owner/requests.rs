//! What clients ask for.

use super::lock_waits::LockRequest;
use super::sessions::Holdings;
use super::{Fatal, Owner, refusal, respond};
use crate::events::{ClientReplier, Introduction};
use crate::workers::PageRequest;
use quarry_common::ids::SessionId;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::{Reply, Request};

impl Owner {
    /// A client's request. It is answered at once, or kept until what it waits for is there.
    pub(super) fn client(
        &mut self,
        connection: u64,
        introduction: Option<Introduction>,
        request: Request,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let session = self.clients.registry.heard(connection, self.now);
        if let Some(session) = session {
            self.renew_leases(session);
        }
        match (request, introduction) {
            (Request::OpenSession(info), Some(introduction)) => {
                self.open_session(connection, introduction, info, reply);
            }
            (Request::ResumeSession { session, open, locks, leases }, Some(introduction)) => {
                let holdings = Holdings { open, locks, leases };
                self.resume_session(connection, introduction, session, holdings, reply)?;
            }
            (Request::Placement, _) => {
                respond(reply, Ok(Reply::Placement(self.topology.nodes.placement().clone())))
            }
            (Request::ClusterStatus, _) => {
                let status = self.status()?;
                respond(reply, Ok(Reply::Status(Box::new(status))));
            }
            (Request::FsckStart(options), _) => {
                respond(reply, Ok(Reply::Fsck(self.around.fsck.start(options))));
            }
            (Request::Administer(wanted), _) => self.administer(wanted, reply),
            (Request::Metadata { snapshot, after }, _) => {
                self.around.snapshots.ask(PageRequest { snapshot, after: after.0, reply });
            }
            (Request::FsckPoll { run }, _) => {
                respond(reply, self.around.fsck.poll(run).map(Reply::Fsck).map_err(ServiceError::BadRequest));
            }
            (request, _) => match session {
                Some(session) => self.of_session(session, connection, request, reply)?,
                None => reply.send(refusal(ServiceError::SessionExpired)),
            },
        }
        Ok(())
    }

    /// A request that needs a session.
    fn of_session(
        &mut self,
        session: SessionId,
        connection: u64,
        request: Request,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        // These come by themselves, also from a client whose programs do nothing.
        let upkeep = matches!(
            request,
            Request::Renew { .. }
                | Request::RecallDone { .. }
                | Request::ReturnLeases { .. }
                | Request::BringingIn { .. }
        );
        if !upkeep {
            self.clients.registry.count_request(session);
        }
        match request {
            Request::CloseSession => self.close_session(session, reply),
            Request::Renew { acknowledged } => self.renew(session, acknowledged, reply),
            Request::Query(query) => self.answer_query(session, query, reply)?,
            Request::Mutate { slot, sequence, mutation } => {
                self.mutate(session, (slot, sequence), mutation, reply)?;
            }
            Request::Fate { session: ended, slot, sequence } => {
                let fate = self.fate(session, ended, (slot, sequence))?;
                respond(reply, fate.map(Reply::Fate));
            }
            Request::Open { ino } => self.open(session, ino, reply)?,
            Request::Close { inos } => {
                for ino in inos {
                    self.close(session, ino);
                }
                respond(reply, Ok(Reply::Done));
            }
            Request::SetLock { ino, lock, wait } => {
                self.set_lock(LockRequest { session, connection, ino, lock, wait }, reply);
            }
            Request::TestLock { ino, lock } => self.test_lock(session, ino, &lock, reply),
            Request::CancelLock { ino, owner } => {
                self.cancel_lock(session, ino, owner);
                respond(reply, Ok(Reply::Done));
            }
            Request::AllocChunks { ino, count, avoid } => {
                self.alloc_chunks(session, ino, (count, avoid), reply)?;
            }
            Request::RecallDone { recalls } => {
                self.recalls_done(session, &recalls)?;
                respond(reply, Ok(Reply::Done));
            }
            Request::ReturnLeases { inos } => {
                self.leases_returned(session, &inos)?;
                respond(reply, Ok(Reply::Done));
            }
            Request::BringingIn { ino } => {
                self.clients.leasing.table.progress(self.now_ms(), session, ino);
                respond(reply, Ok(Reply::Done));
            }
            Request::Lease { ino } => self.lease(session, ino, reply)?,
            Request::Changes { after, below, max } => self.changes(connection, (after, below, max), reply),
            Request::OpenSession(_)
            | Request::ResumeSession { .. }
            | Request::Placement
            | Request::ClusterStatus
            | Request::FsckStart(_)
            | Request::FsckPoll { .. }
            | Request::Administer(_)
            | Request::Metadata { .. } => {
                reply.send(refusal(ServiceError::BadRequest("not within a session".to_owned())));
            }
        }
        Ok(())
    }
}
