//! A NameNode in this process, and scripted clients and DataNodes.

use quarry_common::ids::{Ino, NodeId, SessionId};
use quarry_common::wire::cluster::{
    ClusterStatus, Heartbeat, Holdings, NodeReply, NodeRequest, NodeState, RegisterNode,
};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Attr, Caller, Mutation, MutationReply, NewNode, Query, QueryReply};
use quarry_common::wire::session::{ClientInfo, Lock, LockFamily, LockKind, Push, Reply, Request, Response};
use quarry_namenode::NameNodeConfig;
use quarry_net::frame;
use quarry_net::identity::{Credentials, Role, init_ca, issue};
use quarry_net::rpc::{NodeProtocol, Observer, RpcClient, SessionProtocol};
use quarry_net::transport::quic::QuicTransport;
use quarry_net::transport::{Connection, Expect, Transport};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
const CLUSTER: &str = "bench";

/// A cluster's certificates, and the NameNode's directory.
pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) config: NameNodeConfig,
}

/// A NameNode that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_ca(&dir.path().join("ca"), CLUSTER).unwrap();
        let mut config = NameNodeConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().join("namenode"));
        config.cluster = CLUSTER.to_owned();
        config.tick = Duration::from_millis(50);
        config.checkpoint_interval = Duration::from_millis(200);
        Self { dir, config }
    }

    pub(crate) fn transport(&self, role: Role, id: &str) -> Arc<dyn Transport> {
        let out = self.dir.path().join(format!("{role}-{id}"));
        let ca = self.dir.path().join("ca");
        if !out.exists() {
            issue(&ca, role, id, &["127.0.0.1".to_owned(), "localhost".to_owned()], &out).unwrap();
        }
        transport_of(&out)
    }

    pub(crate) async fn start(&self) -> Running {
        self.try_start().await.unwrap()
    }

    pub(crate) async fn try_start(&self) -> Result<Running, String> {
        if !self.config.dir.exists() {
            quarry_namenode::format(&self.config).unwrap();
        }
        let (shutdown, (ready, started)) = (CancellationToken::new(), oneshot::channel());
        let transport = self.transport(Role::NameNode, "1");
        let task =
            tokio::spawn(quarry_namenode::run(self.config.clone(), transport, shutdown.clone(), ready));
        match tokio::time::timeout(DEADLINE, started).await.expect("it starts or fails in time") {
            Ok(address) => Ok(Running { address, shutdown, task }),
            Err(_) => Err(format!("{:#}", task.await.unwrap().unwrap_err())),
        }
    }

    pub(crate) async fn client(&self, running: &Running, id: &str) -> Client {
        let client = self.connect(running, id).await;
        let info = ClientInfo { host: "host".into(), pid: 1, purpose: "test".into() };
        let session = match client.ask(Request::OpenSession(info)).await.unwrap() {
            Reply::Session { session, cluster, .. } => {
                assert_eq!(cluster, CLUSTER);
                session
            }
            other => panic!("{other:?}"),
        };
        Client { session, ..client }
    }

    /// A client without a session.
    pub(crate) async fn connect(&self, running: &Running, id: &str) -> Client {
        let connection = dial(&self.transport(Role::Client, id), running).await;
        let pushes = Arc::new(Pushes::default());
        let rpc = RpcClient::<SessionProtocol>::start(connection, pushes.clone()).await.unwrap();
        let _ = pushes.rpc.set(Arc::downgrade(&rpc));
        Client { rpc, pushes, session: SessionId(0), sequences: Mutex::new(BTreeMap::new()) }
    }

    /// A DataNode that beats.
    pub(crate) async fn node(&self, running: &Running, number: u32) -> Node {
        let (node, reply) = self.register(running, number, Holdings::default()).await;
        assert!(matches!(reply, Ok(NodeReply::Registered { .. })), "{reply:?}");
        node
    }

    /// The same with what it holds, and the answer to its registration.
    pub(crate) async fn register(
        &self,
        running: &Running,
        number: u32,
        holdings: Holdings,
    ) -> (Node, Result<NodeReply, ServiceError>) {
        let connection = dial(&self.transport(Role::DataNode, &number.to_string()), running).await;
        let rpc = RpcClient::<NodeProtocol>::start(connection.clone(), Arc::new(Ignore)).await.unwrap();
        let register = RegisterNode {
            node: NodeId(number),
            address: format!("127.0.0.1:{}", 1 + number),
            rack: String::new(),
            store_id: u128::from(number),
        };
        // A NameNode that stops over it does not answer.
        let reply = rpc.call(NodeRequest::Register { node: register, holdings }, DEADLINE).await;
        let reply = reply.unwrap_or_else(|error| Err(ServiceError::Unavailable(error.to_string())));
        let (writable, listen) = watch::channel(true);
        let beating = tokio::spawn(beat(connection, listen));
        (Node { rpc, beating, writable }, reply)
    }
}

