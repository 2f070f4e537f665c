//! The life of sessions.

use super::proposer::{Pending, Waiter};
use super::recalls::Leasing;
use super::registry::NotResumed;
use super::{Fatal, Owner, millis, refusal, respond};
use crate::events::{ClientReplier, Introduction};
use quarry_common::ids::{Ino, SessionId};
use quarry_common::limits::RECLAIMS_MAX;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::{ClientInfo, Fate, LeaseId, Lock, Losses, Reply};
use quarry_namenode_core::{Body, Outcome};

/// Sessions that one certificate may have. Those of clients that died count until they expire, so it is more than one certificate
/// has connections.
const SESSIONS_OF_ONE: usize = 256;
/// Longest host name and purpose (a mount point, say) of a session.
const TEXT_MAX: usize = 4096;

/// What a client says that it holds when it resumes its session.
pub(super) struct Holdings {
    pub(super) open: Vec<Ino>,
    pub(super) locks: Vec<(Ino, Lock)>,
    pub(super) leases: Vec<LeaseId>,
}

impl Owner {
    /// The log is applied as far as it went when this NameNode started: sessions that there are now may be resumed, and
    /// nodes will be heard. `run` numbers this run.
    pub(crate) fn caught_up_with_log(&mut self, run: u64) -> Result<(), Fatal> {
        self.topology.nodes.listen(self.now, run);
        self.serving_since = (self.state.meta().clock, self.now);
        for (session, record) in self.state.sessions()? {
            self.clients.registry.recover(session, record.owner, self.now);
        }
        let former = self.state.sessions()?.into_iter().map(|(session, _)| session);
        self.clients.leasing = Leasing::new(millis(self.uptime()), run, former);
        self.clients.in_grace = self.clients.registry.recovering() > 0;
        if self.clients.in_grace {
            let sessions = self.clients.registry.recovering();
            tracing::info!(sessions, "waiting for the sessions from before the start");
        }
        Ok(())
    }

    pub(super) fn open_session(
        &mut self,
        connection: u64,
        introduction: Introduction,
        info: ClientInfo,
        reply: ClientReplier,
    ) {
        if self.clients.registry.heard(connection, self.now).is_some() {
            let why = "this connection has a session".to_owned();
            return reply.send(refusal(ServiceError::BadRequest(why)));
        }
        if info.host.len() > TEXT_MAX || info.purpose.len() > TEXT_MAX {
            let why = format!("host and purpose may have {TEXT_MAX} bytes");
            return reply.send(refusal(ServiceError::BadRequest(why)));
        }
        if self.clients.registry.sessions_of(&introduction.owner) >= SESSIONS_OF_ONE {
            let why = format!("certificate `{}` has {SESSIONS_OF_ONE} sessions", introduction.owner);
            tracing::warn!(reason = why, "refused a session");
            return reply.send(refusal(ServiceError::Unavailable(why)));
        }
        let fenced_below = self.clients.leasing.table.next_generation();
        let body = Body::OpenSession { owner: introduction.owner.clone(), info, fenced_below };
        self.admit(Pending { body, waiter: Waiter::OpenSession { connection, introduction, reply } });
    }

    pub(super) fn session_opened(
        &mut self,
        connection: u64,
        introduction: Introduction,
        reply: ClientReplier,
        outcome: Outcome,
    ) {
        match outcome {
            Outcome::Session(session) => {
                let Introduction { owner, pusher, connection: below } = introduction;
                tracing::info!(%session, client = %owner, "session opened");
                // A connection that is closed already would stay in the table: nobody would tell that it is gone.
                let at = (!below.is_closed()).then_some((connection, pusher));
                self.clients.registry.open(session, owner, at, self.now);
                self.clients.registry.set_rights(session, below.peer().rights);
                respond(reply, Ok(self.session_reply(session, Losses::default())));
            }
            Outcome::Refused(why) => reply.send(refusal(ServiceError::Unavailable(why))),
            other => unreachable!("opening a session gives one, not {other:?}"),
        }
    }

