//! The conversation with the NameNode: registration, heartbeats, reports of bad chunks.

use crate::blocking::Blocking;
use crate::placement::Table;
use crate::store::{Store, Strange};
use async_trait::async_trait;
use quarry_common::ids::{ChunkId, NodeId, PgId};
use quarry_common::limits::COMMIT_SLICES_MAX;
use quarry_common::wire::cluster::{
    HEARTBEAT_GROUPS_MAX, Heartbeat, NamespaceStamp, NodeReply, NodeRequest, RegisterNode,
};
use quarry_common::wire::data::Endpoint;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_host::{clock, random};
use quarry_net::identity::Role;
use quarry_net::rpc::{NodeProtocol, Observer, RpcClient, RpcError};
use quarry_net::transport::{Expect, Transport, TransportError};
use rand::Rng;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for an answer: a registration waits for the NameNode's log.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the first new attempt, and the longest one; each is doubled and varied, so that the nodes of a cluster
/// do not all come at the same time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Heartbeats closer together than this would say nothing new.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
/// Bytes of trouble in a heartbeat, which must fit into a datagram.
const TROUBLE_MAX: usize = 240;
/// How often we ask which groups we belong to, so that an empty one is reported as well.
const PLACEMENT_INTERVAL: Duration = Duration::from_secs(10);
/// How often we ask how far the file system is: an old copy of the NameNode's folder that is older than this shows by its
/// position, a younger one only by the chunks that were written since.
const NAMESPACE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the state of the disks is reported.
const DISKS_INTERVAL: Duration = Duration::from_secs(2);
/// A table that was asked for this long ago is not asked for again, however many requests do not fit it.
const REFRESH_MIN: Duration = Duration::from_millis(200);
/// Time for the NameNode to give the table to a request that waits for it.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// What the NameNode says about other nodes is believed for this long.
const SILENT_HOLD: Duration = Duration::from_millis(500);
/// Chunks in one report or question. The NameNode answers no more at once.
const CHUNKS_AT_ONCE: usize = COMMIT_SLICES_MAX;

/// What we tell the NameNode about ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) register: RegisterNode,
    /// `host:port` of the NameNode.
    pub(crate) namenode: String,
    pub(crate) heartbeat_interval: Duration,
}

