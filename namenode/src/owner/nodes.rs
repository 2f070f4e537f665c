//! DataNodes as far as they are volatile: their heartbeats, and the table that clients cache.

use super::registrations::Registrations;
use quarry_common::ids::{Epoch, NodeId, PgId};
use quarry_common::wire::cluster::{
    DISKS_MAX, DiskStatus, Group, GroupDigest, Heartbeat, MemberState, Node, NodeMode, NodeState, NodeStatus,
    Placement, Replication,
};
use quarry_common::wire::fs::Timestamp;
use quarry_namenode_core::{Health, NodeRecord, NodeView, State, StateError, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a node's heartbeats said.
struct Beat {
    at: Instant,
    last: Heartbeat,
    /// The newest digest of each group, and when it arrived.
    digests: BTreeMap<PgId, (GroupDigest, Instant)>,
}

/// Nodes and groups as the state has them, and what is heard of them.
pub(crate) struct Nodes {
    started: Instant,
    suspect_after: Duration,
    dead_after: Duration,
    records: Vec<NodeRecord>,
    groups: Vec<Group>,
    beats: BTreeMap<NodeId, Beat>,
    /// The connection that speaks for each node.
    pub(super) registrations: Registrations,
    /// What each node last reported of its disks.
    disks: BTreeMap<NodeId, Vec<DiskStatus>>,
    placement: Placement,
    /// Members whose sync is complete, with the epoch in which it began.
    synced: BTreeSet<(PgId, Epoch, NodeId)>,
    /// Policies that files asked for since the start.
    policies: BTreeSet<Replication>,
    /// Members that lack chunks which files refer to.
    lacking: BTreeSet<(PgId, NodeId)>,
    /// Nodes that have chunks of groups of which they are no members.
    leftovers: BTreeSet<(PgId, NodeId)>,
    /// Of these, those that are being deleted now.
    evicting: BTreeSet<(PgId, NodeId)>,
    /// Groups whose changes are on their way through the log.
    deciding: BTreeSet<PgId>,
    /// Nodes that are in maintenance now.
    excused: BTreeSet<NodeId>,
    /// Chunks of groups that this file system does not know, as heartbeats said.
    strange: BTreeMap<(NodeId, PgId), u64>,
}

/// Bits of a version that number the tables of one run: more than it publishes in a century.
const VERSION_BITS: u32 = 32;
/// Leftovers that are remembered; those beyond it are heard of again.
const LEFTOVERS_MAX: usize = 4096;

impl Nodes {
    /// Nothing is known yet.
    pub(crate) fn new(started: Instant, suspect_after: Duration, dead_after: Duration) -> Self {
        Self {
            started,
            suspect_after,
            dead_after,
            records: Vec::new(),
            groups: Vec::new(),
            beats: BTreeMap::new(),
            registrations: Registrations::default(),
            disks: BTreeMap::new(),
            placement: Placement::default(),
            synced: BTreeSet::new(),
            policies: BTreeSet::new(),
            lacking: BTreeSet::new(),
            leftovers: BTreeSet::new(),
            evicting: BTreeSet::new(),
            deciding: BTreeSet::new(),
            excused: BTreeSet::new(),
            strange: BTreeMap::new(),
        }
    }

    /// Reads nodes and groups anew, after they changed.
    pub(crate) fn reload(&mut self, state: &State) -> Result<(), StateError> {
        self.records = state.nodes()?;
        self.groups = state.groups()?;
        let records = &self.records;
        self.beats.retain(|node, _| records.iter().any(|r| r.node == *node));
        self.disks.retain(|node, _| records.iter().any(|r| r.node == *node));
        let groups = &self.groups;
        self.synced.retain(|(pg, epoch, _)| groups.iter().any(|g| g.id == *pg && g.epoch == *epoch));
        Ok(())
    }

    /// A heartbeat arrived. One of a node that has not registered says nothing yet.
    pub(crate) fn heard(&mut self, node: NodeId, heartbeat: Heartbeat, now: Instant) {
        if self.record(node).is_none() {
            return;
        }
        let mut digests = self.beats.remove(&node).map(|beat| beat.digests).unwrap_or_default();
        for digest in &heartbeat.groups {
            if self.is_member(digest.pg, node) {
                digests.insert(digest.pg, (*digest, now));
            } else if self.group(digest.pg).is_none() {
                // Of a group that is unknown here nothing is known, least of all that its chunks are garbage.
                self.note_strange(node, digest);
            } else if digest.count > 0 && self.leftovers.len() < LEFTOVERS_MAX {
                self.leftovers.insert((digest.pg, node));
            }
        }
        self.beats.insert(node, Beat { at: now, last: heartbeat, digests });
    }

    fn note_strange(&mut self, node: NodeId, digest: &GroupDigest) {
        let key = (node, digest.pg);
        if digest.count == 0 {
            self.strange.remove(&key);
        } else if self.strange.contains_key(&key) || self.strange.len() < LEFTOVERS_MAX {
            self.strange.insert(key, digest.count);
        }
    }

    /// Nodes that hold chunks of groups that this file system does not know, with the number of chunks.
    pub(crate) fn strange(&self) -> Vec<(NodeId, PgId, u64)> {
        self.strange.iter().map(|(&(node, pg), &count)| (node, pg, count)).collect()
    }

    /// Notes which nodes are in maintenance at this time.
    pub(crate) fn excuse(&mut self, wall: Timestamp) {
        let excused = |r: &&NodeRecord| matches!(r.mode, NodeMode::Maintenance { until } if wall < until);
        self.excused = self.records.iter().filter(excused).map(|r| r.node).collect();
    }

    /// Changes of these groups are on their way: nothing else may be decided about them until [`Nodes::decided`].
    pub(crate) fn deciding(&mut self, groups: impl Iterator<Item = PgId>) {
        self.deciding = groups.collect();
    }

    /// The changes were carried out, or not.
    pub(crate) fn decided(&mut self) {
        self.deciding.clear();
    }

    /// A node reported how its disks are.
    pub(crate) fn reported_disks(&mut self, node: NodeId, mut disks: Vec<DiskStatus>) {
        disks.truncate(DISKS_MAX);
        if self.record(node).is_some() {
            self.disks.insert(node, disks);
        }
    }

    fn is_member(&self, pg: PgId, node: NodeId) -> bool {
        self.group(pg).is_some_and(|g| g.members.iter().any(|m| m.node == node))
    }

    /// A process registers as a node. Refused while another process, at another address, is heard under the same identity.
    pub(crate) fn take_registration(
        &mut self,
        node: NodeId,
        connection: u64,
        address: &str,
        now: Instant,
    ) -> Result<(), String> {
        let silence = self.beats.get(&node).map(|beat| now.saturating_duration_since(beat.at));
        let is_heard = silence.is_some_and(|silence| silence < self.suspect_after);
        self.registrations.take(node, connection, address, is_heard)
    }

    /// From now on nodes can be heard: the silence until now does not count. Versions of the table that this run of the
    /// NameNode publishes are larger than those of all earlier runs: clients compare them.
    pub(crate) fn listen(&mut self, now: Instant, run: u64) {
        self.started = now;
        self.placement.version = run << VERSION_BITS;
    }

    /// Nothing was heard while this NameNode itself stood still: that time does not count.
    pub(crate) fn forgive(&mut self, pause: Duration) {
        self.started += pause;
        for beat in self.beats.values_mut() {
            beat.at += pause;
        }
    }

    /// Puts the table for clients together; gives its version if it changed.
    pub(crate) fn publish(&mut self, now: Instant) -> Option<u64> {
        let nodes: Vec<Node> = self
            .records
            .iter()
            .map(|r| Node { id: r.node, address: r.address.clone(), state: self.state_of(r, now) })
            .collect();
        if nodes == self.placement.nodes && self.groups == self.placement.groups {
            return None;
        }
        for node in &nodes {
            let before = self.placement.nodes.iter().find(|n| n.id == node.id).map(|n| n.state);
            match (before, node.state) {
                (Some(before), after) if before == after => {}
                (_, NodeState::Healthy) => tracing::info!(node = %node.id, "healthy"),
                (_, state) => tracing::warn!(node = %node.id, ?state, "no longer healthy"),
            }
        }
        self.placement =
            Placement { version: self.placement.version + 1, nodes, groups: self.groups.clone() };
        Some(self.placement.version)
    }

    /// The table for clients.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// All groups.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// A group.
    pub(crate) fn group(&self, pg: PgId) -> Option<&Group> {
        self.groups.binary_search_by_key(&pg, |g| g.id).ok().map(|at| &self.groups[at])
    }

    /// A registered node.
    pub(crate) fn record(&self, node: NodeId) -> Option<&NodeRecord> {
        self.records.binary_search_by_key(&node, |r| r.node).ok().map(|at| &self.records[at])
    }

    /// What decisions depend on.
    pub(crate) fn views(&self, now: Instant) -> Vec<NodeView> {
        self.records.iter().map(|record| self.view(record, now)).collect()
    }

    /// Thresholds at this time.
    pub(crate) fn timing(&self, now: Instant) -> Timing {
        Timing {
            uptime_ms: millis(now.saturating_duration_since(self.started)),
            suspect_after_ms: millis(self.suspect_after),
            dead_after_ms: millis(self.dead_after),
        }
    }

    /// Whether heartbeats of the node arrive.
    pub(crate) fn is_healthy(&self, node: NodeId, now: Instant) -> bool {
        let view = self.record(node).map(|record| self.view(record, now));
        view.is_some_and(|view| self.timing(now).health(&view) == Health::Healthy)
    }

    /// A policy that needs groups.
    pub(crate) fn want(&mut self, policy: Replication) {
        // All policies there are: `all` and one for each number of members.
        self.policies.insert(policy);
    }

    /// Policies that files asked for.
    pub(crate) fn policies(&self) -> &BTreeSet<Replication> {
        &self.policies
    }

    /// A member has everything that the group had at the epoch.
    pub(crate) fn caught_up(&mut self, pg: PgId, epoch: Epoch, node: NodeId) {
        if self.group(pg).is_some_and(|g| g.epoch == epoch) {
            self.synced.insert((pg, epoch, node));
        }
    }

    /// Members that have caught up.
    pub(crate) fn synced(&self) -> &BTreeSet<(PgId, Epoch, NodeId)> {
        &self.synced
    }

    /// A member lacks chunks that files refer to.
    pub(crate) fn lacks(&mut self, pg: PgId, node: NodeId) {
        if self.is_member(pg, node) {
            self.lacking.insert((pg, node));
        }
    }

    /// The member is known to lack nothing, or to be syncing.
    pub(crate) fn lacks_no_more(&mut self, pg: PgId, node: NodeId) {
        self.lacking.remove(&(pg, node));
    }

    /// Members that lack chunks.
    pub(crate) fn lacking(&self) -> Vec<(PgId, NodeId)> {
        self.lacking.iter().copied().collect()
    }

    /// A healthy node that has chunks of a group of which it is no member.
    pub(crate) fn leftover(&mut self, now: Instant) -> Option<(PgId, NodeId)> {
        let mut leftovers = std::mem::take(&mut self.leftovers);
        leftovers.retain(|(pg, node)| !self.is_member(*pg, *node));
        self.leftovers = leftovers;
        // A node that is about to join must not lose what it then counts on.
        let free = |(pg, node): &(PgId, NodeId)| !self.deciding.contains(pg) && self.is_healthy(*node, now);
        self.leftovers.iter().copied().find(free)
    }

    /// A node is being rid of a group's chunks.
    pub(crate) fn evicting(&mut self, pg: PgId, node: NodeId) {
        self.evicting.insert((pg, node));
    }

    /// That is over. If chunks are left, the node's next heartbeats say so.
    pub(crate) fn evicted(&mut self, pg: PgId, node: NodeId) {
        self.evicting.remove(&(pg, node));
        self.leftovers.remove(&(pg, node));
    }

    /// Whether a node is being rid of a group's chunks.
    pub(crate) fn is_evicting(&self, pg: PgId, node: NodeId) -> bool {
        self.evicting.contains(&(pg, node))
    }

    /// What the node last said of the group, not older than `age`.
    pub(crate) fn digest(&self, node: NodeId, pg: PgId, now: Instant, age: Duration) -> Option<GroupDigest> {
        let (digest, at) = self.beats.get(&node)?.digests.get(&pg)?;
        (now.saturating_duration_since(*at) <= age).then_some(*digest)
    }

    /// All nodes for the status.
    pub(crate) fn status(&self, now: Instant) -> Vec<NodeStatus> {
        self.records
            .iter()
            .map(|record| {
                let beat = self.beats.get(&record.node);
                let last = beat.map(|b| &b.last);
                NodeStatus {
                    node: Node {
                        id: record.node,
                        address: record.address.clone(),
                        state: self.state_of(record, now),
                    },
                    rack: record.rack.clone(),
                    heartbeat_age_ms: beat.map(|b| millis(now.saturating_duration_since(b.at))),
                    chunks: last.map_or(0, |h| h.chunks),
                    bytes: last.map_or(0, |h| h.bytes),
                    capacity: last.map_or(0, |h| h.capacity),
                    free: last.map_or(0, |h| h.free),
                    trouble: last.map_or_else(String::new, |h| h.trouble.clone()),
                    disks: self.disks.get(&record.node).cloned().unwrap_or_default(),
                    scrubbed: last.map_or((0, 0), |h| h.scrubbed),
                    mode: record.mode,
                    groups: self.groups_of(record.node) as u64,
                }
            })
            .collect()
    }

    fn groups_of(&self, node: NodeId) -> usize {
        self.groups.iter().filter(|g| g.members.iter().any(|m| m.node == node)).count()
    }

    /// Nodes that keep data: those that are being drained do not count.
    pub(crate) fn counted(&self) -> usize {
        self.records.iter().filter(|r| r.mode != NodeMode::Draining).count()
    }

    /// Groups that are healthy, degraded, and healing.
    pub(crate) fn tally(&self) -> (u64, u64, u64) {
        let (mut healthy, mut degraded, mut healing) = (0, 0, 0);
        for group in &self.groups {
            let wanted = quarry_namenode_core::membership::wanted(group.replication, self.counted());
            let syncing = group.members.iter().any(|m| m.state == MemberState::Syncing);
            let serving = group.serving().count();
            if syncing {
                healing += 1;
            } else if serving >= wanted && serving == group.members.len() {
                healthy += 1;
            } else {
                degraded += 1;
            }
        }
        (healthy, degraded, healing)
    }

    fn view(&self, record: &NodeRecord, now: Instant) -> NodeView {
        let beat = self.beats.get(&record.node);
        NodeView {
            node: record.node,
            rack: record.rack.clone(),
            heartbeat_age_ms: beat.map(|b| millis(now.saturating_duration_since(b.at))),
            disks_out_ms: beat.and_then(|b| b.last.disks_out_ms),
            writable: beat.is_none_or(|b| b.last.writable),
            capacity: beat.map_or(0, |b| b.last.capacity),
            free: beat.map_or(0, |b| b.last.free),
            bytes: beat.map_or(0, |b| b.last.bytes),
            draining: record.mode == NodeMode::Draining,
            excused: self.excused.contains(&record.node),
        }
    }

    fn state_of(&self, record: &NodeRecord, now: Instant) -> NodeState {
        self.timing(now).state(&self.view(record, now))
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
