//! A NameNode that notes what it is told.

use quarry_common::ids::{ChunkId, Epoch, NamespaceId, NodeId, PgId};
use quarry_common::wire::cluster::{
    DiskStatus, Group, Heartbeat, Member, MemberState, NamespaceStamp, Node, NodeReply, NodeRequest,
    NodeState, Placement, RegisterNode, Replication,
};
use quarry_common::wire::fs::ChunkInfo;
use quarry_net::frame;
use quarry_net::rpc::{NodeProtocol, Peer, Replier, Service, serve};
use quarry_net::transport::{Connection, Listener, Transport};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The file system that it is of.
const STAMP: NamespaceStamp = NamespaceStamp { namespace: NamespaceId(1), generation: 1, position: 1 };

/// What it was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) registered: Vec<RegisterNode>,
    pub(crate) heartbeats: Vec<Heartbeat>,
    pub(crate) bad: Vec<ChunkId>,
    /// The last report of each node that reported.
    pub(crate) disks: Vec<DiskStatus>,
}

struct Shared {
    told: watch::Sender<Told>,
    chunks: Mutex<BTreeMap<ChunkId, ChunkInfo>>,
    placement: Mutex<Placement>,
    /// Nodes that registered, and where each is.
    nodes: Mutex<BTreeMap<NodeId, String>>,
    connections: Mutex<Vec<Arc<dyn Connection>>>,
}

/// The NameNode.
pub(crate) struct FakeNameNode {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl FakeNameNode {
    pub(super) async fn start(transport: Arc<dyn Transport>) -> Self {
        let listener = transport.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_address();
        let shared = Arc::new(Shared {
            told: watch::Sender::new(Told::default()),
            chunks: Mutex::default(),
            placement: Mutex::default(),
            nodes: Mutex::default(),
            connections: Mutex::default(),
        });
        tokio::spawn(accept(listener, shared.clone()));
        Self { shared, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until what it was told is enough.
    pub(crate) async fn until(&self, enough: impl FnMut(&Told) -> bool) -> Told {
        let mut told = self.shared.told.subscribe();
        let waiting = tokio::time::timeout(Duration::from_secs(30), told.wait_for(enough));
        waiting.await.expect("the NameNode is not told").unwrap().clone()
    }

    /// From now on it knows this chunk.
    pub(crate) fn knows(&self, info: ChunkInfo) {
        self.shared.chunks.lock().unwrap().insert(info.id, info);
    }

    pub(crate) fn set_placement(&self, placement: Placement) {
        *self.shared.placement.lock().unwrap() = placement;
    }

    /// Breaks all conversations.
    pub(crate) fn hang_up(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            connection.close("hanging up");
        }
    }
}

async fn accept(listener: Box<dyn Listener>, shared: Arc<Shared>) {
    while let Some(connection) = listener.accept().await {
        shared.connections.lock().unwrap().push(connection.clone());
        tokio::spawn(serve::<NodeProtocol>(connection.clone(), shared.clone()));
        let shared = shared.clone();
        tokio::spawn(async move {
            while let Ok(datagram) = connection.recv_datagram().await {
                let heartbeat = frame::decode(&datagram).unwrap();
                shared.told.send_modify(|told| told.heartbeats.push(heartbeat));
            }
        });
    }
}

impl Shared {
    /// What a test has set; besides it all registered nodes, which all belong to group 1.
    fn placement(&self) -> Placement {
        let mut placement = self.placement.lock().unwrap().clone();
        let nodes = self.nodes.lock().unwrap();
        let member = |node: &NodeId| Member { node: *node, state: MemberState::Serving };
        placement.groups.push(Group {
            id: PgId(1),
            epoch: Epoch(1),
            replication: Replication::All,
            members: nodes.keys().map(member).collect(),
        });
        let healthy = |(id, address): (&NodeId, &String)| Node {
            id: *id,
            address: address.clone(),
            state: NodeState::Healthy,
        };
        placement.nodes.extend(nodes.iter().map(healthy));
        placement
    }
}

impl Service<NodeProtocol> for Shared {
    fn handle(&self, _peer: &Peer<NodeProtocol>, request: NodeRequest, reply: Replier<NodeProtocol>) {
        reply.send(Ok(match request {
            NodeRequest::Register { node: register, .. } => {
                self.nodes.lock().unwrap().insert(register.node, register.address.clone());
                self.told.send_modify(|told| told.registered.push(register));
                NodeReply::Registered { cluster: "test".into(), heartbeat_interval_ms: 50, stamp: STAMP }
            }
            NodeRequest::ReportBad(ids) => {
                self.told.send_modify(|told| told.bad.extend(ids));
                NodeReply::Done
            }
            NodeRequest::ReportDisks(disks) => {
                self.told.send_modify(|told| told.disks = disks);
                NodeReply::Done
            }
            NodeRequest::Namespace => NodeReply::Namespace(STAMP),
            NodeRequest::Placement => NodeReply::Placement(self.placement()),
            NodeRequest::Chunks(ids) => {
                let known = self.chunks.lock().unwrap();
                NodeReply::Chunks(ids.iter().filter_map(|id| known.get(id).copied()).collect())
            }
        }));
    }
}
