//! Leases: who may cache which inode, and when a change may go ahead.
//!
//! The table is in memory only and does nothing by itself: time is an argument, and what is to be done comes back as
//! [`Actions`].
//!
//! ```text
//!   request arrives        renew
//!   it reads or changes    acquire the inodes -> push the recalls; wait until the ticket is ready
//!   it is carried out      grant leases to go with the answer, then done
//!   RecallDone arrives     ack
//!   ReturnLeases arrives   give_back
//!   ResumeSession arrives  resume
//!   session ends           end_session
//!   next_deadline is past  tick
//! ```
//!
//! **What holds.** While a ticket is ready and not done, no session but its own has a valid lease that conflicts with it.
//! A ticket waits for leases, never for another ticket, and while it exists no lease that conflicts with it is granted to
//! others: so all the inodes of a change are acquired at once without any order, there is no deadlock, and each ticket is
//! ready after one lease term and the margin at the latest. Changes of the same inode do not exclude each other: the
//! state machine orders them, and neither is granted a lease before the other is done.
//!
//! **What the client must do**, or the terms below mean nothing. Its leases last for one term after it *sent* the last
//! request that was answered. Answers and recalls reach it in the order in which the NameNode sent them, so:
//! - after a recall, no answer extends the lease on that inode any more. If the recall lets it keep a shared lease, that
//!   one is extended again once its `RecallDone` is *answered*: should the acknowledgement come too late, the NameNode has
//!   ended the whole lease, and the old end of the term has passed at the client before it can hear of it;
//! - when the term passes, it drops all its leases before it does anything else;
//! - it drops all its leases before it resumes the session on a new connection, for a recall may have been lost;
//! - after it gave a lease back, it ignores a grant of that inode in answers to requests that it sent before.
//!
//! The NameNode counts the term from when the request *arrived*, which is later, and adds a margin for clocks that do not
//! run equally fast. A recall freezes the lease's end, so that a client that lives but does not answer delays nobody for
//! longer than one that is dead.

mod tickets;

use quarry_common::ids::{Ino, LeaseGeneration, SessionId};
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::session::{LeaseGrant, LeaseMode};
use std::collections::{BTreeMap, BTreeSet};
use tickets::Tickets;

pub use tickets::{Access, Ticket};

/// Leases that the table holds by default: some 200 bytes each.
pub const LEASES_MAX: usize = 1 << 20;
/// Bits of a generation that number the grants of one run: a million a second for twelve days would use them up, and the
/// bits above would still grow.
const GRANT_BITS: u32 = 40;
/// What clocks of two machines may differ by in one term, and then some: 5 %.
pub const MARGIN_MS: u64 = 250;
/// Least recently granted leases that each grant recalls when the table is nearly full: two, so that it shrinks.
const EVICT_PER_GRANT: usize = 2;
/// Unanswered recalls of ended leases that are kept for each session.
const LATE_MAX: usize = 4096;
/// Tickets that there can be at once; the shell's own bound on requests under way is lower.
pub const TICKETS_MAX: usize = 1 << 17;

/// The table's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long a lease lasts after the last renewal.
    pub term_ms: u64,
    /// How much longer the NameNode waits.
    pub margin_ms: u64,
    /// Leases that there may be.
    pub budget: usize,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { term_ms: LEASE_TERM.as_millis() as u64, margin_ms: MARGIN_MS, budget: LEASES_MAX }
    }
}

/// A recall to push to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Whose lease.
    pub session: SessionId,
    /// Numbers the session's recalls.
    pub number: u64,
    /// On what.
    pub ino: Ino,
    /// What may stay.
    pub keep: Option<LeaseMode>,
}

/// What the shell has to do. Recalls must be pushed before the session is sent any later answer.
#[must_use = "recalls must be pushed, and those that are ready go ahead"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// To push.
    pub recalls: Vec<Recall>,
    /// These may go ahead.
    pub ready: Vec<Ticket>,
    /// Leases that ended without an acknowledgement. Their holders may have these inodes open without having said so:
    /// keep the inodes until the session resumes or ends.
    pub broken: Vec<(SessionId, Ino)>,
}

