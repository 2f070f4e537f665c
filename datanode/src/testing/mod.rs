//! DataNodes in one process, over real connections, with disks in memory and a NameNode that only listens.

mod client;
mod namenode;

pub(crate) use client::{chunk, data, ids};
pub(crate) use namenode::FakeNameNode;

use crate::config::DataNodeConfig;
use crate::run::run_on;
use client::Asker;
use quarry_common::ids::NodeId;
use quarry_common::wire::data::Endpoint;
use quarry_host::disk::faulty::FaultyDisk;
use quarry_net::identity::{Credentials, Role, init_ca, issue};
use quarry_net::transport::Transport;
use quarry_net::transport::quic::QuicTransport;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The directory that every node of a test keeps its chunks in, on a disk of its own.
pub(crate) const DIR: &str = "/data";

/// Certificates, a NameNode, and nodes.
pub(crate) struct Cluster {
    ca: TempDir,
    pub(crate) namenode: FakeNameNode,
    nodes: BTreeMap<u32, Node>,
}

struct Node {
    disk: FaultyDisk,
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

impl Cluster {
    /// With nodes 1 to `nodes`.
    pub(crate) async fn start(nodes: u32) -> Self {
        let ca = tempfile::tempdir().unwrap();
        init_ca(ca.path(), "test").unwrap();
        let namenode = FakeNameNode::start(transport(&ca, Role::NameNode, "1")).await;
        let mut cluster = Self { ca, namenode, nodes: BTreeMap::new() };
        for number in 1..=nodes {
            cluster.start_node(number).await;
        }
        cluster
    }

    /// The transport of anybody.
    pub(crate) fn transport(&self, role: Role, id: &str) -> Arc<dyn Transport> {
        transport(&self.ca, role, id)
    }

    /// The default configuration of a node.
    pub(crate) fn config(&self, number: u32) -> DataNodeConfig {
        let listen = self.nodes.get(&number).map_or(([127, 0, 0, 1], 0).into(), |n| n.address);
        let mut config = DataNodeConfig::new(
            NodeId(number),
            vec![DIR.into()],
            listen,
            self.namenode.address().to_string(),
        );
        config.reserve_bytes = 0;
        config.scrub_bytes_per_second = 0;
        config
    }

    pub(crate) async fn start_node(&mut self, number: u32) {
        self.start_node_with(self.config(number)).await.unwrap();
    }

    /// Starts a node, on the disk and the address that it had before.
    pub(crate) async fn start_node_with(&mut self, config: DataNodeConfig) -> anyhow::Result<()> {
        let number = config.node.0;
        let disk = self.nodes.get(&number).map_or_else(FaultyDisk::default, |n| n.disk.clone());
        let transport = self.transport(Role::DataNode, &number.to_string());
        let (stop, (ready, waiting)) = (CancellationToken::new(), oneshot::channel());
        let mut task = tokio::spawn(run_on(Arc::new(disk.clone()), config, transport, stop.clone(), ready));
        let address = tokio::select! {
            Ok(address) = waiting => address,
            ended = &mut task => return ended.unwrap(),
        };
        self.nodes.insert(number, Node { disk, address, running: Some((stop, task)) });
        Ok(())
    }

    /// Stops a node cleanly.
    pub(crate) async fn stop_node(&mut self, number: u32) {
        let (stop, task) = self.nodes.get_mut(&number).unwrap().running.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    pub(crate) fn disk(&self, number: u32) -> &FaultyDisk {
        &self.nodes[&number].disk
    }

    /// The node as a member of a chain.
    pub(crate) fn hop(&self, number: u32) -> Endpoint {
        Endpoint { node: NodeId(number), address: self.nodes[&number].address.to_string() }
    }

    /// Somebody who asks a node.
    pub(crate) async fn asker(&self, role: Role, number: u32) -> Asker {
        let id = if matches!(role, Role::Client | Role::Gateway) { "tester" } else { "99" };
        Asker::connect(self.transport(role, id).as_ref(), &self.hop(number)).await
    }

    /// A client of a node.
    pub(crate) async fn client(&self, number: u32) -> Asker {
        self.asker(Role::Client, number).await
    }
}

fn transport(ca: &TempDir, role: Role, id: &str) -> Arc<dyn Transport> {
    let out = tempfile::tempdir().unwrap();
    let paths = issue(ca.path(), role, id, &["127.0.0.1".to_owned()], out.path()).unwrap();
    Arc::new(QuicTransport::new(Credentials::load(&paths).unwrap()).unwrap())
}

/// Where a node keeps a chunk.
pub(crate) fn file_of(id: quarry_common::ids::ChunkId) -> PathBuf {
    PathBuf::from(DIR).join("data_blocks").join(id.pg().to_string()).join(id.to_string())
}
