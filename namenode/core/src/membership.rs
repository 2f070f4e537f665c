//! Who is in which placement group, as one decision table.
//!
//! [`decide`] looks at the tables and at the heartbeats and returns the changes that are due now, each with its reason.
//! The shell puts them into the log as they are; one that the tables have overtaken is refused there by its epoch, and
//! the next round decides anew. The rows, in the order in which they are tried for each group:
//!
//! | row | member | condition | becomes |
//! | --- | --- | --- | --- |
//! | promote | syncing | healthy, its sync is complete for this epoch | serving |
//! | - | any | no member that served is healthy | the rest stays: whoever served may be the only one with the data |
//! | demote | serving, syncing | suspect or dead; dead only, if many nodes fell silent at once | stale |
//! | demote | syncing | takes no chunks | stale |
//! | retry | stale | healthy, takes chunks | syncing |
//! | join | - | fewer members that live and are not being drained than the policy wants | a healthy node joins, syncing |
//! | drop | the worst | the policy's number serves and is healthy, and there are more | out |
//! | balance | - | the group is whole, and one of its nodes is fuller than another by [`SPREAD_PERMILLE`] | that one joins, syncing |
//!
//! A dead node that an administrator has excused counts as living for *join*, unless a single healthy member serves. A drained
//! node, like a dead one, is dropped before others. After *balance* the fullest member is the one to drop.
//!
//! So a group never loses the last healthy member that has everything, a dead member is replaced before it is dropped,
//! and it is kept, stale, while there is nobody to replace it.
//!
//! After that, groups are made: so many per policy that each node is in [`GROUPS_PER_NODE`] of them.

use crate::command::GroupChange;
use crate::health::{Health, NodeView, Timing, mix};
use quarry_common::ids::{ChunkId, Epoch, NodeId, PgId};
use quarry_common::limits::PG_MEMBERS_MAX;
use quarry_common::wire::cluster::{Group, Member, MemberState, Replication};
use std::collections::{BTreeMap, BTreeSet};

/// Groups that each node is in, per policy: enough that the load of a lost node spreads over many others, few enough
/// that one heartbeat in three or so tells of each.
pub const GROUPS_PER_NODE: usize = 8;
/// Groups of one policy: with more nodes than this allows for, each is in fewer groups.
pub const GROUPS_PER_POLICY_MAX: usize = 2048;
/// Changes of one round, so that a log entry stays small. The next round goes on.
pub const DECISIONS_MAX: usize = 256;

/// All that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    /// All registered nodes.
    pub nodes: &'a [NodeView],
    /// All groups, by id.
    pub groups: &'a [Group],
    /// The smallest number that a new group may have.
    pub next_pg: PgId,
    /// Policies that need groups: the default one, and those that files ask for.
    pub policies: &'a BTreeSet<Replication>,
    /// Members whose sync was completed, with the epoch in which it began.
    pub synced: &'a BTreeSet<(PgId, Epoch, NodeId)>,
    /// Thresholds.
    pub timing: Timing,
}

/// Nodes may differ by so much in how full they are, in thousandths, before data moves.
pub const SPREAD_PERMILLE: u64 = 50;
/// Groups that move at a time to even out how full nodes are: clients need the disks as well.
pub const MOVES_MAX: usize = 2;

/// Nodes that keep data: those that are being drained do not count.
pub fn counted(nodes: &[NodeView]) -> usize {
    nodes.iter().filter(|n| !n.draining).count()
}

/// The members below which a group takes no chunks, so that one more loss does not lose what was acknowledged: by itself the
/// policy's number less half of it, rounded down (2 of 3, 1 of 2). Never more than the nodes there are.
pub fn min_replicas(replication: Replication, nodes: usize, set: Option<u8>) -> usize {
    let wanted = match replication {
        Replication::Factor(n) => usize::from(n),
        Replication::All => nodes,
    };
    let min = set.map_or(wanted - wanted / 2, |n| usize::from(n).min(wanted));
    min.min(nodes).max(1)
}