/// Why no lease was granted. The answer goes out without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another session has a lease that excludes it; acquire the inode first.
    Held,
    /// A change by another session waits or is under way, or a recall of the session's own lease is.
    Busy,
    /// The table is full; the oldest leases are being recalled.
    Full,
    /// Sessions from before this NameNode started may have leases that it does not know of.
    Starting,
}

/// There are too many tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for leases")]
pub struct Overloaded;

/// A lease.
#[derive(Debug)]
struct Lease {
    mode: LeaseMode,
    generation: LeaseGeneration,
    /// Its place in the order of grants.
    used: u64,
    /// In the order of their numbers: at most one that keeps a shared lease and one that keeps nothing.
    recalls: Vec<Outstanding>,
}

/// A recall without an answer yet.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    number: u64,
    keep: Option<LeaseMode>,
    /// When the lease has ended if no answer comes.
    deadline: u64,
}

/// A session.
#[derive(Debug)]
struct Holder {
    /// When its last request arrived.
    renewed: u64,
    inos: BTreeSet<Ino>,
    /// Recalls without an answer.
    recalls: BTreeMap<u64, Ino>,
    /// The same, of leases that have ended meanwhile: the answer still tells what is open. The newest ones.
    late: BTreeMap<u64, Ino>,
    last_number: u64,
}

/// All leases, and the requests that wait for some to end.
#[derive(Debug)]
pub struct LeaseTable {
    config: LeaseConfig,
    leases: BTreeMap<(Ino, SessionId), Lease>,
    holders: BTreeMap<SessionId, Holder>,
    /// Leases that are not being recalled, in the order of their grants.
    order: BTreeMap<u64, (Ino, SessionId)>,
    last_used: u64,
    /// The greatest generation so far.
    generation: LeaseGeneration,
    /// Of leases that are being recalled: the first outstanding recall's.
    deadlines: BTreeSet<(u64, Ino, SessionId)>,
    /// Sessions from before the start that have not resumed: they may hold anything, until `former_until`.
    former: BTreeSet<SessionId>,
    former_until: u64,
    tickets: Tickets,
}

/// Whether a lease of another session stands in the way.
fn conflicts(access: Access, mode: LeaseMode) -> bool {
    access == Access::Write || mode == LeaseMode::Exclusive
}

impl LeaseTable {
    /// A table without leases in the NameNode's run of this number, which generations begin with. `former` are the sessions that the NameNode knew before it started: until they resume,
    /// end, or one term has passed, they may hold leases of which nothing is known.
    ///
    /// # Panics
    /// When the run's number does not fit its bits: a start per second for half a year.
    pub fn new(config: LeaseConfig, now: u64, run: u64, former: impl IntoIterator<Item = SessionId>) -> Self {
        assert!(run < 1 << (u64::BITS - GRANT_BITS), "run {run} of the NameNode");
        Self {
            config,
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            order: BTreeMap::new(),
            last_used: 0,
            generation: LeaseGeneration(run << GRANT_BITS),
            deadlines: BTreeSet::new(),
            former: former.into_iter().collect(),
            former_until: now + config.term_ms + config.margin_ms,
            tickets: Tickets::default(),
        }
    }

    /// Leases that there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Leases of a session.
    pub fn count(&self, session: SessionId) -> usize {
        self.holders.get(&session).map_or(0, |h| h.inos.len())
    }

