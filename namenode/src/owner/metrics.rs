//! What the owner tells of the state in metrics.

use super::{Fatal, Owner};
use quarry_common::wire::cluster::{DiskState, NodeState};
use quarry_host::metrics::{Row, table};
use quarry_host::variant::VariantName;

/// Every state of a DataNode, so that the number of those in it is 0 and not missing.
const NODE_STATES: [NodeState; 5] =
    [NodeState::Healthy, NodeState::Suspect, NodeState::Dead, NodeState::Full, NodeState::Failing];

impl Owner {
    /// Sets the gauges to what is now.
    pub(crate) fn tell_metrics(&self) -> Result<(), Fatal> {
        let usage = self.state.usage();
        table::NAMENODE_APPLIED.set(&[], self.state.applied() as f64);
        table::NAMENODE_UPTIME.set(&[], self.uptime().as_secs_f64());
        table::NAMENODE_FILES.set(&[], usage.files as f64);
        table::NAMENODE_DIRECTORIES.set(&[], usage.directories as f64);
        table::NAMENODE_BYTES.set(&[], usage.bytes as f64);
        table::NAMENODE_CHUNKS.set(&[], usage.chunks as f64);
        table::NAMENODE_DELETING.set(&[], usage.deleting as f64);
        self.tell_clients();
        self.tell_groups();
        self.tell_nodes();
        Ok(())
    }

    fn tell_clients(&self) {
        let (mut sessions, mut open, mut locks, mut leases) = (0, 0, 0, 0);
        for session in self.clients.registry.sessions() {
            sessions += 1;
            open += self.clients.opens.count(session);
            locks += self.clients.locks.count(session);
            leases += self.clients.leasing.count(session);
        }
        table::NAMENODE_SESSIONS.set(&[], f64::from(sessions));
        table::NAMENODE_OPEN_FILES.set(&[], open as f64);
        table::NAMENODE_LOCKS.set(&[], locks as f64);
        table::NAMENODE_LEASES.set(&[], leases as f64);
    }

    fn tell_groups(&self) {
        let (healthy, degraded, healing) = self.topology.nodes.tally();
        for (state, count) in [("healthy", healthy), ("degraded", degraded), ("healing", healing)] {
            table::NAMENODE_GROUPS.set(&[state], count as f64);
        }
        let nodes = &self.topology.nodes;
        let wanted = |group: &quarry_common::wire::cluster::Group| {
            quarry_namenode_core::membership::wanted(group.replication, nodes.counted())
        };
        let last = nodes
            .groups()
            .iter()
            .filter(|g| wanted(g) > 1 && g.serving().filter(|n| nodes.is_healthy(*n, self.now)).count() <= 1);
        table::NAMENODE_LAST_REPLICA.set(&[], last.count() as f64);
    }

    fn tell_nodes(&self) {
        let all = self.topology.nodes.status(self.now);
        for state in NODE_STATES {
            let count = all.iter().filter(|n| n.node.state == state).count();
            table::NAMENODE_NODES.set(&[VariantName::of(&state).as_str()], count as f64);
        }
        let row = |id: quarry_common::ids::NodeId, value: f64| -> Row { (vec![id.to_string()], value) };
        table::NAMENODE_HEARTBEAT_AGE
            .replace(all.iter().filter_map(|n| Some(row(n.node.id, n.heartbeat_age_ms? as f64 / 1e3))));
        table::NAMENODE_NODE_CAPACITY.replace(all.iter().map(|n| row(n.node.id, n.capacity as f64)));
        table::NAMENODE_NODE_FREE.replace(all.iter().map(|n| row(n.node.id, n.free as f64)));
        table::NAMENODE_NODE_TROUBLE.replace(all.iter().map(|n| {
            let bad = |state| matches!(state, DiskState::Slow | DiskState::Stalled | DiskState::Failed);
            row(n.node.id, n.disks.iter().filter(|d| bad(d.state)).count() as f64)
        }));
    }
}
