//! Commands on their way through the log: admitted to the queue, put into entries, applied when their entry comes back
//! committed, and concluded with their outcome.

use super::proposer::{MutationWaiter, Pending, Waiter};
use super::{Fatal, Owner, refusal, respond};
use crate::entry;
use crate::events::{Proposed, Refused};
use quarry_common::ids::Ino;
use quarry_common::wire::cluster::NodeReply;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::Reply;
use quarry_log::{Committed, LogError};
use quarry_namenode_core::{Body, Effect, Outcome};
use tokio::sync::oneshot;

impl Owner {
    /// A worker's command.
    pub(super) fn propose_for(&mut self, body: Body, done: oneshot::Sender<Proposed>) {
        self.admit(Pending { body, waiter: Waiter::Worker(done) });
    }

    /// Puts a command into the queue, or tells who waits for it that there are too many.
    pub(super) fn admit(&mut self, pending: Pending) {
        if let Err(Pending { waiter, .. }) = self.commands.proposer.push(pending) {
            self.refuse(waiter, "the NameNode has too many changes at once");
        }
    }

    /// A command has not been carried out, and will not be.
    pub(super) fn refuse(&mut self, waiter: Waiter, why: &str) {
        let unavailable = || ServiceError::Unavailable(why.to_owned());
        match waiter {
            Waiter::Mutation(MutationWaiter { reply, ticket, .. }) => {
                self.release_ticket(ticket);
                reply.send(refusal(unavailable()));
            }
            Waiter::OpenSession { reply, .. } | Waiter::Administer { reply } => {
                reply.send(refusal(unavailable()));
            }
            Waiter::CloseSession { session, reply } => {
                self.clients.registry.not_ended(session);
                reply.send(refusal(unavailable()));
            }
            Waiter::Expire { session } => self.clients.registry.not_ended(session),
            Waiter::Reserve { pg } => {
                self.grants.ids.not_reserved(pg);
                self.refuse_grants(why);
            }
            Waiter::Register { reply } => reply.send(Err(unavailable())),
            Waiter::Fence { session, fence } => self.clients.leasing.unfenced.push((session, fence)),
            Waiter::Nothing => {}
            Waiter::Worker(done) => {
                // The worker may have ended.
                let _ = done.send(Err(Refused(why.to_owned())));
            }
        }
    }

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
        let mut waiters = self.commands.proposer.committed(entry.incarnation, entry.tag).into_iter();
        self.commands.proposer.applied(entry.commands.len());
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
        self.feed_advanced(index);
        Ok(())
    }

    fn effect(&mut self, effect: Effect, changed: &mut Vec<Ino>) -> Result<(), Fatal> {
        match effect {
            Effect::Orphaned(_) | Effect::Erased => self.orphans.due = true,
            Effect::PlacementChanged => self.topology.changed = true,
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
            Waiter::Expire { .. } | Waiter::Nothing => {}
            Waiter::Fence { session, fence } => self.fenced(session, fence)?,
            Waiter::Reserve { pg } => self.reserved(pg, outcome)?,
            Waiter::Register { reply } => reply.send(match outcome {
                Outcome::Refused(why) => Err(ServiceError::BadRequest(why)),
                _ => Ok(NodeReply::Registered {
                    cluster: self.state.meta().cluster.clone(),
                    heartbeat_interval_ms: super::millis(self.around.config.heartbeat_interval),
                    stamp: self.state.meta().stamp(),
                }),
            }),
            Waiter::Administer { reply } => match outcome {
                Outcome::Refused(why) => respond(reply, Ok(Reply::Refused(why))),
                _ => respond(reply, Ok(Reply::Done)),
            },
            Waiter::Worker(done) => {
                // The worker may have ended.
                let _ = done.send(Ok(outcome));
            }
        }
        Ok(())
    }

    /// What became of a proposal. Success is concluded when the entry comes out of the log.
    pub(super) fn proposed(&mut self, tag: u64, result: Result<u64, LogError>) -> Result<(), Fatal> {
        match result {
            Ok(_) => Ok(()),
            Err(error @ LogError::Full { .. }) => {
                tracing::warn!(%error, "changes wait for a checkpoint");
                for waiter in self.commands.proposer.refused(tag) {
                    self.refuse(waiter, "the log is full until the next checkpoint");
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
