//! Committed entries: applied, and answered.

use super::proposer::{MutationWaiter, Waiter};
use super::{Fatal, Owner, refusal, respond};
use crate::entry;
use quarry_common::ids::Ino;
use quarry_common::wire::cluster::NodeReply;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::MutationReply;
use quarry_common::wire::session::Reply;
use quarry_log::{Committed, LogError};
use quarry_namenode_core::{Effect, Outcome};

impl Owner {
    /// The next entry of the log, of this run or an earlier one.
    pub(super) fn committed(&mut self, committed: &Committed) -> Result<(), Fatal> {
        let Committed { index, entry } = committed;
        if !entry.is_empty() {
            self.apply(*index, entry)?;
        }
        self.around.delivered.send_replace(*index);
        Ok(())
    }

    fn apply(&mut self, index: u64, bytes: &[u8]) -> Result<(), Fatal> {
        let entry = entry::decode(bytes).map_err(|reason| Fatal::Entry { index, reason })?;
        let mut waiters = self.proposer.committed(entry.incarnation, entry.tag).into_iter();
        self.proposer.applied(entry.commands.len());
        for (place, command) in entry.commands.iter().enumerate() {
            let (outcome, effects) = self.state.apply(index, command)?;
            let mut changed = Vec::new();
            for effect in effects {
                self.effect(effect, &mut changed)?;
            }
            self.feed((index, place), &command.body, &outcome, &changed)?;
            if let Some(waiter) = waiters.next() {
                self.conclude(waiter, outcome, &changed)?;
            }
        }
        self.feed.advance(index);
        Ok(())
    }

    fn effect(&mut self, effect: Effect, changed: &mut Vec<Ino>) -> Result<(), Fatal> {
        match effect {
            Effect::Orphaned(_) => self.reap_due = true,
            Effect::PlacementChanged => self.topology_changed = true,
            Effect::SessionEnded(session) => self.session_ended(session)?,
            Effect::Changed(ino) => changed.push(ino),
            // The deleter looks at its queue by itself.
            Effect::DeleteChunks => {}
        }
        Ok(())
    }

    fn conclude(&mut self, waiter: Waiter, outcome: Outcome, changed: &[Ino]) -> Result<(), Fatal> {
        match waiter {
            Waiter::Mutation(waiter) => self.mutated(waiter, outcome, changed)?,
            Waiter::OpenSession { connection, introduction, reply } => {
                self.session_opened(connection, introduction, reply, outcome);
            }
            Waiter::CloseSession { reply, .. } => respond(reply, Ok(Reply::Done)),
            Waiter::Expire { .. } => {}
            Waiter::Reserve { pg } => self.reserved(pg, outcome)?,
            Waiter::Register { reply } => reply.send(match outcome {
                Outcome::Refused(why) => Err(ServiceError::BadRequest(why)),
                _ => Ok(NodeReply::Registered {
                    cluster: self.state.meta().cluster.clone(),
                    heartbeat_interval_ms: super::millis(self.around.config.heartbeat_interval),
                }),
            }),
            Waiter::Worker(done) => {
                // The worker may have ended.
                let _ = done.send(Ok(outcome));
            }
        }
        Ok(())
    }

    fn mutated(&mut self, waiter: MutationWaiter, outcome: Outcome, changed: &[Ino]) -> Result<(), Fatal> {
        let Outcome::Mutation(mut result) = outcome else {
            unreachable!("a mutation gives its own outcome, not {outcome:?}");
        };
        if waiter.opens
            && let Ok(MutationReply::Attr(attr)) = &result
            && self.registry.is_live(waiter.session)
            && self.opens.open(waiter.session, attr.ino).is_err()
        {
            result = Err(FsError::NoLocks.into());
        }
        match result {
            Ok(answer) => self.answer_mutation(waiter, answer, changed),
            Err(error) => {
                self.release_ticket(waiter.ticket);
                waiter.reply.send(refusal(error));
                Ok(())
            }
        }
    }

    /// What became of a proposal. Success is concluded when the entry comes out of the log.
    pub(super) fn proposed(&mut self, tag: u64, result: Result<u64, LogError>) -> Result<(), Fatal> {
        match result {
            Ok(_) => Ok(()),
            Err(error @ LogError::Full { .. }) => {
                tracing::warn!(%error, "changes wait for a checkpoint");
                for waiter in self.proposer.refused(tag) {
                    self.refuse(waiter, "the log is full until the next checkpoint");
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
