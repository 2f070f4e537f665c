//! The network's side: who may speak which protocol, and the way from a connection to the owner.

use crate::authority;
use crate::events::{Handle, Introduction};
use crate::observe::Observed;
use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::{Heartbeat, NodeRequest};
use quarry_common::wire::session::{Request, Response};
use quarry_host::{random, task};
use quarry_net::frame;
use quarry_net::identity::Role;
use quarry_net::rpc::{self, NodeProtocol, Peer, Replier, Service, SessionProtocol};
use quarry_net::transport::{Connection, Listener};
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Connections at once. Each costs some hundred kilobytes of buffers at worst.
const CONNECTIONS_MAX: usize = 16_384;

/// Takes connections until the listener is closed.
pub(crate) async fn accept(listener: Arc<dyn Listener>, owner: Handle) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some(connection) = listener.accept().await {
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(peer = %connection.peer(), "refused: {CONNECTIONS_MAX} connections are open");
            connection.close("this NameNode has too many connections");
            continue;
        };
        let owner = owner.clone();
        task::spawn(async move {
            serve(connection, owner).await;
            drop(permit);
        });
    }
}

async fn serve(connection: Arc<dyn Connection>, owner: Handle) {
    let peer = connection.peer().clone();
    tracing::debug!(%peer, address = %connection.remote_address(), "connected");
    match peer.role {
        Role::Client | Role::Gateway => {
            let service = Arc::new(ClientService {
                owner: owner.clone(),
                number: AtomicU64::new(0),
                session: Arc::default(),
            });
            rpc::serve::<SessionProtocol>(connection, service.clone()).await;
            match service.number.load(Ordering::Relaxed) {
                0 => {}
                number => owner.gone(number).await,
            }
        }
        Role::DataNode => match peer.id.parse() {
            Ok(id) => serve_node(connection, NodeId(id), owner).await,
            Err(_) => connection.close("a DataNode's id must be a number"),
        },
        Role::NameNode => connection.close("a NameNode has nothing to ask here"),
    }
    tracing::debug!(%peer, "disconnected");
}

/// One client.
struct ClientService {
    owner: Handle,
    /// The connection's number, once it is known; 0 before.
    number: AtomicU64,
    /// The session on it, for the log; 0 before.
    session: Arc<AtomicU64>,
}

impl Service<SessionProtocol> for ClientService {
    fn handle(&self, peer: &Peer<SessionProtocol>, request: Request, reply: Replier<SessionProtocol>) {
        let observed = Observed::new(peer.identity(), &self.session, &request, reply.operation());
        let reply = reply.observed(move |response| observed.answered(response));
        let request = match authority::judge(&peer.identity().rights, request) {
            Ok(request) => request,
            Err(why) => return reply.send(Response { result: Err(why), leases: Vec::new() }),
        };
        let number = peer.number();
        self.number.store(number, Ordering::Relaxed);
        let introduction =
            matches!(request, Request::OpenSession(_) | Request::ResumeSession { .. }).then(|| {
                Introduction {
                    owner: peer.identity().id.clone(),
                    pusher: peer.pusher(),
                    connection: peer.connection().clone(),
                }
            });
        self.owner.client(number, introduction, request, reply);
    }
}

/// One DataNode: its requests and its heartbeats.
async fn serve_node(connection: Arc<dyn Connection>, node: NodeId, owner: Handle) {
    // As of conversations: two equal numbers of 64 bits do not happen.
    let number = random::rng().random();
    let service = Arc::new(NodeService { node, number, owner: owner.clone() });
    let requests = rpc::serve::<NodeProtocol>(connection.clone(), service);
    tokio::select! {
        () = requests => {}
        () = heartbeats(&connection, node, number, &owner) => {}
    }
    owner.node_gone(node, number).await;
}

async fn heartbeats(connection: &Arc<dyn Connection>, node: NodeId, number: u64, owner: &Handle) {
    while let Ok(datagram) = connection.recv_datagram().await {
        match frame::decode::<Heartbeat>(&datagram) {
            Ok(heartbeat) => owner.heartbeat(node, number, heartbeat),
            Err(error) => {
                tracing::warn!(%node, %error, "a datagram is no heartbeat");
                connection.close("a datagram was no heartbeat");
                return;
            }
        }
    }
}

struct NodeService {
    node: NodeId,
    /// Tells connections of DataNodes apart.
    number: u64,
    owner: Handle,
}

impl Service<NodeProtocol> for NodeService {
    fn handle(&self, _peer: &Peer<NodeProtocol>, request: NodeRequest, reply: Replier<NodeProtocol>) {
        self.owner.node(self.node, self.number, request, reply);
    }
}
