//! Placement groups: the changes that are due, and the members that must catch up.

use super::Owner;
use quarry_common::ids::{Epoch, NodeId, PgId};
use quarry_common::wire::cluster::{MemberState, Replication};
use quarry_common::wire::data::Endpoint;
use quarry_namenode_core::GroupChange;
use quarry_namenode_core::membership::{self, Cluster};
use std::collections::BTreeSet;

/// A member that must catch up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heal {
    pub(crate) pg: PgId,
    pub(crate) epoch: Epoch,
    pub(crate) member: Endpoint,
    /// Serving members that are healthy.
    pub(crate) sources: Vec<Endpoint>,
}

/// A node that has chunks of a group that it has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    pub(crate) pg: PgId,
    pub(crate) target: Endpoint,
    /// Healthy serving members, at least one.
    pub(crate) members: Vec<Endpoint>,
}

impl Owner {
    /// Changes of groups that are due.
    pub(crate) fn group_changes(&mut self) -> Vec<GroupChange> {
        let mut policies: BTreeSet<Replication> = self.topology.nodes.policies().clone();
        policies.insert(self.state.meta().default_replication);
        policies.extend(self.topology.nodes.groups().iter().map(|g| g.replication));
        let views = self.topology.nodes.views(self.now);
        let mut changes = membership::decide(&Cluster {
            nodes: &views,
            groups: self.topology.nodes.groups(),
            next_pg: self.state.meta().next_pg,
            policies: &policies,
            synced: self.topology.nodes.synced(),
            timing: self.topology.nodes.timing(self.now),
        });
        // A node that is being rid of a group's chunks must not join the group at the same time.
        changes.retain(|change| {
            change.members.iter().all(|m| !self.topology.nodes.is_evicting(change.pg, m.node))
        });
        for (pg, node) in self.topology.nodes.lacking() {
            if changes.iter().all(|c| c.pg != pg) {
                changes.extend(self.demotion(pg, node));
            }
        }
        self.topology.nodes.deciding(changes.iter().map(|change| change.pg));
        changes
    }

    /// The changes that [`Owner::group_changes`] gave were carried out, or not.
    pub(crate) fn groups_changed(&mut self) {
        self.topology.nodes.decided();
    }

    /// Takes a member out that serves and lacks chunks, if another healthy one serves. It then syncs and comes back.
    fn demotion(&mut self, pg: PgId, node: NodeId) -> Option<GroupChange> {
        let group = self.topology.nodes.group(pg)?;
        let serves = group.serving().any(|n| n == node);
        if !serves {
            self.topology.nodes.lacks_no_more(pg, node);
            return None;
        }
        if !group.serving().any(|n| n != node && self.topology.nodes.is_healthy(n, self.now)) {
            return None;
        }
        let mut members = group.members.clone();
        for member in members.iter_mut().filter(|m| m.node == node) {
            member.state = MemberState::Stale;
        }
        Some(GroupChange {
            pg,
            expected: group.epoch,
            replication: group.replication,
            members,
            reason: format!("node {node} lacks chunks"),
        })
    }

    /// Members that must catch up and have not.
    pub(crate) fn heals(&self) -> Vec<Heal> {
        let mut heals = Vec::new();
        for group in self.topology.nodes.groups() {
            let syncing = group.members.iter().filter(|m| m.state == MemberState::Syncing);
            for member in syncing {
                let done = self.topology.nodes.synced().contains(&(group.id, group.epoch, member.node));
                let sources: Vec<Endpoint> = group.serving().filter_map(|n| self.healthy(n)).collect();
                match self.healthy(member.node) {
                    Some(member) if !done && !sources.is_empty() => {
                        heals.push(Heal { pg: group.id, epoch: group.epoch, member, sources });
                    }
                    _ => {}
                }
            }
        }
        // Where one copy is left comes first.
        heals.sort_by_key(|heal| heal.sources.len());
        heals
    }

    /// Nodes that hold chunks of groups that this file system does not know, with the number of chunks.
    pub(crate) fn strange_chunks(&self) -> Vec<(NodeId, PgId, u64)> {
        self.topology.nodes.strange()
    }

    /// A member has caught up.
    pub(crate) fn caught_up(&mut self, pg: PgId, epoch: Epoch, node: NodeId) {
        self.topology.nodes.caught_up(pg, epoch, node);
    }

    /// Whether the node serves the group now.
    pub(crate) fn serves(&self, pg: PgId, node: NodeId) -> bool {
        self.topology.nodes.group(pg).is_some_and(|g| g.serving().any(|n| n == node))
    }

    /// The member lacks chunks that files refer to.
    pub(crate) fn lacks(&mut self, pg: PgId, node: NodeId) {
        self.topology.nodes.lacks(pg, node);
    }

    /// A node that has chunks of a group that it is no member of: it must not become one until [`Owner::evicted`]. Nothing
    /// goes while no healthy member serves.
    pub(crate) fn evict(&mut self) -> Option<Eviction> {
        let (pg, node) = self.topology.nodes.leftover(self.now)?;
        let target = self.healthy(node)?;
        let members: Vec<Endpoint> =
            self.topology.nodes.group(pg)?.serving().filter_map(|n| self.healthy(n)).collect();
        if members.is_empty() {
            return None;
        }
        self.topology.nodes.evicting(pg, node);
        Some(Eviction { pg, target, members })
    }

    /// The node has been rid of the group's chunks, or that failed.
    pub(crate) fn evicted(&mut self, pg: PgId, node: NodeId) {
        self.topology.nodes.evicted(pg, node);
    }

    pub(super) fn healthy(&self, node: NodeId) -> Option<Endpoint> {
        let record = self.topology.nodes.record(node)?;
        self.topology
            .nodes
            .is_healthy(node, self.now)
            .then(|| Endpoint { node, address: record.address.clone() })
    }
}