/// Whether the other nodes could take what a node has.
///
/// # Errors
/// Why they could not.
pub fn may_drain(cluster: &Cluster<'_>, node: NodeId) -> Result<(), String> {
    let others: Vec<&NodeView> = cluster
        .nodes
        .iter()
        .filter(|n| n.node != node && !n.draining && cluster.timing.health(n) == Health::Healthy)
        .collect();
    let of_node = cluster.groups.iter().filter(|g| g.members.iter().any(|m| m.node == node));
    for group in of_node {
        let needs = match group.replication {
            Replication::Factor(n) => usize::from(n).min(counted(cluster.nodes)),
            Replication::All => 1,
        };
        if others.len() < needs {
            return Err(format!(
                "replication {} needs {needs} nodes, and {} others are healthy",
                group.replication,
                others.len()
            ));
        }
    }
    let used = cluster.nodes.iter().find(|n| n.node == node).map_or(0, |n| n.bytes);
    let free: u64 = others.iter().filter(|n| n.writable).map(|n| n.free).sum();
    if free < used {
        return Err(format!("it has {used} bytes, and the other nodes have room for {free}"));
    }
    Ok(())
}

/// How many members a group of the policy wants, in a cluster of this many nodes that keep data.
pub fn wanted(replication: Replication, nodes: usize) -> usize {
    match replication {
        Replication::Factor(n) => usize::from(n).clamp(1, PG_MEMBERS_MAX),
        Replication::All => nodes.clamp(1, PG_MEMBERS_MAX),
    }
}

/// The changes that are due, in order of the groups, at most [`DECISIONS_MAX`].
///
/// Nothing changes before the view is warm: every node was heard, or this NameNode has listened for long enough to
/// call the others suspect.
pub fn decide(cluster: &Cluster<'_>) -> Vec<GroupChange> {
    let mut table = Table::new(cluster);
    if !table.is_warm() {
        return Vec::new();
    }
    let mut changes = Vec::new();
    for group in cluster.groups {
        if changes.len() >= DECISIONS_MAX {
            return changes;
        }
        changes.extend(table.revise(group));
    }
    for &policy in cluster.policies {
        table.create(policy, &mut changes);
    }
    if changes.is_empty() {
        changes = table.balance();
    }
    changes
}

/// The cluster, indexed.
struct Table<'a> {
    cluster: &'a Cluster<'a>,
    nodes: BTreeMap<NodeId, (&'a NodeView, Health)>,
    /// Groups that each node is in, kept up to date while deciding, so that a round spreads what it decides.
    load: BTreeMap<NodeId, usize>,
    /// Nodes that keep data.
    counted: usize,
    /// At least half of the nodes are silent: the link is to blame rather than they.
    many_silent: bool,
}

impl<'a> Table<'a> {
    fn new(cluster: &'a Cluster<'a>) -> Self {
        let nodes: BTreeMap<_, _> =
            cluster.nodes.iter().map(|n| (n.node, (n, cluster.timing.health(n)))).collect();
        let silent = nodes.values().filter(|(_, health)| *health >= Health::Suspect).count();
        let many_silent = silent >= 2 && 2 * silent >= nodes.len();
        let mut load = BTreeMap::new();
        for member in cluster.groups.iter().flat_map(|g| &g.members) {
            *load.entry(member.node).or_default() += 1;
        }
        Self { cluster, nodes, load, counted: counted(cluster.nodes), many_silent }
    }

    fn is_warm(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.values().all(|(_, health)| *health != Health::Unknown)
    }

    /// A member that never registered, which the state machine does not allow, counts as dead.
    fn health(&self, node: NodeId) -> Health {
        self.nodes.get(&node).map_or(Health::Dead, |(_, health)| *health)
    }

    fn is_healthy(&self, node: NodeId) -> bool {
        self.health(node) == Health::Healthy
    }

