//! A whole cluster: NameNode, DataNodes and clients, each on a machine of its own.

use crate::machine::{Life, Machine, MachineId, spawn_in};
use crate::network::{Network, SimTransport, ip_of};
use quarry_client::{ClientConfig, FileSystem};
use quarry_common::ids::NodeId;
use quarry_datanode::DataNodeConfig;
use quarry_namenode::NameNodeConfig;
use quarry_net::identity::{CertPaths, Identity, Rights, Role};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const CLUSTER: &str = "sim";
const PORT: u16 = 7000;
/// Chunks that nobody brought into a file are garbage after this time: short, so that a run sees it.
const GARBAGE_AGE: Duration = Duration::from_secs(90);
/// Small segments, so that a run uses several and making them costs little.
const LOG_SEGMENT_BYTES: u64 = 256 << 10;

/// The machines of a cluster and what runs on them.
pub(crate) struct Cluster {
    /// The network between them.
    pub(crate) network: Network,
    /// The NameNode's machine.
    pub(crate) namenode: Arc<Machine>,
    /// The DataNodes' machines.
    pub(crate) datanodes: Vec<Arc<Machine>>,
    /// The clients' machines.
    pub(crate) clients: Vec<Arc<Machine>>,
    /// The administrator's machine.
    pub(crate) admin: Arc<Machine>,
    /// Chunks that nobody brought into a file are garbage after this time.
    pub(crate) garbage_age: Duration,
    /// Processes that ended without being killed, and why.
    ended: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    /// Machines without processes.
    pub(crate) fn new(seed: u64, datanodes: u32, clients: u32) -> Self {
        let machine = |number: u32, name: String| Machine::new(MachineId(number), &name, seed);
        Self {
            network: Network::new(seed.rotate_left(17)),
            namenode: machine(1, "namenode".to_owned()),
            datanodes: (1..=datanodes).map(|n| machine(100 + n, format!("datanode-{n}"))).collect(),
            admin: machine(150, "admin".to_owned()),
            clients: (0..clients).map(|n| machine(200 + n, format!("client-{n}"))).collect(),
            garbage_age: GARBAGE_AGE,
            ended: Arc::default(),
        }
    }

    /// All machines.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        [&self.namenode, &self.admin].into_iter().chain(&self.datanodes).chain(&self.clients)
    }

    /// Processes that ended by themselves, and why.
    pub(crate) fn ended(&self) -> Vec<String> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the process of the NameNode and of the first DataNodes.
    pub(crate) fn start_servers(&self, datanodes: usize) {
        self.start_namenode();
        (0..datanodes).for_each(|n| self.start_datanode(n));
    }

    /// Starts the NameNode.
    pub(crate) fn start_namenode(&self) {
        let machine = &self.namenode;
        let mut config = NameNodeConfig::new(address(machine), PathBuf::from("/namenode"));
        config.cluster = CLUSTER.to_owned();
        config.log_segment_bytes = LOG_SEGMENT_BYTES;
        config.orphan_age = self.garbage_age;
        self.start(machine, Role::NameNode, "1", |transport, stop, ready| async move {
            if !quarry_namenode::is_formatted(&config.dir)? {
                quarry_namenode::format(&config)?;
            }
            quarry_namenode::run(config, transport, stop, ready).await
        });
    }

    /// Starts a DataNode.
    pub(crate) fn start_datanode(&self, index: usize) {
        let machine = &self.datanodes[index];
        let number = index as u32 + 1;
        let namenode = address(&self.namenode).to_string();
        let mut config =
            DataNodeConfig::new(NodeId(number), vec![PathBuf::from("/data")], address(machine), namenode);
        config.reserve_bytes = 0;
        self.start(machine, Role::DataNode, &number.to_string(), |transport, stop, ready| {
            quarry_datanode::run(config, transport, stop, ready)
        });
    }

    fn start<F>(
        &self,
        machine: &Arc<Machine>,
        role: Role,
        id: &str,
        main: impl FnOnce(Arc<SimTransport>, CancellationToken, oneshot::Sender<SocketAddr>) -> F,
    ) where
        F: Future<Output: std::fmt::Debug + Send> + Send + 'static,
    {
        let (ended, name) = (self.ended.clone(), machine.name().to_owned());
        machine.start(|life| {
            let transport = SimTransport::new(&self.network, life, machine.id, identity(role, id));
            let process = main(transport, CancellationToken::new(), oneshot::channel().0);
            spawn_in(life, async move {
                let outcome = process.await;
                let line = format!("{name} ended: {outcome:?}");
                tracing::error!("{line}");
                ended.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            });
        });
    }

    /// Starts a client's process, without a connection yet.
    pub(crate) fn start_client(&self, index: usize) -> Client {
        self.client_on(&self.clients[index], Rights::default())
    }

    /// Starts the administrator's process, without a connection yet.
    pub(crate) fn start_admin(&self) -> Client {
        self.client_on(&self.admin, Rights { admin: true, ..Rights::default() })
    }

    fn client_on(&self, machine: &Arc<Machine>, rights: Rights) -> Client {
        let namenode = address(&self.namenode).to_string();
        let none = PathBuf::new();
        let certs = CertPaths { ca: none.clone(), cert: none.clone(), key: none };
        let mut config = ClientConfig::new(namenode, certs);
        config.purpose = machine.name().to_owned();
        let (life, transport) = machine.start(|life| {
            let identity = Identity { rights, ..identity(Role::Client, machine.name()) };
            (life.clone(), SimTransport::new(&self.network, life, machine.id, identity))
        });
        Client { life, config, transport }
    }

    /// Waits until the cluster takes writes.
    ///
    /// # Errors
    /// When it does not within two minutes.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        // DataNodes register within a second and groups are made soon after.
        tokio::time::sleep(Duration::from_secs(5)).await;
        match self.ended().first() {
            Some(ended) => Err(ended.clone()),
            None => Ok(()),
        }
    }
}

/// A client's process.
pub(crate) struct Client {
    /// Its life.
    pub(crate) life: Arc<Life>,
    config: ClientConfig,
    transport: Arc<SimTransport>,
}

impl Client {
    /// Runs what the process does, beginning with its connection to the cluster.
    pub(crate) fn run<F>(self, body: impl FnOnce(FileSystem) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { life, config, transport } = self;
        spawn_in(&life, async move {
            match FileSystem::connect(config, transport).await {
                Ok(fs) => body(fs).await,
                Err(error) => tracing::error!(%error, "a client cannot connect"),
            }
        });
    }
}

fn address(machine: &Machine) -> SocketAddr {
    SocketAddr::new(ip_of(machine.id), PORT)
}

fn identity(role: Role, id: &str) -> Identity {
    Identity { cluster: CLUSTER.to_owned(), role, id: id.to_owned(), rights: Rights::default() }
}
