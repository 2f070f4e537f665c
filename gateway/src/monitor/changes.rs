//! Two states of the cluster in, events out.

use super::log::Severity;
use quarry_common::wire::cluster::{ClusterStatus, NodeState, NodeStatus};

/// What happened between two looks at the cluster.
pub(crate) fn between(old: Option<&ClusterStatus>, new: &ClusterStatus) -> Vec<(Severity, String)> {
    let mut events = Vec::new();
    if let Some(old) = old
        && new.uptime_s < old.uptime_s
    {
        events.push((Severity::Warning, format!("The NameNode {} was started again.", new.namenode)));
    }
    for node in &new.nodes {
        let before = old.and_then(|old| old.nodes.iter().find(|n| n.node.id == node.node.id));
        node_events(before, old.is_some(), node, &mut events);
    }
    if let Some(old) = old {
        healing(old, new, &mut events);
    }
    events
}

fn node_events(
    before: Option<&NodeStatus>,
    seen_before: bool,
    node: &NodeStatus,
    events: &mut Vec<(Severity, String)>,
) {
    let (id, address) = (node.node.id, &node.node.address);
    match (before.map(|b| b.node.state), node.node.state) {
        (Some(old), new) if old == new => {}
        (None, NodeState::Healthy) if seen_before => {
            events.push((Severity::Info, format!("DataNode {id} at {address} joined.")));
        }
        (None, NodeState::Healthy) => {}
        (Some(_), NodeState::Healthy) => {
            events.push((Severity::Info, format!("DataNode {id} is healthy again.")));
        }
        (_, NodeState::Suspect) => {
            events.push((Severity::Warning, format!("DataNode {id} sends no heartbeats: suspect.")));
        }
        (_, NodeState::Dead) => {
            events.push((
                Severity::Error,
                format!("DataNode {id} is dead: its replicas are restored elsewhere."),
            ));
        }
        (_, NodeState::Failing) => {
            events.push((Severity::Error, format!("None of the disks of DataNode {id} works.")));
        }
        (_, NodeState::Full) => {
            events.push((Severity::Warning, format!("DataNode {id} takes no new chunks.")));
        }
    }
    let trouble = before.map_or("", |b| &b.trouble);
    if node.trouble != trouble && !node.trouble.is_empty() {
        events.push((Severity::Error, format!("DataNode {id} reports: {}", node.trouble)));
    } else if node.trouble.is_empty() && !trouble.is_empty() {
        events.push((Severity::Info, format!("DataNode {id} reports no more trouble.")));
    }
    let rotten = node.scrubbed.1.saturating_sub(before.map_or(0, |b| b.scrubbed.1));
    if rotten > 0 {
        let what = match rotten {
            1 => "a rotten replica".to_owned(),
            n => format!("{n} rotten replicas"),
        };
        let text = format!("DataNode {id} found {what}, to be replaced by copies of good ones.");
        events.push((Severity::Warning, text));
    }
}

fn healing(old: &ClusterStatus, new: &ClusterStatus, events: &mut Vec<(Severity, String)>) {
    let incomplete = |s: &ClusterStatus| s.groups_degraded + s.groups_healing;
    // Little data is copied between two looks.
    let in_between = if incomplete(new) == 0 { incomplete(old) } else { 0 };
    let healing = new.groups_healing.max(in_between);
    if old.groups_healing == 0 && healing > 0 {
        let all = incomplete(new) + new.groups_healthy;
        events.push((Severity::Info, format!("Healing of {healing} of {all} placement groups began.")));
    }
    if incomplete(old) > 0 && incomplete(new) == 0 {
        events.push((
            Severity::Info,
            "Healing is done: every placement group has all its replicas.".to_owned(),
        ));
    } else if incomplete(old) == 0 && new.groups_degraded > 0 {
        events.push((Severity::Warning, format!("{} placement groups lack replicas.", new.groups_degraded)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::tests::node_status;
    use quarry_common::ids::NodeId;
    use quarry_common::wire::cluster::Node;

    fn status(state: NodeState, healing: u64, rotten: u64) -> ClusterStatus {
        let mut node = node_status(Node { id: NodeId(1), address: "10.0.0.1:1".into(), state });
        node.scrubbed = (10, rotten);
        ClusterStatus {
            nodes: vec![node],
            groups_healing: healing,
            groups_healthy: 4,
            ..ClusterStatus::default()
        }
    }

    fn texts(old: &ClusterStatus, new: &ClusterStatus) -> Vec<String> {
        between(Some(old), new).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn a_node_is_lost_and_comes_back() {
        use NodeState::{Dead, Healthy, Suspect};
        assert!(between(None, &status(Healthy, 0, 0)).is_empty());
        assert!(texts(&status(Healthy, 0, 0), &status(Healthy, 0, 0)).is_empty());
        assert_eq!(texts(&status(Healthy, 0, 0), &status(Suspect, 0, 0)).len(), 1);
        let dead = texts(&status(Suspect, 0, 0), &status(Dead, 2, 0));
        assert!(dead[0].contains("dead") && dead[1].contains("Healing of 2 of 6"), "{dead:?}");
        let back = texts(&status(Dead, 2, 0), &status(Healthy, 0, 0));
        assert!(back[0].contains("healthy again") && back[1].contains("Healing is done"), "{back:?}");
    }

    #[test]
    fn rot_and_restarts_are_told() {
        let old = ClusterStatus { uptime_s: 90, ..status(NodeState::Healthy, 0, 1) };
        let new = ClusterStatus { uptime_s: 3, ..status(NodeState::Healthy, 0, 4) };
        let events = texts(&old, &new);
        assert!(events[0].contains("started again"), "{events:?}");
        assert!(events[1].contains("3 rotten replicas"), "{events:?}");
    }
}
