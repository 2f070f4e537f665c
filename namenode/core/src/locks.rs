//! POSIX byte-range locks, keyed by inode: one table for `fcntl` and `flock`, which is a lock of the whole range. Locks of
//! different families do not exclude each other.
//!
//! The table is in memory only and holds what sessions have; a client says what it holds when it resumes its session.
//! Nothing here waits: a request that must wait gets a [`Ticket`], and whatever ends the waiting returns that ticket in
//! [`Woken`], for the shell to answer.
//!
//! **Fairness.** Waiting requests are served in order of arrival. A request of an owner that holds no lock at all also
//! waits behind earlier waiters with which it conflicts, so that a stream of readers does not starve a writer. One whose
//! owner holds a lock does not: the waiter ahead of it may wait for that very owner, and the two would never end.
//!
//! **Deadlock.** A request that would wait is refused with `Deadlock` if a chain of owners, each waiting for a lock that
//! the next one holds, leads back to its own owner. Owners that hold nothing cannot be in a cycle and are not searched.

mod ranges;
mod waiting;

use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Lock, LockFamily, LockKind};
use ranges::{Held, Ranges};
use std::collections::{BTreeMap, BTreeSet};
use waiting::{Queues, Waiter};

/// Locks that all sessions hold together: some hundred bytes each.
pub const LOCKS_MAX: usize = 1 << 20;
/// Locks that one session holds: a careless program on one mount must not take them all.
pub const SESSION_LOCKS_MAX: usize = 1 << 16;
/// Requests of all sessions that wait.
pub const WAITING_MAX: usize = 1 << 16;
/// Requests of one session that wait.
pub const SESSION_WAITING_MAX: usize = 4096;

/// The last byte that a lock can cover: the largest that the kernel accepts in an answer.
const END: u64 = i64::MAX as u64;

/// Who holds a lock. Owners of different sessions are never the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// The owner within it.
    pub owner: u64,
}

/// Numbers the requests that wait. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The range is as requested.
    Done,
    /// It waits.
    Waiting(Ticket),
}

/// Requests that wait no longer.
#[must_use = "who waits must be answered"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// They have their locks now.
    pub granted: Vec<Ticket>,
    /// They were cancelled, or their session or the file's last user in it is gone.
    pub dropped: Vec<Ticket>,
}

/// All locks and all who wait for one.
#[derive(Debug)]
pub struct LockTable {
    held: BTreeMap<Ino, Ranges>,
    /// Locks of each owner, by inode; no zeros, no empty maps.
    owners: BTreeMap<Owner, BTreeMap<Ino, usize>>,
    /// Locks of each session; no zeros.
    sessions: BTreeMap<SessionId, usize>,
    total: usize,
    queues: Queues,
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}

