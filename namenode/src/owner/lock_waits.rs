//! Byte-range locks: the table, and the requests that wait for it.

use super::{Owner, refusal, respond};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::session::{LOCK_WAIT_MAX_MS, Lock, LockKind, Reply};
use quarry_namenode_core::locks::{LockTable, Outcome, Ticket, Woken};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Requests that wait for the end of the grace period.
const HELD_BACK_MAX: usize = 4096;

/// A request that waits for others' locks to go.
struct Waiting {
    reply: ClientReplier,
    deadline: Instant,
    connection: u64,
}

/// A request to set a lock.
pub(super) struct LockRequest {
    pub(super) session: SessionId,
    pub(super) connection: u64,
    pub(super) ino: Ino,
    pub(super) lock: Lock,
    pub(super) wait: bool,
}

/// All locks, and who waits.
pub(crate) struct Locks {
    table: LockTable,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Requests that came while it was unknown what recovering sessions hold.
    held_back: VecDeque<(LockRequest, ClientReplier, Instant)>,
}

impl Locks {
    pub(super) fn new() -> Self {
        Self { table: LockTable::new(), waiting: BTreeMap::new(), held_back: VecDeque::new() }
    }

    /// Locks that the session holds.
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.table.count(session)
    }
}

impl Owner {
    /// Sets or frees a lock, or lets the request wait.
    pub(super) fn set_lock(&mut self, request: LockRequest, reply: ClientReplier) {
        let free = request.lock.kind == LockKind::Unlock;
        if !free && self.clients.registry.recovering() > 0 {
            return self.hold_back(request, reply);
        }
        let LockRequest { session, connection, ino, lock, wait } = request;
        match self.clients.locks.table.set(session, ino, &lock, wait) {
            Ok((outcome, woken)) => {
                match outcome {
                    Outcome::Done => respond(reply, Ok(Reply::Done)),
                    Outcome::Waiting(ticket) => {
                        let deadline = self.now + Duration::from_millis(LOCK_WAIT_MAX_MS);
                        self.clients.locks.waiting.insert(ticket, Waiting { reply, deadline, connection });
                    }
                }
                self.wake(woken);
            }
            Err(error) => respond(reply, Err(error.into())),
        }
    }

    /// The first conflicting lock.
    pub(super) fn test_lock(&self, session: SessionId, ino: Ino, lock: &Lock, reply: ClientReplier) {
        if self.clients.registry.recovering() > 0 {
            return reply.send(refusal(recovering()));
        }
        respond(
            reply,
            self.clients.locks.table.test(session, ino, lock).map(Reply::Lock).map_err(ServiceError::from),
        );
    }

    /// The owner's process was interrupted.
    pub(super) fn cancel_lock(&mut self, session: SessionId, ino: Ino, owner: u64) {
        let is_it = |r: &LockRequest| r.session == session && r.ino == ino && r.lock.owner == owner;
        let mut kept = VecDeque::new();
        for (request, reply, deadline) in std::mem::take(&mut self.clients.locks.held_back) {
            if is_it(&request) {
                respond(reply, Err(FsError::Interrupted.into()));
            } else {
                kept.push_back((request, reply, deadline));
            }
        }
        self.clients.locks.held_back = kept;
        let woken = self.clients.locks.table.cancel_owner(session, ino, owner);
        self.wake(woken);
    }

    /// Nobody in the session has the inode open any more.
    pub(super) fn release_locks_on(&mut self, session: SessionId, ino: Ino) {
        let woken = self.clients.locks.table.release_inode(session, ino);
        self.wake(woken);
    }

    /// The session has ended.
    pub(super) fn release_locks_of(&mut self, session: SessionId) {
        let woken = self.clients.locks.table.release_session(session);
        self.wake(woken);
    }

    /// Takes in what a resumed session says it holds. Gives the files on which that is no longer so.
    pub(super) fn restore_locks(&mut self, session: SessionId, locks: &[(Ino, Lock)]) -> Vec<Ino> {
        let mut lost = BTreeSet::new();
        for (ino, lock) in locks {
            let (held, woken) = self.clients.locks.table.restore(session, *ino, lock);
            self.wake(woken);
            if !held {
                tracing::warn!(%session, %ino, "a lock of a resumed session is lost: another has taken it");
                lost.insert(*ino);
            }
        }
        lost.into_iter().collect()
    }

    /// A connection is gone: whoever waited on it asks again or gave up, and must not be granted a lock meanwhile.
    pub(super) fn cancel_lock_waits_on(&mut self, connection: u64) {
        self.clients.locks.held_back.retain(|(request, ..)| request.connection != connection);
        let waits = self.clients.locks.waiting.iter().filter(|(_, w)| w.connection == connection);
        let tickets: Vec<Ticket> = waits.map(|(ticket, _)| *ticket).collect();
        for ticket in &tickets {
            self.clients.locks.waiting.remove(ticket);
        }
        let woken = self.clients.locks.table.cancel(&tickets);
        self.wake(woken);
    }

    /// Answers requests that have waited for as long as they may.
    pub(super) fn time_out_lock_waits(&mut self) {
        let now = self.now;
        let late = self.clients.locks.waiting.iter().filter(|(_, w)| w.deadline <= now);
        let tickets: Vec<Ticket> = late.map(|(ticket, _)| *ticket).collect();
        let woken = self.clients.locks.table.cancel(&tickets);
        for ticket in &woken.dropped {
            if let Some(waiting) = self.clients.locks.waiting.remove(ticket) {
                respond(waiting.reply, Err(FsError::WouldBlock.into()));
            }
        }
        self.wake(woken);
        while self.clients.locks.held_back.front().is_some_and(|(.., deadline)| *deadline <= now) {
            if let Some((_, reply, _)) = self.clients.locks.held_back.pop_front() {
                reply.send(refusal(recovering()));
            }
        }
    }

    /// It is known again who holds which lock: those who had to wait for that go on.
    pub(super) fn end_lock_grace(&mut self) {
        for (request, reply, _) in std::mem::take(&mut self.clients.locks.held_back) {
            if self.clients.registry.is_live(request.session) {
                self.set_lock(request, reply);
            } else {
                respond(reply, Err(ServiceError::SessionExpired));
            }
        }
    }

    fn hold_back(&mut self, request: LockRequest, reply: ClientReplier) {
        if !request.wait || self.clients.locks.held_back.len() >= HELD_BACK_MAX {
            return reply.send(refusal(recovering()));
        }
        let deadline = self.now + Duration::from_millis(LOCK_WAIT_MAX_MS);
        self.clients.locks.held_back.push_back((request, reply, deadline));
    }

    fn wake(&mut self, woken: Woken) {
        for ticket in woken.granted {
            if let Some(waiting) = self.clients.locks.waiting.remove(&ticket) {
                respond(waiting.reply, Ok(Reply::Done));
            }
        }
        for ticket in woken.dropped {
            if let Some(waiting) = self.clients.locks.waiting.remove(&ticket) {
                respond(waiting.reply, Err(FsError::Interrupted.into()));
            }
        }
    }
}

fn recovering() -> ServiceError {
    ServiceError::Unavailable(
        "the NameNode started a moment ago and does not know yet which locks are held".to_owned(),
    )
}