    /// Who holds a lease on an inode, valid or not.
    pub fn holders(&self, ino: Ino) -> impl Iterator<Item = (SessionId, LeaseMode)> + '_ {
        self.on(ino).map(|(session, lease)| (session, lease.mode))
    }

    /// Whether another session may keep changes of the inode.
    pub fn is_kept_by_other(&self, session: SessionId, ino: Ino) -> bool {
        self.on(ino).any(|(other, lease)| other != session && lease.mode == LeaseMode::Exclusive)
    }

    /// Whether a ticket may go ahead. `false` for one that is done.
    pub fn is_ready(&self, ticket: Ticket) -> bool {
        self.tickets.is_ready(ticket)
    }

    /// A request of the session arrived, at `now`. If that is too late its leases have ended, and the client knows.
    pub fn renew(&mut self, now: u64, session: SessionId) -> Actions {
        let mut actions = Actions::default();
        if self.has_lapsed(now, session) {
            self.break_all(session, &mut actions);
        }
        let holder = self.holders.entry(session).or_insert_with(|| Holder::new(now));
        holder.renewed = holder.renewed.max(now);
        actions
    }

    /// A request of `session` is about to read or change inodes: leases of others that are in its way are recalled. It
    /// must not go ahead before its ticket is in [`Actions::ready`], here or later, and ends with
    /// [`done`](Self::done).
    ///
    /// If the inodes turn out to be more by the time it goes ahead, [`extend`](Self::extend) the ticket. If a change has
    /// been applied to more than it had acquired, extend it before the answer is sent: a change may show itself early,
    /// but not be acknowledged while others do not see it.
    ///
    /// # Errors
    /// When there are [`TICKETS_MAX`] tickets.
    pub fn acquire(
        &mut self,
        now: u64,
        session: SessionId,
        inos: &[(Ino, Access)],
    ) -> Result<(Ticket, Actions), Overloaded> {
        if self.tickets.len() >= TICKETS_MAX {
            return Err(Overloaded);
        }
        let former = self.former.iter().any(|s| *s != session);
        let ticket = self.tickets.open(session, former);
        Ok((ticket, self.extend(now, ticket, inos)))
    }

    /// Adds inodes to a ticket, which may have to wait again.
    pub fn extend(&mut self, now: u64, ticket: Ticket, inos: &[(Ino, Access)]) -> Actions {
        let mut actions = Actions::default();
        let Some(session) = self.tickets.session(ticket) else { return actions };
        for &(ino, access) in inos {
            self.tickets.add(ticket, ino, access);
            let in_the_way: Vec<_> = self
                .on(ino)
                .filter(|(other, lease)| *other != session && conflicts(access, lease.mode))
                .map(|(other, _)| other)
                .collect();
            for other in in_the_way {
                if self.has_lapsed(now, other) {
                    self.break_lease(ino, other, &mut actions);
                } else {
                    let keep = (access == Access::Read).then_some(LeaseMode::Shared);
                    actions.recalls.extend(self.recall(ino, other, keep));
                    self.tickets.block(ticket, ino, other);
                }
            }
        }
        if self.is_ready(ticket) && !actions.ready.contains(&ticket) {
            actions.ready.push(ticket);
        }
        actions
    }

    /// The request was answered, or will not be carried out.
    pub fn done(&mut self, ticket: Ticket) {
        self.tickets.close(ticket);
    }

    /// Grants a lease to go with an answer, or makes one that the session has stronger; a weaker one than it has changes
    /// nothing. Gives the lease as the session has it now. The session's request must have been [renewed](Self::renew).
    ///
    /// # Errors
    /// When it cannot be had now; the actions are to be done in any case.
    pub fn grant(
        &mut self,
        now: u64,
        session: SessionId,
        ino: Ino,
        mode: LeaseMode,
    ) -> (Result<LeaseGrant, Refusal>, Actions) {
        let mut actions = Actions::default();
        let result = self.try_grant(now, session, ino, mode, &mut actions);
        // From seven eighths on, so that the table is full only while clients do not answer.
        if self.leases.len() >= self.config.budget - self.config.budget / 8 {
            self.evict(now, (ino, session), &mut actions);
        }
        (result, actions)
    }

    /// The client has dropped what a recall asked for. Tells on which inode, also if the lease has ended before, unless
    /// nothing is known of the recall.
    pub fn ack(&mut self, session: SessionId, number: u64) -> (Option<Ino>, Actions) {
        let mut actions = Actions::default();
        let Some(holder) = self.holders.get_mut(&session) else { return (None, actions) };
        let Some(ino) = holder.recalls.remove(&number) else {
            return (holder.late.remove(&number), actions);
        };
        let Some(lease) = self.leases.get_mut(&(ino, session)) else { return (Some(ino), actions) };
        let keep = lease.recalls.iter().find(|r| r.number == number).and_then(|r| r.keep);
        match keep {
            None => self.end_lease(ino, session),
            Some(keep) => {
                lease.mode = lease.mode.min(keep);
                self.settle(ino, session, number);
            }
        }
        self.unblock(ino, session, &mut actions);
        (Some(ino), actions)
    }

    /// The client gives leases back by itself.
    pub fn give_back(&mut self, session: SessionId, inos: &[Ino]) -> Actions {
        let mut actions = Actions::default();
        for &ino in inos {
            self.end_lease(ino, session);
            self.unblock(ino, session, &mut actions);
        }
        actions
    }

    /// The session goes on over a new connection: its client has dropped all its leases, and says what it has open.
    pub fn resume(&mut self, now: u64, session: SessionId) -> Actions {
        // The numbers of recalls go on: an answer to one of the old connection must not pass for one of the new.
        let last_number = self.holders.get(&session).map_or(0, |h| h.last_number);
        let actions = self.end_session(session);
        self.holders.insert(session, Holder { last_number, ..Holder::new(now) });
        actions
    }

    /// The session has ended.
    pub fn end_session(&mut self, session: SessionId) -> Actions {
        let mut actions = Actions::default();
        self.break_all(session, &mut actions);
        self.holders.remove(&session);
        if self.former.remove(&session) {
            self.release_former(&mut actions);
        }
        actions.broken.clear();
        actions
    }

    /// When [`tick`](Self::tick) has something to do at the earliest.
    pub fn next_deadline(&self) -> Option<u64> {
        let former = (!self.former.is_empty()).then_some(self.former_until);
        self.deadlines.first().map(|(at, ..)| *at).into_iter().chain(former).min()
    }

    /// Ends leases whose holders have not answered in time.
    pub fn tick(&mut self, now: u64) -> Actions {
        let mut actions = Actions::default();
        while let Some(&(at, ino, session)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.break_lease(ino, session, &mut actions);
        }
        if now >= self.former_until && !self.former.is_empty() {
            self.former.clear();
            self.release_former(&mut actions);
        }
        actions
    }

    fn on(&self, ino: Ino) -> impl Iterator<Item = (SessionId, &Lease)> {
        self.leases
            .range((ino, SessionId(0))..=(ino, SessionId(u64::MAX)))
            .map(|((_, session), lease)| (*session, lease))
    }

    /// When leases end that are not renewed any more.
    fn end_of_term(&self, session: SessionId) -> u64 {
        let renewed = self.holders.get(&session).map_or(0, |h| h.renewed);
        renewed + self.config.term_ms + self.config.margin_ms
    }

    fn has_lapsed(&self, now: u64, session: SessionId) -> bool {
        now >= self.end_of_term(session)
    }

    fn try_grant(
        &mut self,
        now: u64,
        session: SessionId,
        ino: Ino,
        mode: LeaseMode,
        actions: &mut Actions,
    ) -> Result<LeaseGrant, Refusal> {
        if self.former.iter().any(|s| *s != session) {
            return Err(Refusal::Starting);
        }
        if self.tickets.exclude(session, ino, mode) {
            return Err(Refusal::Busy);
        }
        let own = self.leases.get(&(ino, session));
        if own.is_some_and(|lease| !lease.recalls.is_empty()) || self.has_lapsed(now, session) {
            return Err(Refusal::Busy);
        }
        let excludes = |held| mode == LeaseMode::Exclusive || held == LeaseMode::Exclusive;
        let others: Vec<_> =
            self.on(ino).filter(|(s, l)| *s != session && excludes(l.mode)).map(|(s, _)| s).collect();
        for other in others {
            if !self.has_lapsed(now, other) {
                return Err(Refusal::Held);
            }
            self.break_lease(ino, other, actions);
        }
        if !self.leases.contains_key(&(ino, session)) && self.leases.len() >= self.config.budget {
            return Err(Refusal::Full);
        }
        Ok(self.put(ino, session, mode))
    }

    fn put(&mut self, ino: Ino, session: SessionId, mode: LeaseMode) -> LeaseGrant {
        self.last_used += 1;
        let used = self.last_used;
        let next = LeaseGeneration(self.generation.0 + 1);
        let new = Lease { mode, generation: next, used, recalls: Vec::new() };
        let lease = self.leases.entry((ino, session)).or_insert(new);
        if lease.mode < mode {
            (lease.mode, lease.generation) = (mode, next);
        }
        self.generation = self.generation.max(lease.generation);
        let granted = LeaseGrant { ino, mode: lease.mode, generation: lease.generation };
        self.order.remove(&lease.used);
        lease.used = used;
        self.order.insert(used, (ino, session));
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.inos.insert(ino);
        }
        granted
    }

    /// Recalls the leases that were granted longest ago, but not the one just granted.
    fn evict(&mut self, now: u64, granted: (Ino, SessionId), actions: &mut Actions) {
        let oldest: Vec<_> =
            self.order.values().filter(|v| **v != granted).take(EVICT_PER_GRANT).copied().collect();
        for (ino, session) in oldest {
            if self.has_lapsed(now, session) {
                self.break_lease(ino, session, actions);
            } else {
                actions.recalls.extend(self.recall(ino, session, None));
            }
        }
    }

    /// Makes a recall, unless one that asks for as much is outstanding.
    fn recall(&mut self, ino: Ino, session: SessionId, keep: Option<LeaseMode>) -> Option<Recall> {
        let deadline = self.end_of_term(session);
        let lease = self.leases.get_mut(&(ino, session))?;
        if lease.recalls.iter().any(|r| r.keep <= keep) {
            return None;
        }
        let holder = self.holders.get_mut(&session)?;
        holder.last_number += 1;
        let number = holder.last_number;
        holder.recalls.insert(number, ino);
        if lease.recalls.is_empty() {
            self.order.remove(&lease.used);
            self.deadlines.insert((deadline, ino, session));
        }
        lease.recalls.push(Outstanding { number, keep, deadline });
        Some(Recall { session, number, ino, keep })
    }

    /// The lease goes on after a recall was answered: earlier ones are answered with it, later ones count from now on.
    fn settle(&mut self, ino: Ino, session: SessionId, number: u64) {
        let (Some(lease), Some(holder)) =
            (self.leases.get_mut(&(ino, session)), self.holders.get_mut(&session))
        else {
            return;
        };
        if let Some(first) = lease.recalls.first() {
            self.deadlines.remove(&(first.deadline, ino, session));
        }
        lease.recalls.retain(|r| {
            if r.number <= number {
                holder.recalls.remove(&r.number);
            }
            r.number > number
        });
        match lease.recalls.first() {
            Some(first) => {
                self.deadlines.insert((first.deadline, ino, session));
            }
            None => {
                self.order.insert(lease.used, (ino, session));
            }
        }
    }

    fn end_lease(&mut self, ino: Ino, session: SessionId) {
        let Some(lease) = self.leases.remove(&(ino, session)) else { return };
        self.order.remove(&lease.used);
        if let Some(first) = lease.recalls.first() {
            self.deadlines.remove(&(first.deadline, ino, session));
        }
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.inos.remove(&ino);
            for recall in &lease.recalls {
                holder.recalls.remove(&recall.number);
            }
        }
    }

    fn break_lease(&mut self, ino: Ino, session: SessionId, actions: &mut Actions) {
        let lease = self.leases.get(&(ino, session));
        if let (Some(lease), Some(holder)) = (lease, self.holders.get_mut(&session)) {
            holder.late.extend(lease.recalls.iter().map(|recall| (recall.number, ino)));
            while holder.late.len() > LATE_MAX {
                holder.late.pop_first();
            }
        }
        self.end_lease(ino, session);
        actions.broken.push((session, ino));
        self.unblock(ino, session, actions);
    }

    fn break_all(&mut self, session: SessionId, actions: &mut Actions) {
        let inos = self.holders.get(&session).map(|h| h.inos.clone()).unwrap_or_default();
        for ino in inos {
            self.break_lease(ino, session, actions);
        }
    }

    /// A lease ended or became weaker.
    fn unblock(&mut self, ino: Ino, session: SessionId, actions: &mut Actions) {
        let left = self.leases.get(&(ino, session)).map(|lease| lease.mode);
        let still = |access| left.is_some_and(|mode| conflicts(access, mode));
        actions.ready.extend(self.tickets.unblock(ino, session, still));
    }

    fn release_former(&mut self, actions: &mut Actions) {
        let former = &self.former;
        actions.ready.extend(self.tickets.release_former(|own| former.iter().all(|s| *s == own)));
    }
}

impl Holder {
    fn new(now: u64) -> Self {
        Self {
            renewed: now,
            inos: BTreeSet::new(),
            recalls: BTreeMap::new(),
            late: BTreeMap::new(),
            last_number: 0,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
