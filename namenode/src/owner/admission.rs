//! The way of commands into the queue for the log.

use super::proposer::{MutationWaiter, Pending, Waiter};
use super::{Fatal, Owner, refusal};
use crate::handle::{ClientReplier, Proposed, Refused};
use quarry_common::ids::SessionId;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Mutation, NewNode};
use quarry_namenode_core::Body;
use tokio::sync::oneshot;

impl Owner {
    /// A client's mutation.
    pub(super) fn mutate(
        &mut self,
        session: SessionId,
        (slot, sequence): (u16, u64),
        mutation: Mutation,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let opens = matches!(mutation, Mutation::Create { node: NewNode::File { open: true }, .. });
        let waiter = Waiter::Mutation(MutationWaiter { session, reply, opens, ticket: None });
        let body = Body::Mutate { session, slot, sequence, mutation };
        self.acquire_for(session, Pending { body, waiter })
    }

    /// A worker's command.
    pub(super) fn propose_for(&mut self, body: Body, done: oneshot::Sender<Proposed>) {
        self.admit(Pending { body, waiter: Waiter::Worker(done) });
    }

    /// Puts a command into the queue, or tells who waits for it that there are too many.
    pub(super) fn admit(&mut self, pending: Pending) {
        if let Err(Pending { waiter, .. }) = self.proposer.push(pending) {
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
            Waiter::OpenSession { reply, .. } => {
                reply.send(refusal(unavailable()));
            }
            Waiter::CloseSession { session, reply } => {
                self.registry.not_ended(session);
                reply.send(refusal(unavailable()));
            }
            Waiter::Expire { session } => self.registry.not_ended(session),
            Waiter::Reserve { pg } => {
                self.ids.not_reserved(pg);
                self.refuse_grants(why);
            }
            Waiter::Register { reply } => reply.send(Err(unavailable())),
            Waiter::Worker(done) => {
                // The worker may have ended.
                let _ = done.send(Err(Refused(why.to_owned())));
            }
        }
    }
}
