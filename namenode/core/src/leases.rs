//! Leases: which session may cache which inode, and when a change may go ahead.
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
//!   Renew arrives          acknowledge
//!   a fence is durable     fenced
//!   session ends           end_session
//!   next_deadline is past  tick
//! ```
//!
//! **What holds.** While a ticket is ready and not done, no session but its own has a valid lease that conflicts with it.
//! A ticket waits for leases, never for another ticket, and while it exists no lease that conflicts with it is granted to
//! others: so all the inodes of a change are acquired at once without any order, there is no deadlock, and each ticket is
//! ready after one lease term and the margin, or as long as a holder commits what it buffered, after
//! [`RECALL_MAX`](quarry_common::limits::RECALL_MAX) and the margin at the latest. Changes of the same inode do not exclude each other: the state machine
//! orders them, and neither is granted a lease before the other is done.
//!
//! **Lapsed and broken.** A lease whose term ran out is *lapsed*: it stays, and the next request of its session renews it.
//! It *breaks* only for a request that conflicts with it. An exclusive lease that breaks may cover changes that its holder
//! buffered, so the break is first made a durable fact ([`Actions::fences`]); the conflicting request goes ahead once
//! [`fenced`](LeaseTable::fenced) says so. From then on nothing revives the lease: the state machine refuses what was
//! buffered under its generation. The session is told its losses before any later answer ([`Actions::losers`]), and again
//! until it acknowledges them.
//!
//! **After a start** of the NameNode the table is empty. Sessions from before the start reclaim their exclusive leases when
//! they resume; until each of them has, has ended, or one term has passed and its old leases are fenced, nothing goes
//! ahead for any other session.
//!
//! **What the client must do**, or the terms below mean nothing. Its leases last for one term after it *sent* the last
//! request that was answered. Answers, recalls and losses reach it in the order in which the NameNode sent them, so:
//! - after a recall, no answer extends the lease on that inode any more. If the recall lets it keep a shared lease, that
//!   one is extended again once its `RecallDone` is *answered*: should the acknowledgement come too late, the NameNode has
//!   ended the whole lease, and the old end of the term has passed at the client before it can hear of it;
//! - when the term passes, it uses none of its leases before an answer to a later request, and drops what it cached under
//!   shared ones;
//! - when it resumes the session on a new connection it has only the leases that it reclaims;
//! - after it gave a lease back, it ignores a grant of that inode in answers to requests that it sent before.
//!
//! The NameNode counts the term from when the request *arrived*, which is later, and adds a margin for clocks that do not
//! run equally fast. A recall freezes the lease's end, so that a client that lives but does not answer delays nobody for
//! longer than one that is dead.

mod breaking;
mod config;
mod holder;
mod queue;
mod resumption;
mod tickets;

use crate::command::Fence;
use holder::Holder;
use quarry_common::ids::{Ino, LeaseGeneration, SessionId};
use quarry_common::wire::session::{LeaseGrant, LeaseMode};
use std::collections::{BTreeMap, BTreeSet};
use tickets::Tickets;

pub use config::{LEASES_MAX, LeaseConfig, MARGIN_MS};
pub use holder::{BARRED_MS, MISSES_MAX, WRITES_BARRED_MS};
pub use tickets::{Access, Ticket};

/// Bits of a generation that number the grants of one run: a million a second for twelve days would use them up, and the
/// bits above would still grow.
const GRANT_BITS: u32 = 40;
/// Least recently granted leases that each grant recalls when the table is nearly full: two, so that it shrinks.
const EVICT_PER_GRANT: usize = 2;
/// Leases that are looked at for that.
const EVICT_SCAN: usize = 64;
/// Tickets that there can be at once; the shell's own bound on requests under way is lower.
pub const TICKETS_MAX: usize = 1 << 17;

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

/// What the shell has to do. Recalls and losses must be pushed before the session is sent any later answer.
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
    /// Breaks to make durable; each is told back by [`LeaseTable::fenced`].
    pub fences: Vec<(SessionId, Fence)>,
    /// Sessions that have new [`losses`](LeaseTable::losses).
    pub losers: Vec<SessionId>,
    /// Sessions to end: they live, and do not acknowledge recalls.
    pub evicted: Vec<SessionId>,
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
    /// The session lately left recalls unacknowledged.
    Barred,
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
    /// It is broken, which is not durable yet. Nothing renews it.
    breaking: bool,
}