/// The NameNode, as far as it is there.
pub(crate) struct NameNodeClient {
    /// This node.
    node: NodeId,
    client: watch::Sender<Option<Arc<RpcClient<NodeProtocol>>>>,
    heartbeats: AtomicU64,
    table: watch::Sender<Arc<Table>>,
    /// When the table was last asked for. Held while asking: requests that need a newer one ask together.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

/// Why there is no conversation.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("it refuses: {0}")]
    Refused(#[from] ServiceError),
    #[error(transparent)]
    Strange(#[from] Strange),
    #[error("it does not answer")]
    Late,
    #[error("it answered something else than was asked")]
    Unfit,
}

struct Nothing;

#[async_trait]
impl Observer<NodeProtocol> for Nothing {
    fn response(&self, _: &Result<NodeReply, ServiceError>, _: Instant) {}
    fn push(&self, (): ()) {}
}

impl NameNodeClient {
    pub(crate) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            client: watch::Sender::default(),
            heartbeats: AtomicU64::new(0),
            table: watch::Sender::default(),
            asked: tokio::sync::Mutex::default(),
        })
    }

    /// What the NameNode knows of chunks; those that no file refers to are missing.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be asked.
    pub(crate) async fn chunks(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, ChunkInfo>, ServiceError> {
        let unavailable =
            |why: String| ServiceError::Unavailable(format!("the NameNode cannot be asked: {why}"));
        let mut known = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(CHUNKS_AT_ONCE) {
            let client = self.client().ok_or_else(|| unavailable("not connected".into()))?;
            let asked = client.call(NodeRequest::Chunks(ids.to_vec()), CALL_TIMEOUT).await;
            match asked.map_err(|e| unavailable(e.to_string()))?? {
                NodeReply::Chunks(infos) => known.extend(infos.into_iter().map(|info| (info.id, info))),
                _ => return Err(unavailable("an answer to something else".into())),
            }
        }
        Ok(known)
    }

    /// Whether the NameNode says that it has not heard of the node for some time. If it cannot be asked, that is not known.
    pub(crate) async fn has_lost(&self, node: NodeId) -> bool {
        self.table_within(SILENT_HOLD).await.has_lost(node)
    }

    /// Where a node is; `None` when the NameNode does not know it, or cannot be asked.
    pub(crate) async fn endpoint(&self, node: NodeId) -> Option<Endpoint> {
        match self.table().endpoint(node) {
            Some(endpoint) => Some(endpoint),
            None => self.table_within(REFRESH_MIN).await.endpoint(node),
        }
    }

    /// Where a node is that is not where it was; `None` if nothing else is known.
    pub(crate) async fn newer_endpoint(&self, known: &Endpoint) -> Option<Endpoint> {
        self.table_within(REFRESH_MIN).await.endpoint(known.node).filter(|endpoint| endpoint != known)
    }

    /// Whether this node belongs to a group, by the table at hand, or by one that the NameNode is asked for at this moment.
    ///
    /// # Errors
    /// `Unavailable` if it does not: the table of the request's sender may be newer than that of the NameNode's last answer.
    pub(crate) async fn check_member(&self, pg: PgId) -> Result<(), ServiceError> {
        if self.table().is_member(pg, self.node)
            || self.table_within(REFRESH_MIN).await.is_member(pg, self.node)
        {
            return Ok(());
        }
        Err(ServiceError::Unavailable(format!("this DataNode does not belong to placement group {pg}")))
    }

    fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// The table, asked for again if it is older and the NameNode answers soon.
    async fn table_within(&self, age: Duration) -> Arc<Table> {
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|asked| clock::since(asked) >= age) {
            let mut clients = self.client.subscribe();
            let ask = async {
                let client = clients.wait_for(Option::is_some).await.ok()?.clone()?;
                client.call(NodeRequest::Placement, ASK_TIMEOUT).await.ok()?.ok()
            };
            if let Ok(Some(NodeReply::Placement(placement))) = timeout(ASK_TIMEOUT, ask).await {
                self.table.send_replace(Arc::new(Table::new(placement)));
            }
            // Also after a failure: all who wait fail together, instead of one after the other.
            *asked = Some(clock::now());
        }
        self.table()
    }

    fn client(&self) -> Option<Arc<RpcClient<NodeProtocol>>> {
        self.client.borrow().clone()
    }

    fn set_client(&self, client: Option<Arc<RpcClient<NodeProtocol>>>) {
        self.client.send_replace(client);
    }

    /// Keeps up the conversation for ever: connects, registers, sends heartbeats and reports, and begins again.
    ///
    /// Nothing here touches a disk, so a disk that hangs does not make this node look dead.
    pub(crate) async fn converse(
        &self,
        introduction: &Introduction,
        transport: &dyn Transport,
        store: &Arc<Store>,
        blocking: &Blocking,
    ) -> Infallible {
        let mut pause = PAUSE_FIRST;
        let mut address = introduction.namenode.clone();
        let mut said = String::new();
        loop {
            let failed = match self.begin(introduction, transport, &address, store).await {
                Ok((client, interval, stamp)) => {
                    tracing::info!(%address, "registered with the NameNode");
                    (pause, said) = (PAUSE_FIRST, String::new());
                    self.set_client(Some(client.clone()));
                    let failed = tokio::select! {
                        failed = self.talk(&client, interval, store) => failed,
                        failed = keep_namespace(&client, stamp, store, blocking) => failed,
                    };
                    self.set_client(None);
                    failed
                }
                Err(failed) => failed,
            };
            address = match &failed {
                Failed::Refused(ServiceError::NotLeader { leader: Some(leader) }) => leader.clone(),
                _ => introduction.namenode.clone(),
            };
            // Once, and not with every attempt.
            let text = failed.to_string();
            if text != said {
                tracing::warn!(namenode = %introduction.namenode, error = text, "no conversation with the NameNode, trying again");
                said = text;
            }
            let part = random::rng().random_range(0.5..1.0);
            sleep(pause.mul_f64(part)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn begin(
        &self,
        introduction: &Introduction,
        transport: &dyn Transport,
        address: &str,
        store: &Store,
    ) -> Result<(Arc<RpcClient<NodeProtocol>>, Duration, NamespaceStamp), Failed> {
        let expect = Expect { role: Role::NameNode, id: None };
        let connection = timeout(CONNECT_TIMEOUT, transport.connect(address, &expect))
            .await
            .map_err(|_| Failed::Late)??;
        let client = RpcClient::<NodeProtocol>::start(connection, Arc::new(Nothing)).await?;
        let register =
            NodeRequest::Register { node: introduction.register.clone(), holdings: store.holdings() };
        let NodeReply::Registered { heartbeat_interval_ms, stamp, .. } =
            client.call(register, CALL_TIMEOUT).await??
        else {
            return Err(Failed::Unfit);
        };
        store.check_namespace(&stamp)?;
        let asked = Duration::from_millis(heartbeat_interval_ms);
        Ok((client, introduction.heartbeat_interval.min(asked).max(HEARTBEAT_MIN), stamp))
    }

    async fn talk(&self, client: &RpcClient<NodeProtocol>, interval: Duration, store: &Store) -> Failed {
        tokio::select! {
            failed = self.beat(client, interval, store) => failed,
            failed = report_bad(client, store) => failed,
            failed = report_disks(client, store) => failed,
            failed = self.learn_groups(client, store) => failed,
            lost = client.closed() => lost.into(),
        }
    }

    /// Finds out again and again which nodes there are, and which groups this node belongs to.
    async fn learn_groups(&self, client: &RpcClient<NodeProtocol>, store: &Store) -> Failed {
        loop {
            match client.call(NodeRequest::Placement, CALL_TIMEOUT).await {
                Ok(Ok(NodeReply::Placement(placement))) => {
                    let table = Arc::new(Table::new(placement));
                    store.know(table.groups_of(self.node));
                    self.table.send_replace(table);
                }
                Ok(Ok(_)) => return Failed::Unfit,
                Ok(Err(refused)) => return refused.into(),
                Err(error) => return error.into(),
            }
            sleep(PLACEMENT_INTERVAL).await;
        }
    }

    async fn beat(&self, client: &RpcClient<NodeProtocol>, period: Duration, store: &Store) -> Failed {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            ticks.tick().await;
            let sequence = self.heartbeats.fetch_add(1, Ordering::Relaxed);
            let heartbeat = heartbeat(store, sequence, last);
            last = heartbeat.groups.last().map(|g| g.pg);
            let datagram = match postcard::to_stdvec(&heartbeat) {
                Ok(datagram) => datagram,
                Err(error) => unreachable!("a heartbeat can always be encoded: {error}"),
            };
            if let Err(error) = client.connection().send_datagram(datagram.into()) {
                return error.into();
            }
        }
    }
}

/// The next heartbeat, with the groups that come after those of the last one.
fn heartbeat(store: &Store, sequence: u64, after: Option<PgId>) -> Heartbeat {
    let figures = store.figures();
    let mut trouble = figures.trouble;
    if trouble.len() > TROUBLE_MAX {
        let cut = (0..=TROUBLE_MAX).rev().find(|at| trouble.is_char_boundary(*at));
        trouble.truncate(cut.unwrap_or(0));
    }
    Heartbeat {
        sequence,
        capacity: figures.capacity,
        free: figures.free,
        chunks: figures.chunks,
        bytes: figures.bytes,
        trouble,
        writable: figures.writable,
        disks_out_ms: figures.disks_out.map(|out| u64::try_from(out.as_millis()).unwrap_or(u64::MAX)),
        scrubbed: figures.scrubbed,
        groups: store.digests(after, HEARTBEAT_GROUPS_MAX),
    }
}

/// Reports what the store found bad, now and later.
async fn report_bad(client: &RpcClient<NodeProtocol>, store: &Store) -> Failed {
    loop {
        let bad = store.report().some(CHUNKS_AT_ONCE);
        if bad.is_empty() {
            store.report().more().await;
            continue;
        }
        match client.call(NodeRequest::ReportBad(bad.clone()), CALL_TIMEOUT).await {
            Ok(Ok(_)) => store.report().done(&bad),
            Ok(Err(refused)) => return refused.into(),
            Err(error) => return error.into(),
        }
    }
}

/// Reports how the disks are, again and again.
async fn report_disks(client: &RpcClient<NodeProtocol>, store: &Store) -> Failed {
    loop {
        match client.call(NodeRequest::ReportDisks(store.disks()), CALL_TIMEOUT).await {
            Ok(Ok(_)) => sleep(DISKS_INTERVAL).await,
            Ok(Err(refused)) => return refused.into(),
            Err(error) => return error.into(),
        }
    }
}

/// Keeps on disk how far the file system is, first as the registration said.
async fn keep_namespace(
    client: &RpcClient<NodeProtocol>,
    mut stamp: NamespaceStamp,
    store: &Arc<Store>,
    blocking: &Blocking,
) -> Failed {
    loop {
        let keeper = store.clone();
        blocking.run(move || keeper.keep_namespace(stamp)).await;
        sleep(NAMESPACE_INTERVAL).await;
        stamp = match client.call(NodeRequest::Namespace, CALL_TIMEOUT).await {
            Ok(Ok(NodeReply::Namespace(stamp))) => stamp,
            Ok(Ok(_)) => return Failed::Unfit,
            Ok(Err(refused)) => return refused.into(),
            Err(error) => return error.into(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, Owner};
    use quarry_host::disk::faulty::FaultyDisk;

    #[test]
    fn the_largest_heartbeat_fits_into_a_datagram() {
        let mut heartbeat = Heartbeat {
            sequence: u64::MAX,
            capacity: u64::MAX,
            free: u64::MAX,
            chunks: u64::MAX,
            bytes: u64::MAX,
            trouble: "x".repeat(TROUBLE_MAX),
            writable: true,
            disks_out_ms: Some(u64::MAX),
            scrubbed: (u64::MAX, u64::MAX),
            groups: Vec::new(),
        };
        let group =
            |pg| quarry_common::wire::cluster::GroupDigest { pg: PgId(pg), count: u64::MAX, sum: u64::MAX };
        heartbeat.groups = (u32::MAX - HEARTBEAT_GROUPS_MAX as u32..u32::MAX).map(group).collect();
        assert!(postcard::to_stdvec(&heartbeat).unwrap().len() <= 1150);
    }

    #[test]
    fn heartbeats_go_round_all_groups_and_cut_long_troubles() {
        let path = "/ä".repeat(300);
        let options = Options {
            dirs: vec!["/a".into(), path.clone().into()],
            owner: Owner { cluster: "test".into(), node: NodeId(1) },
            reserve: 0,
            limit: None,
        };
        let disk = FaultyDisk::default();
        disk.size(path.as_ref(), 5000);
        let store = Store::open(Arc::new(disk), &options, 1).unwrap();
        store.know((0..40).map(PgId));
        let (mut seen, mut last) = (Vec::new(), None);
        for sequence in 0..2 {
            let heartbeat = heartbeat(&store, sequence, last);
            assert!(!heartbeat.trouble.is_empty() && heartbeat.trouble.len() <= TROUBLE_MAX);
            seen.extend(heartbeat.groups.iter().map(|g| g.pg.0));
            last = heartbeat.groups.last().map(|g| g.pg);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
    }
}