    fn takes_chunks(&self, node: NodeId) -> bool {
        let takes = |view: &NodeView| view.writable && !view.draining;
        self.is_healthy(node) && self.nodes.get(&node).is_some_and(|(view, _)| takes(view))
    }

    fn is_draining(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|(view, _)| view.draining)
    }

    /// A node whose place nobody needs to take.
    fn holds_its_place(&self, node: NodeId, may_excuse: bool) -> bool {
        let excused = || may_excuse && self.nodes.get(&node).is_some_and(|(view, _)| view.excused);
        !self.is_draining(node) && (self.health(node) != Health::Dead || excused())
    }

    fn fill(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |(view, _)| view.fill())
    }

    fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or(0)
    }

    /// The decision table for one group.
    fn revise(&mut self, group: &Group) -> Option<GroupChange> {
        let mut members = group.members.clone();
        let mut reasons = Vec::new();
        self.promote(group, &mut members, &mut reasons);
        if self.healthy_serving(&group.members) > 0 {
            self.demote_and_retry(&mut members, &mut reasons);
            let wanted = wanted(group.replication, self.counted);
            self.join(group.id, wanted, &mut members, &mut reasons);
            // Nobody can take the place of one that is drained where there are no more nodes.
            let enough = wanted.min(self.counted).max(1);
            self.drop_surplus(group, enough, &mut members, &mut reasons);
        }
        (members != group.members).then(|| GroupChange {
            pg: group.id,
            expected: group.epoch,
            replication: group.replication,
            members,
            reason: reasons.join("; "),
        })
    }

    fn healthy_serving(&self, members: &[Member]) -> usize {
        members.iter().filter(|m| m.state == MemberState::Serving && self.is_healthy(m.node)).count()
    }

    /// The same without those that are being drained.
    fn lasting(&self, members: &[Member]) -> usize {
        let lasts = |m: &&Member| {
            m.state == MemberState::Serving && self.is_healthy(m.node) && !self.is_draining(m.node)
        };
        members.iter().filter(lasts).count()
    }

    fn promote(&self, group: &Group, members: &mut [Member], reasons: &mut Vec<String>) {
        for member in members.iter_mut().filter(|m| m.state == MemberState::Syncing) {
            let key = (group.id, group.epoch, member.node);
            if self.is_healthy(member.node) && self.cluster.synced.contains(&key) {
                member.state = MemberState::Serving;
                reasons.push(format!("node {} has caught up", member.node));
            }
        }
    }

    fn demote_and_retry(&self, members: &mut [Member], reasons: &mut Vec<String>) {
        for member in members {
            let limit = if self.many_silent { Health::Dead } else { Health::Suspect };
            let (node, silent) = (member.node, self.health(member.node) >= limit);
            let (state, why) = match member.state {
                MemberState::Serving if silent => (MemberState::Stale, "is silent"),
                MemberState::Syncing if silent => (MemberState::Stale, "fell silent while it caught up"),
                MemberState::Syncing if !self.takes_chunks(node) => {
                    (MemberState::Stale, "takes no chunks and cannot catch up")
                }
                MemberState::Stale if self.takes_chunks(node) => (MemberState::Syncing, "is back"),
                MemberState::Serving | MemberState::Syncing | MemberState::Stale => continue,
            };
            member.state = state;
            reasons.push(format!("node {node} {why}"));
        }
    }

    fn join(&mut self, pg: PgId, wanted: usize, members: &mut Vec<Member>, reasons: &mut Vec<String>) {
        let may_excuse = self.healthy_serving(members) > 1 || wanted == 1;
        let mut there: Vec<_> =
            members.iter().map(|m| m.node).filter(|n| self.holds_its_place(*n, may_excuse)).collect();
        while there.len() < wanted && members.len() < PG_MEMBERS_MAX {
            let Some(node) = self.pick(pg, &there, |node| members.iter().any(|m| m.node == node)) else {
                break;
            };
            reasons.push(format!("node {node} joins, {} of {wanted} members live", there.len()));
            there.push(node);
            members.push(Member { node, state: MemberState::Syncing });
            *self.load.entry(node).or_default() += 1;
        }
    }

    /// Drops members beyond the wanted number once that number serves: the dead first, then those that are being drained, those
    /// that lack most, and the fullest. One that served before the change remains in any case.
    fn drop_surplus(
        &mut self,
        before: &Group,
        wanted: usize,
        members: &mut Vec<Member>,
        reasons: &mut Vec<String>,
    ) {
        let served: BTreeSet<_> = before.serving().collect();
        while members.len() > wanted && self.lasting(members) >= wanted {
            let rank = |m: &Member| {
                let (draining, fill) = (self.is_draining(m.node), self.fill(m.node));
                (self.health(m.node), draining, m.state, fill, self.load(m.node), m.node)
            };
            let Some(worst) = members.iter().max_by_key(|m| rank(m)).copied() else { break };
            let goes_on = |m: &Member| {
                m.node != worst.node && m.state == MemberState::Serving && served.contains(&m.node)
            };
            if !members.iter().any(goes_on) {
                break;
            }
            members.retain(|m| m.node != worst.node);
            reasons.push(format!("node {} is not needed any more", worst.node));
            if let Some(load) = self.load.get_mut(&worst.node) {
                *load = load.saturating_sub(1);
            }
        }
    }

    /// The best healthy node to join members that live: in a rack that has the fewest of them, with the fewest groups,
    /// and among equals one that depends on the group, so that groups of equal nodes mix all of them.
    fn pick(&self, pg: PgId, there: &[NodeId], taken: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let rack = |node: &NodeId| self.nodes.get(node).map_or("", |(view, _)| view.rack.as_str());
        let in_rack = |candidate: &str| {
            if candidate.is_empty() { 0 } else { there.iter().filter(|n| rack(n) == candidate).count() }
        };
        let free = self.nodes.keys().copied().filter(|&n| self.takes_chunks(n) && !taken(n));
        free.min_by_key(|node| {
            let lot = mix((u64::from(pg.0) << 32) | u64::from(node.0));
            (in_rack(rack(node)), self.load(*node), lot)
        })
    }

    /// Makes the groups that the policy lacks.
    fn create(&mut self, policy: Replication, changes: &mut Vec<GroupChange>) {
        let candidates = self.nodes.keys().filter(|n| self.takes_chunks(**n)).count();
        // Full nodes count: when others join them, groups are needed that take chunks.
        let healthy = self.nodes.keys().filter(|n| self.is_healthy(**n) && !self.is_draining(**n)).count();
        let wanted = wanted(policy, self.counted);
        let mut have = self.cluster.groups.iter().filter(|g| g.replication == policy).count();
        if !self.may_create(policy, candidates, wanted, have) {
            return;
        }
        let members = wanted.min(candidates);
        let target = (GROUPS_PER_NODE * healthy / members).clamp(1, GROUPS_PER_POLICY_MAX);
        let last = changes.iter().map(|c| PgId(c.pg.0 + 1)).max();
        let mut next = last.unwrap_or_default().max(self.cluster.next_pg).0;
        while have < target && changes.len() < DECISIONS_MAX && PgId(next) <= ChunkId::MAX_PG {
            changes.push(self.new_group(PgId(next), policy, members, wanted));
            (have, next) = (have + 1, next + 1);
        }
    }

    /// A policy's first groups are made with the nodes there are, but not while more are likely to show up in a moment;
    /// further ones only with all the members that the policy wants.
    fn may_create(&self, policy: Replication, candidates: usize, wanted: usize, have: usize) -> bool {
        let settled = self.cluster.timing.uptime_ms >= self.cluster.timing.suspect_after_ms;
        match policy {
            Replication::Factor(_) if candidates >= wanted => true,
            Replication::Factor(_) | Replication::All => {
                candidates > 0 && settled && (have == 0 || candidates >= wanted)
            }
        }
    }

    /// Lets less full nodes join groups of fuller ones; when they have caught up, the fullest member is dropped.
    fn balance(&mut self) -> Vec<GroupChange> {
        let moves = |g: &&Group| {
            g.members.len() > wanted(g.replication, self.counted)
                || g.members.iter().any(|m| m.state != MemberState::Serving)
        };
        let under_way = self.cluster.groups.iter().filter(moves).count();
        let mut changes = Vec::new();
        for group in self.cluster.groups {
            if under_way + changes.len() >= MOVES_MAX {
                break;
            }
            changes.extend(self.move_from_fullest(group));
        }
        changes
    }

    fn move_from_fullest(&mut self, group: &Group) -> Option<GroupChange> {
        let whole = group.members.len() == wanted(group.replication, self.counted)
            && self.lasting(&group.members) == group.members.len();
        if !whole || group.members.len() >= PG_MEMBERS_MAX {
            return None;
        }
        let from = group.members.iter().map(|m| m.node).max_by_key(|n| (self.fill(*n), *n))?;
        let stay: Vec<NodeId> = group.members.iter().map(|m| m.node).filter(|n| *n != from).collect();
        let to = self.roomiest(group, &stay, from)?;
        *self.load.entry(to).or_default() += 1;
        let mut members = group.members.clone();
        members.push(Member { node: to, state: MemberState::Syncing });
        Some(GroupChange {
            pg: group.id,
            expected: group.epoch,
            replication: group.replication,
            members,
            reason: format!("node {to} joins, it is less full than node {from}"),
        })
    }

    /// The least full node that may take the group's place on `from`, if it is then still less full than `from` was.
    fn roomiest(&self, group: &Group, stay: &[NodeId], from: NodeId) -> Option<NodeId> {
        let rack = |node: NodeId| self.nodes.get(&node).map_or("", |(view, _)| view.rack.as_str());
        let crowd = |node: NodeId| {
            let name = rack(node);
            if name.is_empty() { 0 } else { stay.iter().filter(|n| rack(**n) == name).count() }
        };
        let to = self
            .nodes
            .keys()
            .copied()
            .filter(|n| self.takes_chunks(*n) && group.members.iter().all(|m| m.node != *n))
            .filter(|n| crowd(*n) <= crowd(from))
            .min_by_key(|n| (self.fill(*n), *n))?;
        let (view, target) = (self.nodes.get(&from)?.0, self.nodes.get(&to)?.0);
        // What one group takes, if the node's groups are equally large.
        let size = view.bytes / self.load(from).max(1) as u64;
        let after = NodeView { free: target.free.saturating_sub(size), ..target.clone() };
        let enough = self.fill(from) >= target.fill() + SPREAD_PERMILLE && size < target.free;
        (enough && after.fill() < self.fill(from)).then_some(to)
    }

    fn new_group(&mut self, pg: PgId, policy: Replication, count: usize, wanted: usize) -> GroupChange {
        let mut nodes: Vec<NodeId> = Vec::with_capacity(count);
        while nodes.len() < count {
            let Some(node) = self.pick(pg, &nodes, |node| nodes.contains(&node)) else { break };
            *self.load.entry(node).or_default() += 1;
            nodes.push(node);
        }
        // The first member is read from and written to first: let all nodes be first equally often.
        nodes.sort_unstable();
        let turn = pg.0 as usize % nodes.len().max(1);
        nodes.rotate_left(turn);
        GroupChange {
            pg,
            expected: Epoch(0),
            replication: policy,
            members: nodes.into_iter().map(|node| Member { node, state: MemberState::Serving }).collect(),
            reason: format!("policy {policy} needs groups, {count} of {wanted} members live"),
        }
    }
}

#[cfg(test)]
mod tests;