pub(crate) fn transport_of(dir: &Path) -> Arc<dyn Transport> {
    let paths = quarry_net::identity::CertPaths {
        ca: dir.join("ca.pem"),
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    Arc::new(QuicTransport::new(Credentials::load(&paths).unwrap()).unwrap())
}

pub(crate) async fn dial(transport: &Arc<dyn Transport>, running: &Running) -> Arc<dyn Connection> {
    let expect = Expect { role: Role::NameNode, id: None };
    transport.connect(&running.address.to_string(), &expect).await.unwrap()
}

impl Running {
    /// How it ended by itself.
    pub(crate) async fn ended(self) -> String {
        format!("{:#}", tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap_err())
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// What was pushed. Recalls are acknowledged, as by a client that has nothing cached.
#[derive(Default)]
pub(crate) struct Pushes {
    all: Mutex<Vec<Push>>,
    silent: AtomicBool,
    rpc: OnceLock<Weak<RpcClient<SessionProtocol>>>,
}

impl Pushes {
    pub(crate) fn all(&self) -> Vec<Push> {
        self.all.lock().unwrap().clone()
    }

    /// From now on recalls are not acknowledged.
    pub(crate) fn be_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

impl Observer<SessionProtocol> for Pushes {
    fn response(&self, _: &Response, _: Instant) {}
    fn push(&self, push: Push) {
        let rpc = self.rpc.get().and_then(Weak::upgrade);
        if let (Push::Recall { number, .. }, false, Some(rpc)) =
            (&push, self.silent.load(Ordering::Relaxed), rpc)
        {
            let recalls = vec![(*number, false)];
            tokio::spawn(async move { rpc.call(Request::RecallDone { recalls }, DEADLINE).await });
        }
        self.all.lock().unwrap().push(push);
    }
}

struct Ignore;

impl Observer<NodeProtocol> for Ignore {
    fn response(&self, _: &Result<NodeReply, ServiceError>, _: Instant) {}
    fn push(&self, (): ()) {}
}

/// A scripted client.
pub(crate) struct Client {
    pub(crate) rpc: Arc<RpcClient<SessionProtocol>>,
    pub(crate) pushes: Arc<Pushes>,
    pub(crate) session: SessionId,
    /// The last sequence of each slot.
    pub(crate) sequences: Mutex<BTreeMap<u16, u64>>,
}

impl Client {
    pub(crate) async fn respond(&self, request: Request) -> Response {
        self.rpc.call(request, DEADLINE).await.unwrap()
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<Reply, ServiceError> {
        self.respond(request).await.result
    }

    pub(crate) async fn mutate(&self, slot: u16, mutation: Mutation) -> Result<MutationReply, ServiceError> {
        let sequence = {
            let mut sequences = self.sequences.lock().unwrap();
            let sequence = sequences.entry(slot).or_default();
            *sequence += 1;
            *sequence
        };
        match self.ask(Request::Mutate { slot, sequence, mutation }).await? {
            Reply::Mutation(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn attr_of(&self, mutation: Mutation) -> Attr {
        match self.mutate(0, mutation).await.unwrap() {
            MutationReply::Attr(attr) | MutationReply::Removed(attr) => attr,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn query(&self, query: Query) -> Result<QueryReply, ServiceError> {
        match self.ask(Request::Query(query)).await? {
            Reply::Query(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn lookup(&self, name: &str) -> Result<Attr, ServiceError> {
        let query = Query::Lookup { parent: Ino::ROOT, name: name.as_bytes().into() };
        match self.query(query).await? {
            QueryReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn attr(&self, ino: Ino) -> Result<Attr, ServiceError> {
        match self.query(Query::Attr { ino }).await? {
            QueryReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn status(&self) -> ClusterStatus {
        match self.ask(Request::ClusterStatus).await.unwrap() {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn state_of(&self, node: u32) -> Option<NodeState> {
        let status = self.status().await;
        status.nodes.into_iter().find(|n| n.node.id == NodeId(node)).map(|n| n.node.state)
    }

    pub(crate) async fn lock(&self, ino: Ino, lock: Lock, wait: bool) -> Result<Reply, ServiceError> {
        self.ask(Request::SetLock { ino, lock, wait }).await
    }

    /// The connection breaks; the session lives on.
    pub(crate) fn drop_connection(&self) {
        self.rpc.connection().close("test");
    }
}

/// A scripted DataNode, by its heartbeats only.
pub(crate) struct Node {
    pub(crate) rpc: Arc<RpcClient<NodeProtocol>>,
    beating: JoinHandle<()>,
    writable: watch::Sender<bool>,
}

impl Node {
    pub(crate) fn fill_up(&self) {
        self.writable.send_replace(false);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

async fn beat(connection: Arc<dyn Connection>, writable: watch::Receiver<bool>) {
    for sequence in 0.. {
        let heartbeat = Heartbeat {
            sequence,
            capacity: 1 << 40,
            free: 1 << 39,
            chunks: 0,
            bytes: 0,
            trouble: String::new(),
            writable: *writable.borrow(),
            disks_out_ms: None,
            scrubbed: (0, 0),
            groups: Vec::new(),
        };
        // A datagram is the frame's body alone.
        let frame = frame::encode(&heartbeat).unwrap();
        if connection.send_datagram(frame.slice(4..)).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn create(name: &str, node: NewNode) -> Mutation {
    Mutation::Create {
        parent: Ino::ROOT,
        name: name.as_bytes().into(),
        node,
        mode: 0o644,
        umask: 0,
        caller: Caller { uid: 1000, gid: 1000 },
    }
}

pub(crate) fn file(name: &str) -> Mutation {
    create(name, NewNode::File { open: false })
}

pub(crate) fn unlink(name: &str) -> Mutation {
    Mutation::Unlink { parent: Ino::ROOT, name: name.as_bytes().into() }
}

pub(crate) fn write_lock(owner: u64) -> Lock {
    let (kind, family) = (LockKind::Write, LockFamily::Record);
    Lock { owner, pid: 1, start: 0, end: u64::MAX, kind, family }
}

/// Asks again until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
