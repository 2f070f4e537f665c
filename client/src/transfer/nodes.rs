//! DataNodes as this mount knows them: where each is, and what experience tells about it.

use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::Node;
use quarry_common::wire::data::Endpoint;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Transfers to one node at once, reads and writes each: beyond four or so a connection carries no more, and what waits
/// here instead of there can still go to another node.
const AT_ONCE: usize = 12;
/// A node that failed is avoided for this long: until the NameNode has noticed as well.
const TROUBLE: Duration = Duration::from_secs(4);
/// A node that could not be reached directly is sent chunks through other nodes for this long. Then the direct way is tried again,
/// which costs one write the time to connect.
const UNREACHABLE: Duration = Duration::from_secs(30);
/// The weight of the past in the mean time of answers: seven eighths.
const LATENCY_SHIFT: u32 = 3;

/// All nodes that were ever needed.
#[derive(Default)]
pub(super) struct Nodes(Mutex<HashMap<NodeId, Arc<DataNode>>>);

/// One node.
pub(super) struct DataNode {
    pub(super) endpoint: Endpoint,
    pub(super) reads: Semaphore,
    pub(super) writes: Semaphore,
    /// Mean time to the first byte of a read in microseconds; 0 when nothing is known.
    latency_us: AtomicU32,
    /// Reads that wait or are under way.
    busy: AtomicUsize,
    failed: Mutex<Option<Instant>>,
    /// When the last direct attempt got no answer.
    unreachable: Mutex<Option<Instant>>,
}

impl Nodes {
    /// The node as the table has it: a new address is another node to us.
    pub(super) fn of(&self, node: &Node) -> Arc<DataNode> {
        let mut nodes = self.nodes();
        if let Some(known) = nodes.get(&node.id)
            && known.endpoint.address == node.address
        {
            return known.clone();
        }
        let new = Arc::new(DataNode {
            endpoint: Endpoint { node: node.id, address: node.address.clone() },
            reads: Semaphore::new(AT_ONCE),
            writes: Semaphore::new(AT_ONCE),
            latency_us: AtomicU32::new(0),
            busy: AtomicUsize::new(0),
            failed: Mutex::default(),
            unreachable: Mutex::default(),
        });
        nodes.insert(node.id, new.clone());
        new
    }

    /// The node failed lately.
    pub(super) fn is_in_trouble(&self, id: NodeId) -> bool {
        self.nodes().get(&id).is_some_and(|node| node.is_in_trouble())
    }

    /// The direct way to the node is broken.
    pub(super) fn is_unreachable(&self, id: NodeId) -> bool {
        self.nodes().get(&id).is_some_and(|node| node.is_unreachable())
    }

    /// Nodes that failed lately.
    pub(super) fn in_trouble(&self) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> =
            self.nodes().values().filter(|n| n.is_in_trouble()).map(|n| n.id()).collect();
        ids.sort_unstable();
        ids
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<DataNode>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DataNode {
    pub(super) fn id(&self) -> NodeId {
        self.endpoint.node
    }

    /// It did what it was asked for.
    pub(super) fn succeeded(&self) {
        *self.failed() = None;
    }

    /// It did not. Said once: until it does something again, more of the same is no news.
    pub(super) fn failed_now(&self, reason: &str) {
        let before = self.failed().replace(Instant::now());
        if before.is_none() {
            tracing::info!(node = %self.id(), reason, "a DataNode fails");
        } else {
            tracing::debug!(node = %self.id(), reason, "a DataNode fails");
        }
    }

    /// It answered a direct request, or did not.
    pub(super) fn set_reachable(&self, reachable: bool) {
        *self.unreachable() = (!reachable).then(Instant::now);
    }

    /// The direct way to it is broken, as far as is known. Other nodes may reach it.
    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable().is_some_and(|at| at.elapsed() < UNREACHABLE)
    }

    fn unreachable(&self) -> MutexGuard<'_, Option<Instant>> {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        self.failed().is_some_and(|at| at.elapsed() < TROUBLE)
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read begins; it ends when the guard is dropped.
    pub(super) fn begin_read(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// The first byte of a read came after this time.
    pub(super) fn answered_in(&self, time: Duration) {
        let new = u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1);
        let old = self.latency_us.load(Ordering::Relaxed);
        let mean = if old == 0 { new } else { old - (old >> LATENCY_SHIFT) + (new >> LATENCY_SHIFT) };
        self.latency_us.store(mean.max(1), Ordering::Relaxed);
    }

    /// How long a read that begins now is likely to take, in no particular unit. A node of which nothing is known is
    /// tried first: that is how something becomes known.
    pub(super) fn cost(&self) -> u64 {
        let waiting = self.busy.load(Ordering::Relaxed) as u64 + 1;
        u64::from(self.latency_us.load(Ordering::Relaxed)) * waiting
    }
}

/// Counts a read.
pub(super) struct Busy(Arc<DataNode>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
