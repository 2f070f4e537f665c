//! A small cluster of fakes in this process, spoken to over real QUIC on loopback.

mod datanode;
mod namenode;

pub(crate) use datanode::{FakeDataNode, Mood};
pub(crate) use namenode::{FakeNameNode, Fate};

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::fs::FileSystem;
use quarry_common::ids::{Epoch, NodeId, PgId};
use quarry_common::wire::cluster::{Group, Member, MemberState, Node, NodeState, Placement, Replication};
use quarry_net::identity::{CertPaths, Credentials, Role, init_ca, issue};
use quarry_net::transport::quic::QuicTransport;
use quarry_net::transport::{Connection, Listener, Transport};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// The authority and everything that it certified.
pub(crate) struct World {
    dir: TempDir,
    pub(crate) namenode: Arc<FakeNameNode>,
    pub(crate) datanodes: Vec<Arc<FakeDataNode>>,
    pub(crate) server: Arc<Server>,
}

impl World {
    /// With so many DataNodes, numbered from 1, and one group of all of them.
    pub(crate) async fn new(datanodes: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_ca(&dir.path().join("ca"), "c").unwrap();
        let transport = |role, id: &str| {
            let (_, transport) = certify(&dir, role, id);
            transport
        };
        let namenode = Arc::new(FakeNameNode::default());
        let service = namenode.clone();
        let server = Server::start(transport(Role::NameNode, "1"), move |connection| {
            namenode::serve(service.clone(), connection)
        });
        let server = server.await;
        let mut nodes = Vec::new();
        for id in 1..=datanodes {
            nodes.push(FakeDataNode::start(NodeId(id), transport(Role::DataNode, &id.to_string())).await);
        }
        for node in &nodes {
            node.know(&nodes);
        }
        let world = Self { dir, namenode, datanodes: nodes, server };
        let all: Vec<u32> = (1..=datanodes).collect();
        world.place(&[&all]);
        world
    }

    /// Makes groups, numbered from 1, of these nodes.
    pub(crate) fn place(&self, groups: &[&[u32]]) {
        let group = |(i, nodes): (usize, &&[u32])| Group {
            id: PgId(i as u32 + 1),
            epoch: Epoch(1),
            replication: Replication::Factor(nodes.len().max(1) as u8),
            members: nodes.iter().map(|n| Member { node: NodeId(*n), state: MemberState::Serving }).collect(),
        };
        let groups = groups.iter().enumerate().map(group).collect();
        let node = |n: &Arc<FakeDataNode>| Node { id: n.id, address: n.address(), state: NodeState::Healthy };
        let nodes = self.datanodes.iter().map(node).collect();
        self.namenode.place(Placement { version: 0, nodes, groups });
    }

    pub(crate) fn config(&self) -> (ClientConfig, Arc<dyn Transport>) {
        let (certs, transport) = certify(&self.dir, Role::Client, "me");
        (ClientConfig::new(self.server.address.to_string(), certs), transport)
    }

    pub(crate) async fn mount(&self) -> FileSystem {
        self.mount_with(|_| {}).await.unwrap()
    }

    pub(crate) async fn mount_with(
        &self,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Result<FileSystem, ClientError> {
        let (mut config, transport) = self.config();
        change(&mut config);
        FileSystem::connect(config, transport).await
    }

    /// The NameNode goes, with all that it keeps in memory only but the open table.
    pub(crate) async fn stop_namenode(&self) {
        self.server.stop().await;
        self.namenode.forget_peers();
    }

    pub(crate) fn node(&self, id: u32) -> &Arc<FakeDataNode> {
        &self.datanodes[id as usize - 1]
    }
}

fn certify(dir: &TempDir, role: Role, id: &str) -> (CertPaths, Arc<dyn Transport>) {
    let out: PathBuf = dir.path().join(format!("{role}-{id}-{}", rand::random::<u32>()));
    let paths = issue(&dir.path().join("ca"), role, id, &[], &out).unwrap();
    let transport = QuicTransport::new(Credentials::load(&paths).unwrap()).unwrap();
    (paths, Arc::new(transport))
}

/// Takes connections, and can lose them.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<dyn Connection>>>>,
    listener: tokio::sync::Mutex<Option<Arc<Box<dyn Listener>>>>,
    transport: Arc<dyn Transport>,
    serve: Serve,
}

type Serve = Arc<dyn Fn(Arc<dyn Connection>) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

impl Server {
    pub(crate) async fn start<F>(
        transport: Arc<dyn Transport>,
        serve: impl Fn(Arc<dyn Connection>) -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = transport.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let server = Arc::new(Self {
            address: listener.local_address(),
            connections: Arc::default(),
            listener: tokio::sync::Mutex::new(None),
            transport,
            serve: Arc::new(move |connection| Box::pin(serve(connection))),
        });
        server.accept_on(listener).await;
        server
    }

    async fn accept_on(&self, listener: Box<dyn Listener>) {
        let listener = Arc::new(listener);
        *self.listener.lock().await = Some(listener.clone());
        let (connections, serve) = (self.connections.clone(), self.serve.clone());
        tokio::spawn(async move {
            while let Some(connection) = listener.accept().await {
                connections.lock().unwrap().push(connection.clone());
                tokio::spawn(serve(connection));
            }
        });
    }

    /// Breaks all connections.
    pub(crate) fn lose_connections(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.close("lost in a test");
        }
    }

    /// Nobody listens any more.
    pub(crate) async fn stop(&self) {
        if let Some(listener) = self.listener.lock().await.take() {
            listener.close().await;
        }
        self.lose_connections();
    }

    /// Listens again where it did.
    pub(crate) async fn restart(&self) {
        let listener = loop {
            match self.transport.listen(self.address).await {
                Ok(listener) => break listener,
                // The old socket goes when its last packets are sent.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        self.accept_on(listener).await;
    }
}
