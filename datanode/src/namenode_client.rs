//! The conversation with the NameNode: registration, heartbeats, reports of bad chunks.

use crate::blocking::Blocking;
use crate::store::{Store, Strange};
use async_trait::async_trait;
use quarry_common::ids::{ChunkId, NodeId, PgId};
use quarry_common::limits::COMMIT_SLICES_MAX;
use quarry_common::wire::cluster::{
    HEARTBEAT_GROUPS_MAX, Heartbeat, NamespaceStamp, NodeReply, NodeRequest, NodeState, Placement,
    RegisterNode,
};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_host::{clock, random};
use quarry_net::identity::Role;
use quarry_net::rpc::{NodeProtocol, Observer, RpcClient, RpcError};
use quarry_net::transport::{Expect, Transport, TransportError};
use rand::Rng;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
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
    client: Mutex<Option<Arc<RpcClient<NodeProtocol>>>>,
    heartbeats: AtomicU64,
    /// Held while asking: many writers that wait for the same member ask once.
    silent: tokio::sync::Mutex<Silent>,
}

/// Nodes that the NameNode does not hear of.
#[derive(Default)]
struct Silent {
    asked: Option<Instant>,
    nodes: HashSet<NodeId>,
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
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { client: Mutex::default(), heartbeats: AtomicU64::new(0), silent: Default::default() })
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

    /// Whether the NameNode says that it has not heard of the node for some time. If it cannot be asked, nobody knows.
    pub(crate) async fn has_lost(&self, node: NodeId) -> bool {
        let mut silent = self.silent.lock().await;
        if silent.asked.is_none_or(|asked| clock::since(asked) >= SILENT_HOLD)
            && let Some(client) = self.client()
        {
            let placement = client.call(NodeRequest::Placement, CALL_TIMEOUT).await;
            let Ok(Ok(NodeReply::Placement(Placement { nodes, .. }))) = placement else { return false };
            let lost = nodes.into_iter().filter(|n| matches!(n.state, NodeState::Suspect | NodeState::Dead));
            *silent = Silent { asked: Some(clock::now()), nodes: lost.map(|n| n.id).collect() };
        }
        silent.nodes.contains(&node)
    }

    fn client(&self) -> Option<Arc<RpcClient<NodeProtocol>>> {
        self.client.lock().expect("no thread panics while it holds the lock").clone()
    }

    fn set_client(&self, client: Option<Arc<RpcClient<NodeProtocol>>>) {
        *self.client.lock().expect("no thread panics while it holds the lock") = client;
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
                        failed = self.talk(&client, interval, introduction.register.node, store) => failed,
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

    async fn talk(
        &self,
        client: &RpcClient<NodeProtocol>,
        interval: Duration,
        node: NodeId,
        store: &Store,
    ) -> Failed {
        tokio::select! {
            failed = self.beat(client, interval, store) => failed,
            failed = report_bad(client, store) => failed,
            failed = learn_groups(client, node, store) => failed,
            lost = client.closed() => lost.into(),
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

/// Finds out which groups we belong to.
async fn learn_groups(client: &RpcClient<NodeProtocol>, node: NodeId, store: &Store) -> Failed {
    loop {
        match client.call(NodeRequest::Placement, CALL_TIMEOUT).await {
            Ok(Ok(NodeReply::Placement(Placement { groups, .. }))) => {
                let ours = groups.iter().filter(|g| g.members.iter().any(|m| m.node == node));
                store.know(ours.map(|g| g.id));
            }
            Ok(Ok(_)) => return Failed::Unfit,
            Ok(Err(refused)) => return refused.into(),
            Err(error) => return error.into(),
        }
        sleep(PLACEMENT_INTERVAL).await;
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
