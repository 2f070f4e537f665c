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
//! | demote | serving, syncing | suspect or dead | stale |
//! | demote | syncing | takes no chunks | stale |
//! | retry | stale | healthy, takes chunks | syncing |
//! | join | - | fewer members that are not dead than the policy wants | a healthy node joins, syncing |
//! | drop | the worst | the policy's number serves and is healthy, and there are more | out |
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

/// How many members a group of the policy wants, in a cluster of this many registered nodes.
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
    changes
}

/// The cluster, indexed.
struct Table<'a> {
    cluster: &'a Cluster<'a>,
    nodes: BTreeMap<NodeId, (&'a NodeView, Health)>,
    /// Groups that each node is in, kept up to date while deciding, so that a round spreads what it decides.
    load: BTreeMap<NodeId, usize>,
}

impl<'a> Table<'a> {
    fn new(cluster: &'a Cluster<'a>) -> Self {
        let nodes = cluster.nodes.iter().map(|n| (n.node, (n, cluster.timing.health(n)))).collect();
        let mut load = BTreeMap::new();
        for member in cluster.groups.iter().flat_map(|g| &g.members) {
            *load.entry(member.node).or_default() += 1;
        }
        Self { cluster, nodes, load }
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
        self.is_healthy(node) && self.nodes.get(&node).is_some_and(|(view, _)| view.writable)
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
            let wanted = wanted(group.replication, self.nodes.len());
            self.join(group.id, wanted, &mut members, &mut reasons);
            self.drop_surplus(group, wanted, &mut members, &mut reasons);
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
            let (node, silent) = (member.node, self.health(member.node) >= Health::Suspect);
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
        let mut there: Vec<_> =
            members.iter().map(|m| m.node).filter(|n| self.health(*n) != Health::Dead).collect();
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

    /// Drops members beyond the wanted number once that number serves: the dead first, then those that lack most, then
    /// those that serve only since this change (one that served before must remain), then those with most groups.
    fn drop_surplus(
        &mut self,
        before: &Group,
        wanted: usize,
        members: &mut Vec<Member>,
        reasons: &mut Vec<String>,
    ) {
        let served: BTreeSet<_> = before.serving().collect();
        while members.len() > wanted && self.healthy_serving(members) >= wanted {
            let rank = |m: &Member| {
                (self.health(m.node), m.state, !served.contains(&m.node), self.load(m.node), m.node)
            };
            let Some(worst) = members.iter().max_by_key(|m| rank(m)).copied() else { break };
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
        let wanted = wanted(policy, self.nodes.len());
        let mut have = self.cluster.groups.iter().filter(|g| g.replication == policy).count();
        if !self.may_create(policy, candidates, wanted, have) {
            return;
        }
        let members = wanted.min(candidates);
        let target = (GROUPS_PER_NODE * candidates / members).clamp(1, GROUPS_PER_POLICY_MAX);
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
