//! Clients that follow the change feed: their requests wait until there is something to tell.

use super::feed::Wanted;
use super::{Fatal, Owner, refusal, respond};
use crate::events::ClientReplier;
use quarry_common::ids::Ino;
use quarry_common::wire::changes::CHANGES_WAIT_MAX_MS;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::Reply;
use quarry_namenode_core::{Body, Outcome};
use std::time::{Duration, Instant};

/// Requests that wait for events: each looks at each new event.
const WAITING_MAX: usize = 256;

/// A watcher's request that waits for events.
struct Waiting {
    connection: u64,
    wanted: Wanted,
    /// Up to here there is nothing for it.
    seen: u64,
    deadline: Instant,
    reply: ClientReplier,
}

/// The requests that wait for events.
#[derive(Default)]
pub(super) struct Watchers {
    waiting: Vec<Waiting>,
    /// Some of them may have an answer now.
    stirred: bool,
}

impl Watchers {
    /// The connection is gone, and with it the reader of answers to its requests.
    pub(super) fn disconnected(&mut self, connection: u64) {
        self.waiting.retain(|waiting| waiting.connection != connection);
    }
}

impl Owner {
    /// A client watches. `after` is `None` for one that begins now.
    pub(super) fn changes(
        &mut self,
        connection: u64,
        (after, below, max): (Option<u64>, Ino, u32),
        reply: ClientReplier,
    ) {
        let Some(after) = after else {
            return respond(reply, Ok(Reply::Changes { events: Vec::new(), next: self.feed.newest }));
        };
        let wanted = Wanted { after, below, max };
        let deadline = self.now + Duration::from_millis(CHANGES_WAIT_MAX_MS);
        self.answer_or_wait(Waiting { connection, wanted, seen: after, deadline, reply });
    }

    fn answer_or_wait(&mut self, mut waiting: Waiting) {
        let is_late = waiting.deadline <= self.now;
        match self.feed.answer(waiting.wanted, &mut waiting.seen, is_late) {
            Some(answer) => respond(waiting.reply, Ok(answer)),
            None if self.watchers.waiting.len() < WAITING_MAX => self.watchers.waiting.push(waiting),
            None => {
                let why = format!("{WAITING_MAX} clients watch already");
                waiting.reply.send(refusal(ServiceError::Unavailable(why)));
            }
        }
    }

    /// Answers those for whom there is something now.
    pub(super) fn answer_watchers(&mut self) {
        if std::mem::take(&mut self.watchers.stirred) {
            for waiting in std::mem::take(&mut self.watchers.waiting) {
                self.answer_or_wait(waiting);
            }
        }
    }

    /// Those who have waited for as long as they may are answered in this turn.
    pub(super) fn time_out_watchers(&mut self) {
        self.watchers.stirred |= self.watchers.waiting.iter().any(|waiting| waiting.deadline <= self.now);
    }

    /// The process ends, and everything will be in a checkpoint: who waits is told from where to go on afterwards.
    /// Tells whether there is anybody.
    pub(crate) fn dismiss_watchers(&mut self) -> bool {
        let waiting = self.watchers.waiting.len();
        self.feed_checkpointing();
        self.answer_watchers();
        self.watchers.waiting.len() < waiting
    }

    /// The entry of the log is applied to its end.
    pub(super) fn feed_advanced(&mut self, index: u64) {
        self.feed.advance(index);
        self.watchers.stirred = true;
    }

    /// Everything up to now is in a checkpoint that is about to be made.
    pub(super) fn feed_checkpointing(&mut self) {
        self.feed.checkpointing();
        self.watchers.stirred = true;
    }

    /// A command was applied, the one at this place of the entry.
    pub(super) fn feed(
        &mut self,
        at: (u64, usize),
        body: &Body,
        outcome: &Outcome,
        changed: &[Ino],
    ) -> Result<(), Fatal> {
        // A repeated request gets its first answer again, and changes nothing.
        if !changed.is_empty() {
            self.feed.record(&self.state, at, body, outcome)?;
        }
        Ok(())
    }
}