impl LockTable {
    /// No locks.
    pub fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            sessions: BTreeMap::new(),
            total: 0,
            queues: Queues::default(),
        }
    }

    /// Locks that the session holds.
    pub fn count(&self, session: SessionId) -> usize {
        self.sessions.get(&session).copied().unwrap_or(0)
    }

    /// Locks that all sessions hold.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queues.len()
    }

    /// Sets, changes or frees the owner's lock on a range; what the owner had there is replaced. A lock that weakens or
    /// goes may wake others.
    ///
    /// # Errors
    /// `Invalid` for a range that is none, `WouldBlock` when another holds a conflicting lock and `wait` is not set,
    /// `Deadlock`, and `NoLocks` at a limit. An error changes nothing.
    pub fn set(
        &mut self,
        session: SessionId,
        ino: Ino,
        lock: &Lock,
        wait: bool,
    ) -> Result<(Outcome, Woken), FsError> {
        let owner = Owner { session, owner: lock.owner };
        let lock = normalise(lock)?;
        if lock.kind == LockKind::Unlock {
            self.check_room(owner, ino, &lock)?;
            self.replace(owner, ino, &lock);
            return Ok((Outcome::Done, self.serve(ino)));
        }
        let blocked = self.blockers(owner, ino, &lock).next().is_some();
        if blocked && !wait {
            return Err(FsError::WouldBlock);
        }
        let polite = wait && !self.owners.contains_key(&owner);
        if blocked || (polite && self.queues.conflicts(ino, owner, &lock)) {
            return self.enqueue(owner, ino, lock).map(|ticket| (Outcome::Waiting(ticket), Woken::default()));
        }
        self.check_room(owner, ino, &lock)?;
        self.replace(owner, ino, &lock);
        // A write lock that became a read lock lets others in, and a request that was polite need not be any more.
        Ok((Outcome::Done, self.serve_with(owner, ino)))
    }

    /// The first lock, by its start, that conflicts with one that the owner would like to have.
    ///
    /// # Errors
    /// `Invalid` for a range that is none.
    pub fn test(&self, session: SessionId, ino: Ino, lock: &Lock) -> Result<Option<Lock>, FsError> {
        let owner = Owner { session, owner: lock.owner };
        let lock = normalise(lock)?;
        if lock.kind == LockKind::Unlock {
            return Ok(None);
        }
        Ok(self.blockers(owner, ino, &lock).next().map(|held| held.lock))
    }

    /// Takes in a lock that a resumed session says it holds. `false`: another has taken a conflicting one meanwhile, or
    /// there is no room; the client has lost the lock.
    pub fn restore(&mut self, session: SessionId, ino: Ino, lock: &Lock) -> (bool, Woken) {
        if lock.kind == LockKind::Unlock {
            return (false, Woken::default());
        }
        match self.set(session, ino, lock, false) {
            Ok((_, woken)) => (true, woken),
            Err(_) => (false, Woken::default()),
        }
    }

    /// Ends the waiting of requests, because their time is up or nobody waits for the answer any more: those that did
    /// wait are `dropped`. None of them is granted by the others' going.
    pub fn cancel(&mut self, tickets: &[Ticket]) -> Woken {
        let mut dropped = Vec::new();
        let mut inos = BTreeSet::new();
        for ticket in tickets {
            if let Some(waiter) = self.queues.remove(*ticket) {
                dropped.push(*ticket);
                inos.insert(waiter.ino);
            }
        }
        let mut woken = Woken { dropped, ..Woken::default() };
        for ino in inos {
            woken.add(self.serve(ino));
        }
        woken
    }

    /// Ends the waiting of an owner on a file, because its process was interrupted: its requests are `dropped`.
    pub fn cancel_owner(&mut self, session: SessionId, ino: Ino, owner: u64) -> Woken {
        let owner = Owner { session, owner };
        let dropped = self.queues.of_owner_on(owner, ino);
        self.cancel(&dropped)
    }

    /// Frees what an owner has and wants on a file, as `close` does.
    pub fn release_owner(&mut self, session: SessionId, ino: Ino, owner: u64) -> Woken {
        let owner = Owner { session, owner };
        let mut woken = self.cancel_owner(session, ino, owner.owner);
        self.free(owner, ino);
        woken.add(self.serve(ino));
        woken
    }

    /// Frees what all owners of a session have and want on a file: nobody in the session has it open any more.
    pub fn release_inode(&mut self, session: SessionId, ino: Ino) -> Woken {
        let mut woken = self.cancel(&self.queues.of_session_on(session, ino));
        let owners: BTreeSet<_> = match self.held.get(&ino) {
            Some(held) => held.iter().map(|h| h.owner).filter(|o| o.session == session).collect(),
            None => return woken,
        };
        for owner in owners {
            self.free(owner, ino);
        }
        woken.add(self.serve(ino));
        woken
    }

    /// Frees what a session has and wants.
    pub fn release_session(&mut self, session: SessionId) -> Woken {
        let mut woken = self.cancel(&self.queues.of_session(session));
        let range = Owner { session, owner: 0 }..=Owner { session, owner: u64::MAX };
        let held: Vec<(Owner, Ino)> = self
            .owners
            .range(range)
            .flat_map(|(owner, inos)| inos.keys().map(|ino| (*owner, *ino)))
            .collect();
        let inos: BTreeSet<_> = held.iter().map(|(_, ino)| *ino).collect();
        for (owner, ino) in held {
            self.free(owner, ino);
        }
        for ino in inos {
            woken.add(self.serve(ino));
        }
        woken
    }

    /// Locks of others that conflict, in order of their starts.
    fn blockers<'a>(&'a self, owner: Owner, ino: Ino, lock: &'a Lock) -> impl Iterator<Item = &'a Held> {
        self.held.get(&ino).into_iter().flat_map(move |ranges| ranges.conflicts(owner, lock))
    }

    fn enqueue(&mut self, owner: Owner, ino: Ino, lock: Lock) -> Result<Ticket, FsError> {
        if self.queues.len() >= WAITING_MAX || self.queues.len_of(owner.session) >= SESSION_WAITING_MAX {
            return Err(FsError::NoLocks);
        }
        if self.owners.contains_key(&owner) && self.would_deadlock(owner, ino, &lock) {
            return Err(FsError::Deadlock);
        }
        Ok(self.queues.push(Waiter { owner, ino, lock }))
    }

    /// Whether somebody for whom the request would wait waits, directly or over others, for the owner.
    fn would_deadlock(&self, owner: Owner, ino: Ino, lock: &Lock) -> bool {
        let mut seen: BTreeSet<Owner> = self.blockers(owner, ino, lock).map(|h| h.owner).collect();
        let mut next: Vec<Owner> = seen.iter().copied().collect();
        while let Some(other) = next.pop() {
            for waiter in self.queues.of_owner(other) {
                for blocker in self.blockers(other, waiter.ino, &waiter.lock).map(|h| h.owner) {
                    if blocker == owner {
                        return true;
                    }
                    if seen.insert(blocker) {
                        next.push(blocker);
                    }
                }
            }
        }
        false
    }

    /// A change of a range makes two locks more at most, by splitting one around it.
    fn check_room(&self, owner: Owner, ino: Ino, lock: &Lock) -> Result<(), FsError> {
        let splits = self.held.get(&ino).is_some_and(|ranges| ranges.would_split(owner, lock));
        let more = usize::from(splits) + usize::from(lock.kind != LockKind::Unlock);
        let room = self.total + more <= LOCKS_MAX && self.count(owner.session) + more <= SESSION_LOCKS_MAX;
        if more == 0 || room { Ok(()) } else { Err(FsError::NoLocks) }
    }

    fn replace(&mut self, owner: Owner, ino: Ino, lock: &Lock) {
        let ranges = self.held.entry(ino).or_default();
        let before = ranges.count(owner);
        ranges.set(owner, lock);
        let after = ranges.count(owner);
        if ranges.is_empty() {
            self.held.remove(&ino);
        }
        self.recount(owner, ino, before, after);
    }

    fn free(&mut self, owner: Owner, ino: Ino) {
        let (kind, family) = (LockKind::Unlock, LockFamily::default());
        let all = Lock { owner: owner.owner, pid: 0, start: 0, end: END, kind, family };
        self.replace(owner, ino, &all);
    }

    fn recount(&mut self, owner: Owner, ino: Ino, before: usize, after: usize) {
        if before == after {
            return;
        }
        self.total = self.total - before + after;
        let session = self.sessions.entry(owner.session).or_default();
        *session = *session - before + after;
        if *session == 0 {
            self.sessions.remove(&owner.session);
        }
        let inos = self.owners.entry(owner).or_default();
        if after == 0 {
            inos.remove(&ino);
            if inos.is_empty() {
                self.owners.remove(&owner);
            }
        } else {
            inos.insert(ino, after);
        }
    }

    /// After an owner got a lock: its other requests are no longer polite, wherever they wait.
    fn serve_with(&mut self, owner: Owner, ino: Ino) -> Woken {
        let mut inos: BTreeSet<_> = self.queues.of_owner(owner).map(|w| w.ino).collect();
        inos.insert(ino);
        let mut woken = Woken::default();
        for ino in inos {
            woken.add(self.serve(ino));
        }
        woken
    }

    /// Grants what can be granted on an inode, in order of arrival. The owners that are served may have requests on
    /// other inodes that were polite and need not be any more: these are served as well.
    fn serve(&mut self, ino: Ino) -> Woken {
        let mut woken = Woken::default();
        let mut inos = BTreeSet::from([ino]);
        while let Some(ino) = inos.pop_first() {
            while let Some((ticket, waiter)) = self.first_servable(ino) {
                self.queues.remove(ticket);
                let had_none = !self.owners.contains_key(&waiter.owner);
                self.replace(waiter.owner, ino, &waiter.lock);
                woken.granted.push(ticket);
                if had_none {
                    inos.extend(self.queues.of_owner(waiter.owner).map(|w| w.ino));
                }
            }
        }
        woken
    }

    fn first_servable(&self, ino: Ino) -> Option<(Ticket, Waiter)> {
        let mut ahead: Vec<&Waiter> = Vec::new();
        for (ticket, waiter) in self.queues.on(ino) {
            let polite = !self.owners.contains_key(&waiter.owner);
            let behind = polite && ahead.iter().any(|w| w.conflicts(waiter.owner, &waiter.lock));
            if !behind
                && self.blockers(waiter.owner, ino, &waiter.lock).next().is_none()
                && self.check_room(waiter.owner, ino, &waiter.lock).is_ok()
            {
                return Some((ticket, *waiter));
            }
            ahead.push(waiter);
        }
        None
    }
}

impl Woken {
    fn add(&mut self, other: Self) {
        self.granted.extend(other.granted);
        self.dropped.extend(other.dropped);
    }
}

/// The lock with its end cut to what can be locked.
fn normalise(lock: &Lock) -> Result<Lock, FsError> {
    let lock = Lock { end: lock.end.min(END), ..*lock };
    if lock.start <= lock.end { Ok(lock) } else { Err(FsError::Invalid) }
}

#[cfg(test)]
mod tests;
