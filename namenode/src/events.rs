//! How everything else talks to the owner of the state: by events, over one bounded channel.

use crate::owner::Owner;
use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::{Heartbeat, NodeRequest};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::Request;
use quarry_namenode_core::{Body, Outcome};
use quarry_net::rpc::{NodeProtocol, Pusher, Replier, SessionProtocol};
use quarry_net::transport::Connection;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Events that wait for the owner. Each client may have some hundred requests unanswered; beyond this many of all clients
/// together, they are told to come again.
pub(crate) const EVENTS_MAX: usize = 1 << 16;

/// Answers a client.
pub(crate) type ClientReplier = Replier<SessionProtocol>;
/// Answers a DataNode.
pub(crate) type NodeReplier = Replier<NodeProtocol>;
/// Says something to a client.
pub(crate) type ClientPusher = Pusher<SessionProtocol>;

/// Who opens or resumes a session.
pub(crate) struct Introduction {
    /// Id of the certificate.
    pub(crate) owner: String,
    /// For saying something to it.
    pub(crate) pusher: ClientPusher,
    /// The connection itself.
    pub(crate) connection: Arc<dyn Connection>,
}

/// Something for the owner to do. Each is done at once, without waiting.
pub(crate) enum Event {
    /// A client asks.
    Client {
        /// Number of its connection.
        connection: u64,
        /// With requests that bind the connection to a session.
        introduction: Option<Introduction>,
        /// What.
        request: Request,
        /// How to answer.
        reply: ClientReplier,
    },
    /// A client's connection ended.
    Gone {
        /// Its number.
        connection: u64,
    },
    /// A DataNode asks.
    Node {
        /// Which, by its certificate.
        node: NodeId,
        /// Number of its connection.
        connection: u64,
        /// What.
        request: NodeRequest,
        /// How to answer.
        reply: NodeReplier,
    },
    /// A DataNode lives.
    Heartbeat {
        /// Which, by its certificate.
        node: NodeId,
        /// Number of its connection.
        connection: u64,
        /// What it says.
        heartbeat: Heartbeat,
    },
    /// A DataNode's connection ended.
    NodeGone {
        /// Which, by its certificate.
        node: NodeId,
        /// Number of its connection.
        connection: u64,
    },
    /// A worker wants something looked up or changed in memory.
    Ask(Question),
    /// A worker wants a command carried out.
    Propose {
        /// What.
        body: Body,
        /// What came of it, once applied.
        done: oneshot::Sender<Proposed>,
    },
}

/// A piece of work that runs on the owner's thread. It must be short.
pub(crate) type Question = Box<dyn FnOnce(&mut Owner) -> Result<(), crate::owner::Fatal> + Send>;

/// What came of a worker's command.
pub(crate) type Proposed = Result<Outcome, Refused>;

/// The log does not take commands at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// The owner has stopped, and so must whoever asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the NameNode is stopping")]
pub(crate) struct Stopped;

/// The way to the owner.
#[derive(Clone)]
pub(crate) struct Handle {
    events: mpsc::Sender<Event>,
}

impl Handle {
    /// A handle, and where its events come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        (Self { events }, receiver)
    }

    /// Hands a client's request over, or tells the client that there are too many.
    pub(crate) fn client(
        &self,
        connection: u64,
        introduction: Option<Introduction>,
        request: Request,
        reply: ClientReplier,
    ) {
        let event = Event::Client { connection, introduction, request, reply };
        if let Err(mpsc::error::TrySendError::Full(Event::Client { reply, .. })) = self.events.try_send(event)
        {
            reply.send(crate::owner::refusal(overloaded()));
        }
    }

    /// Hands a DataNode's request over, or tells it that there are too many.
    pub(crate) fn node(&self, node: NodeId, connection: u64, request: NodeRequest, reply: NodeReplier) {
        let event = Event::Node { node, connection, request, reply };
        if let Err(mpsc::error::TrySendError::Full(Event::Node { reply, .. })) = self.events.try_send(event) {
            reply.send(Err(overloaded()));
        }
    }

    /// Hands a heartbeat over. One that finds no room is lost, as datagrams may be.
    pub(crate) fn heartbeat(&self, node: NodeId, connection: u64, heartbeat: Heartbeat) {
        let _ = self.events.try_send(Event::Heartbeat { node, connection, heartbeat });
    }

    /// A DataNode's connection ended. Waits for room: this must not be lost.
    pub(crate) async fn node_gone(&self, node: NodeId, connection: u64) {
        let _ = self.events.send(Event::NodeGone { node, connection }).await;
    }

    /// A client's connection ended. Waits for room: this must not be lost.
    pub(crate) async fn gone(&self, connection: u64) {
        let _ = self.events.send(Event::Gone { connection }).await;
    }

    /// Runs a piece of work on the owner's thread and gives what it returns.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Owner) -> Result<T, crate::owner::Fatal> + Send + 'static,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |owner| {
            // Whoever asked may have given up.
            let _ = answer.send(question(owner)?);
            Ok(())
        });
        self.events.send(Event::Ask(question)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// Events that wait.
    pub(crate) fn waiting(&self) -> usize {
        EVENTS_MAX - self.events.capacity()
    }

    /// Waits until the owner has stopped.
    pub(crate) async fn closed(&self) {
        self.events.closed().await;
    }

    /// Has a command carried out; gives its outcome after it is durable and applied.
    pub(crate) async fn propose(&self, body: Body) -> Result<Proposed, Stopped> {
        let (done, outcome) = oneshot::channel();
        self.events.send(Event::Propose { body, done }).await.map_err(|_| Stopped)?;
        outcome.await.map_err(|_| Stopped)
    }
}

fn overloaded() -> ServiceError {
    ServiceError::Unavailable("the NameNode has too many requests at once".to_owned())
}
