//! From commands to entries of the log, and from committed entries back to those who wait.
//!
//! ```text
//!   admit ──> queue ──> entry ──> log ──> committed ──> applied ──> answer
//!             a few entries are on their way at a time; what arrives meanwhile goes into the next one
//! ```

use crate::entry::Builder;
use crate::events::{ClientReplier, Introduction, NodeReplier, Proposed};
use bytes::Bytes;
use quarry_common::ids::{PgId, SessionId};
use quarry_common::wire::fs::Timestamp;
use quarry_namenode_core::leases::Ticket;
use quarry_namenode_core::{Body, Command, Fence, LogicalTime};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// Entries on their way through the log: one that is being synced, and some whose turn comes with the next sync.
const IN_FLIGHT_MAX: usize = 4;
/// Commands that wait to get into an entry; more are refused.
pub(crate) const QUEUE_MAX: usize = 1 << 16;
/// Commands applied since the last checkpoint: when it does not keep up, commands wait. Some hundred megabytes of overlay.
pub(crate) const UNSAVED_MAX: usize = 200_000;

/// Who waits for a command, and how to go on with its outcome.
pub(crate) enum Waiter {
    /// A client's mutation.
    Mutation(MutationWaiter),
    /// A client that opens a session.
    OpenSession { connection: u64, introduction: Introduction, reply: ClientReplier },
    /// A client that ends its session.
    CloseSession { session: SessionId, reply: ClientReplier },
    /// The end of a session whose client is silent.
    Expire { session: SessionId },
    /// A block of chunk ids.
    Reserve { pg: PgId },
    /// A DataNode that registers.
    Register { reply: NodeReplier },
    /// A break of leases that other requests wait for.
    Fence { session: SessionId, fence: Fence },
    /// Nothing waits for it.
    Nothing,
    /// An administrator.
    Administer { reply: ClientReplier },
    /// A worker.
    Worker(oneshot::Sender<Proposed>),
}

/// A client's mutation.
pub(crate) struct MutationWaiter {
    pub(crate) session: SessionId,
    pub(crate) reply: ClientReplier,
    /// The session has the inode open that the mutation makes.
    pub(crate) opens: bool,
    /// What it acquired under leases.
    pub(crate) ticket: Option<Ticket>,
}

/// A command and who waits for it.
pub(crate) struct Pending {
    pub(crate) body: Body,
    pub(crate) waiter: Waiter,
}

/// The queue of commands, and the entries on their way.
pub(crate) struct Proposer {
    incarnation: u64,
    last_tag: u64,
    queue: VecDeque<Pending>,
    in_flight: BTreeMap<u64, Vec<Waiter>>,
    /// Commands applied since the last freeze, and those in a frozen overlay that is being saved.
    unsaved: (usize, usize),
}

impl Proposer {
    /// `incarnation` tells this run from all others.
    pub(crate) fn new(incarnation: u64) -> Self {
        Self { incarnation, last_tag: 0, queue: VecDeque::new(), in_flight: BTreeMap::new(), unsaved: (0, 0) }
    }

    /// Puts a command into the queue; gives it back when there are too many.
    #[expect(clippy::result_large_err, reason = "the command is moved either way")]
    pub(crate) fn push(&mut self, pending: Pending) -> Result<(), Pending> {
        if self.queue.len() >= QUEUE_MAX {
            return Err(pending);
        }
        self.queue.push_back(pending);
        Ok(())
    }

    /// The next entry for the log, if there is one and the log may have it.
    pub(crate) fn next_entry(&mut self, now: Timestamp, clock: LogicalTime) -> Option<(u64, Bytes)> {
        if self.queue.is_empty() || self.in_flight.len() >= IN_FLIGHT_MAX || self.is_paused() {
            return None;
        }
        let mut builder = Builder::default();
        let mut waiters = Vec::new();
        while !builder.is_full()
            && let Some(Pending { body, waiter }) = self.queue.pop_front()
        {
            builder.push(&Command { now, clock, body });
            waiters.push(waiter);
        }
        self.last_tag += 1;
        self.in_flight.insert(self.last_tag, waiters);
        Some((self.last_tag, builder.finish(self.incarnation, self.last_tag)))
    }

    /// Those who wait for a committed entry, in the order of its commands; nobody if another run proposed it.
    pub(crate) fn committed(&mut self, incarnation: u64, tag: u64) -> Vec<Waiter> {
        if incarnation != self.incarnation {
            return Vec::new();
        }
        self.in_flight.remove(&tag).unwrap_or_default()
    }

    /// Those whose entry the log has not taken.
    pub(crate) fn refused(&mut self, tag: u64) -> Vec<Waiter> {
        self.in_flight.remove(&tag).unwrap_or_default()
    }

    /// Commands were applied.
    pub(crate) fn applied(&mut self, commands: usize) {
        self.unsaved.0 += commands;
    }

    /// A checkpoint begins, or a failed one is repeated.
    pub(crate) fn frozen(&mut self) {
        if self.unsaved.1 == 0 {
            self.unsaved = (0, self.unsaved.0);
        }
    }

    /// A checkpoint is complete.
    pub(crate) fn saved(&mut self) {
        self.unsaved.1 = 0;
    }

    /// Commands that only the log has.
    pub(crate) fn unsaved(&self) -> usize {
        self.unsaved.0 + self.unsaved.1
    }

    /// Commands wait for a checkpoint.
    pub(crate) fn is_paused(&self) -> bool {
        self.unsaved() >= UNSAVED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry;

    fn pending() -> Pending {
        let (done, _) = oneshot::channel();
        Pending {
            body: Body::EndSession { session: SessionId(1), expired: false },
            waiter: Waiter::Worker(done),
        }
    }

    fn next(proposer: &mut Proposer) -> Option<(u64, Bytes)> {
        proposer.next_entry(Timestamp(5), LogicalTime(7))
    }

    #[test]
    fn what_arrives_while_the_log_is_busy_goes_together() {
        let mut proposer = Proposer::new(9);
        assert!(next(&mut proposer).is_none());
        for tag in 1..=IN_FLIGHT_MAX as u64 {
            proposer.push(pending()).ok().unwrap();
            assert_eq!(next(&mut proposer).unwrap().0, tag);
        }
        for _ in 0..10 {
            proposer.push(pending()).ok().unwrap();
        }
        assert!(next(&mut proposer).is_none());
        assert!(proposer.committed(8, 1).is_empty(), "another run's");
        assert_eq!(proposer.committed(9, 1).len(), 1);
        let (tag, bytes) = next(&mut proposer).unwrap();
        let entry = entry::decode(&bytes).unwrap();
        assert_eq!((entry.incarnation, entry.tag, entry.commands.len()), (9, tag, 10));
        assert_eq!((entry.commands[0].now, entry.commands[0].clock), (Timestamp(5), LogicalTime(7)));
        assert_eq!(proposer.refused(tag).len(), 10);
    }

    #[test]
    fn commands_wait_for_a_checkpoint_that_does_not_keep_up() {
        let mut proposer = Proposer::new(9);
        proposer.push(pending()).ok().unwrap();
        proposer.applied(UNSAVED_MAX - 1);
        proposer.frozen();
        proposer.applied(1);
        assert!(next(&mut proposer).is_none());
        proposer.frozen();
        proposer.saved();
        assert_eq!(proposer.unsaved(), 1);
        assert!(next(&mut proposer).is_some());
    }
}
