//! Nodes and placement groups, as the NameNode last told them.

use quarry_common::ids::{NodeId, PgId};
use quarry_common::wire::cluster::{Group, Node, NodeState, Placement};
use quarry_common::wire::data::Endpoint;
use std::collections::HashMap;

/// One answer of the NameNode, indexed.
#[derive(Debug, Default)]
pub(crate) struct Table {
    nodes: HashMap<NodeId, Node>,
    groups: HashMap<PgId, Group>,
}

impl Table {
    pub(crate) fn new(placement: Placement) -> Self {
        Self {
            nodes: placement.nodes.into_iter().map(|node| (node.id, node)).collect(),
            groups: placement.groups.into_iter().map(|group| (group.id, group)).collect(),
        }
    }

    /// Where a node is.
    pub(crate) fn endpoint(&self, node: NodeId) -> Option<Endpoint> {
        let address = self.nodes.get(&node)?.address.clone();
        Some(Endpoint { node, address })
    }

    /// Whether the node belongs to the group, in whatever state.
    pub(crate) fn is_member(&self, pg: PgId, node: NodeId) -> bool {
        self.groups.get(&pg).is_some_and(|group| group.members.iter().any(|member| member.node == node))
    }

    /// The groups that a node belongs to.
    pub(crate) fn groups_of(&self, node: NodeId) -> Vec<PgId> {
        self.groups.keys().copied().filter(|pg| self.is_member(*pg, node)).collect()
    }

    /// Whether the NameNode has not heard of the node for some time, or heard that none of its disks works.
    pub(crate) fn has_lost(&self, node: NodeId) -> bool {
        let lost = |state| matches!(state, NodeState::Suspect | NodeState::Dead | NodeState::Failing);
        self.nodes.get(&node).is_some_and(|node| lost(node.state))
    }
}