/// A recall without an answer yet.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    number: u64,
    keep: Option<LeaseMode>,
    since: u64,
    /// When the lease has ended if no answer comes.
    deadline: u64,
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
    /// Their leases are being fenced, or there were none.
    former_fenced: bool,
    /// Generations up to this one are of earlier runs.
    run_begins: LeaseGeneration,
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
            former_fenced: false,
            run_begins: LeaseGeneration(run << GRANT_BITS),
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

    /// Whether a question about what the inode holds must acquire it first: another session may have changes that wait.
    pub fn must_acquire_to_read(&self, session: SessionId, ino: Ino) -> bool {
        self.former.iter().any(|former| *former != session) || self.is_kept_by_other(session, ino)
    }

    /// A request of the session arrived, at `now`: leases that lapsed and did not break go on.
    pub fn renew(&mut self, now: u64, session: SessionId) {
        let holder = self.holders.entry(session).or_insert_with(|| Holder::new(now));
        holder.renewed = holder.renewed.max(now);
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
                // Blocked first: breaking a shared lease frees it at once.
                self.tickets.block(ticket, ino, other);
                if self.has_lapsed(now, other) {
                    self.break_lease(ino, other, &mut actions);
                } else {
                    let keep = (access == Access::Read).then_some(LeaseMode::Shared);
                    actions.recalls.extend(self.recall(now, ino, other, keep));
                }
            }
        }
        // A lease that broke at once may have freed it before another blocked it.
        actions.ready.retain(|other| *other != ticket);
        if self.is_ready(ticket) {
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
        let result = self.try_grant(now, session, ino, mode, None, &mut actions);
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
        holder.misses.forget();
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

    /// The session commits what it buffered under a lease: a recall of that lease waits for one more term.
    pub fn progress(&mut self, now: u64, session: SessionId, ino: Ino) {
        let extended = now + self.config.term_ms + self.config.margin_ms;
        let Some(lease) = self.leases.get_mut(&(ino, session)).filter(|lease| !lease.breaking) else {
            return;
        };
        let Some(before) = lease.recalls.first().map(|first| first.deadline) else { return };
        for recall in &mut lease.recalls {
            recall.deadline = recall.deadline.max(extended.min(recall.since + self.config.recall_max_ms));
        }
        let after = lease.recalls[0].deadline;
        self.deadlines.remove(&(before, ino, session));
        self.deadlines.insert((after, ino, session));
    }

    /// When [`tick`](Self::tick) has something to do at the earliest.
    pub fn next_deadline(&self) -> Option<u64> {
        let former = (!self.former.is_empty() && !self.former_fenced).then_some(self.former_until);
        self.deadlines.first().map(|(at, ..)| *at).into_iter().chain(former).min()
    }

    /// Ends leases whose holders have not answered in time.
    pub fn tick(&mut self, now: u64) -> Actions {
        let mut actions = Actions::default();
        while let Some(&(at, ino, session)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.missed(now, session, &mut actions);
            self.break_lease(ino, session, &mut actions);
        }
        self.fence_former(now, &mut actions);
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
        queued: Option<Ticket>,
        actions: &mut Actions,
    ) -> Result<LeaseGrant, Refusal> {
        if self.former.iter().any(|s| *s != session) {
            return Err(Refusal::Starting);
        }
        if self.holders.get(&session).is_some_and(|holder| holder.misses.bar(now, queued.is_some())) {
            return Err(Refusal::Barred);
        }
        if self.tickets.exclude(session, ino, mode, queued) {
            return Err(Refusal::Busy);
        }
        let own = self.leases.get(&(ino, session));
        if own.is_some_and(|lease| lease.breaking || !lease.recalls.is_empty())
            || self.has_lapsed(now, session)
        {
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
            if self.leases.contains_key(&(ino, other)) {
                // Granted once the break is durable, to a later request.
                return Err(Refusal::Held);
            }
        }
        if !self.leases.contains_key(&(ino, session)) && self.leases.len() >= self.config.budget {
            return Err(Refusal::Full);
        }
        Ok(self.put(ino, session, mode))
    }

    fn put(&mut self, ino: Ino, session: SessionId, mode: LeaseMode) -> LeaseGrant {
        match self.leases.get(&(ino, session)) {
            Some(lease) if lease.mode >= mode => self.insert(ino, session, lease.mode, lease.generation),
            _ => {
                self.generation.0 += 1;
                self.insert(ino, session, mode, self.generation)
            }
        }
    }

    /// The session has this lease from now on, as the one used last.
    fn insert(
        &mut self,
        ino: Ino,
        session: SessionId,
        mode: LeaseMode,
        generation: LeaseGeneration,
    ) -> LeaseGrant {
        self.last_used += 1;
        let used = self.last_used;
        let new = Lease { mode, generation, used, recalls: Vec::new(), breaking: false };
        if let Some(before) = self.leases.insert((ino, session), new) {
            debug_assert!(
                before.recalls.is_empty() && !before.breaking,
                "no grant while the lease is recalled"
            );
            self.order.remove(&before.used);
        }
        self.order.insert(used, (ino, session));
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.inos.insert(ino);
        }
        LeaseGrant { ino, mode, generation }
    }

    /// Recalls the leases that were granted longest ago, but not the one just granted.
    fn evict(&mut self, now: u64, granted: (Ino, SessionId), actions: &mut Actions) {
        let candidates = self.order.values().filter(|v| **v != granted).take(EVICT_SCAN);
        // A lapsed exclusive lease would break, and its holder may come back to it.
        let keeps = |v: &(Ino, SessionId)| {
            self.has_lapsed(now, v.1) && self.leases.get(v).is_some_and(|l| l.mode == LeaseMode::Exclusive)
        };
        let oldest: Vec<_> = candidates.filter(|v| !keeps(v)).take(EVICT_PER_GRANT).copied().collect();
        for (ino, session) in oldest {
            if self.has_lapsed(now, session) {
                self.break_lease(ino, session, actions);
            } else {
                actions.recalls.extend(self.recall(now, ino, session, None));
            }
        }
    }

    /// Makes a recall, unless one that asks for as much is outstanding.
    fn recall(&mut self, now: u64, ino: Ino, session: SessionId, keep: Option<LeaseMode>) -> Option<Recall> {
        let deadline = self.end_of_term(session);
        let lease = self.leases.get_mut(&(ino, session))?;
        if lease.breaking || lease.recalls.iter().any(|r| r.keep <= keep) {
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
        lease.recalls.push(Outstanding { number, keep, since: now, deadline });
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
        if lease.breaking {
            return;
        }
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

    /// A lease ended or became weaker.
    fn unblock(&mut self, ino: Ino, session: SessionId, actions: &mut Actions) {
        let left = self.leases.get(&(ino, session)).map(|lease| lease.mode);
        let still = |access| left.is_some_and(|mode| conflicts(access, mode));
        actions.ready.extend(self.tickets.unblock(ino, session, still));
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