    pub(super) fn resume_session(
        &mut self,
        connection: u64,
        introduction: Introduction,
        session: SessionId,
        Holdings { open, locks, leases }: Holdings,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let Introduction { owner, pusher, connection: below } = introduction;
        if self.clients.registry.heard(connection, self.now).is_some_and(|bound| bound != session) {
            let why = "this connection has another session".to_owned();
            reply.send(refusal(ServiceError::BadRequest(why)));
            return Ok(());
        }
        if leases.len() > RECLAIMS_MAX {
            let why = format!("a session may reclaim {RECLAIMS_MAX} leases");
            reply.send(refusal(ServiceError::BadRequest(why)));
            return Ok(());
        }
        match self.clients.registry.resume(session, &owner, connection, pusher, self.now) {
            Ok(()) => {}
            Err(NotResumed::Expired) => {
                reply.send(refusal(ServiceError::SessionExpired));
                return Ok(());
            }
            Err(NotResumed::Foreign) => {
                tracing::warn!(%session, client = %owner, "refused: the session is another client's");
                let why = format!("session {session} was opened with another certificate");
                reply.send(refusal(ServiceError::Unauthorised(why)));
                return Ok(());
            }
        }
        self.clients.registry.set_rights(session, below.peer().rights);
        let mut losses = self.leases_of_resumed(session, &leases)?;
        self.restore_opens(session, &open)?;
        losses.locks = self.restore_locks(session, &locks);
        let (held, lost) = (self.clients.leasing.count(session), losses.leases.len());
        tracing::info!(%session, opens = open.len(), locks = locks.len(), leases = held, lost, "session resumed");
        respond(reply, Ok(self.session_reply(session, losses)));
        Ok(())
    }

    pub(super) fn close_session(&mut self, session: SessionId, reply: ClientReplier) {
        self.clients.registry.ending(session);
        let waiter = Waiter::CloseSession { session, reply };
        self.admit(Pending { body: Body::EndSession { session, expired: false }, waiter });
    }

    pub(super) fn expire_sessions(&mut self) {
        for session in self.clients.registry.expire(self.now, self.around.config.session_ttl) {
            tracing::warn!(%session, "session expired: its client is silent");
            self.end_session(session);
        }
    }

    /// What became of a mutation of an earlier session of the same client.
    pub(super) fn fate(
        &self,
        session: SessionId,
        ended: SessionId,
        place: (u16, u64),
    ) -> Result<Result<Fate, ServiceError>, Fatal> {
        let owner = self.clients.registry.owner(session).unwrap_or_default();
        let lives = || ServiceError::BadRequest(format!("session {ended} has not ended"));
        Ok(self.state.fate(owner, ended, place)?.ok_or_else(lives))
    }

    /// Ends a session without its client's request.
    pub(super) fn end_session(&mut self, session: SessionId) {
        self.clients.registry.ending(session);
        let waiter = Waiter::Expire { session };
        self.admit(Pending { body: Body::EndSession { session, expired: true }, waiter });
    }

    /// The state no longer has the session.
    pub(super) fn session_ended(&mut self, session: SessionId) -> Result<(), Fatal> {
        self.clients.registry.ended(session);
        self.orphans.due |= self.clients.opens.close_all(session);
        self.release_locks_of(session);
        tracing::info!(%session, "session ended");
        self.leases_of_ended(session)
    }

    /// A client's connection is gone.
    pub(super) fn disconnected(&mut self, connection: u64) {
        self.clients.registry.disconnected(connection);
        self.cancel_lock_waits_on(connection);
        self.watchers.disconnected(connection);
    }

    fn session_reply(&self, session: SessionId, losses: Losses) -> Reply {
        let meta = self.state.meta();
        Reply::Session {
            session,
            cluster: meta.cluster.clone(),
            default_replication: meta.default_replication,
            losses,
        }
    }
}
