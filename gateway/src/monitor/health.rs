//! The state of the cluster in one sentence, with what an operator does about it.

use quarry_common::wire::cluster::{ClusterStatus, MemberState, NodeState, NodeStatus, Placement};
use serde::Serialize;

/// Used space from which a warning is due: healing a lost node of a small cluster needs room.
const NEARLY_FULL: f64 = 0.85;
/// Used space at which writes are about to fail.
const ALMOST_NOTHING_LEFT: f64 = 0.95;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// The cluster works; redundancy or room is reduced.
    Warning,
    /// Data or service is at risk now.
    Critical,
}

/// What the top of the page says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Health {
    pub(crate) level: Level,
    pub(crate) sentence: String,
    /// Steps for an operator, the most urgent first.
    pub(crate) advice: Vec<String>,
}

/// The health of a cluster whose NameNode answers.
pub(crate) fn of(status: &ClusterStatus, placement: &Placement) -> Health {
    let mut findings = Vec::new();
    nodes(status, &mut findings);
    groups(status, placement, &mut findings);
    room(status, &mut findings);
    let Some((level, _, _)) = findings.iter().max_by_key(|(level, _, _)| *level) else {
        let sentence = match status.nodes.len() {
            0 => "The cluster has no DataNodes yet.".to_owned(),
            1 => "The only DataNode is healthy.".to_owned(),
            n => format!("All {n} DataNodes are healthy and every placement group has all its replicas."),
        };
        return Health { level: Level::Ok, sentence, advice: Vec::new() };
    };
    let level = *level;
    findings.sort_by_key(|(level, _, _)| std::cmp::Reverse(*level));
    let sentence = findings.iter().map(|(_, text, _)| text.as_str()).collect::<Vec<_>>().join(" ");
    let advice = findings.into_iter().map(|(_, _, advice)| advice).collect();
    Health { level, sentence, advice }
}

/// The health of a cluster whose NameNode does not answer.
pub(crate) fn unreachable(namenode: &str, for_s: u64) -> Health {
    Health {
        level: Level::Critical,
        sentence: format!("The NameNode {namenode} has not answered for {for_s} s; programs on mounts wait for it."),
        advice: vec![
            "Start the NameNode again, or mend its network; mounts go on by themselves. Its log says why it ended.".to_owned(),
        ],
    }
}

type Finding = (Level, String, String);

fn nodes(status: &ClusterStatus, findings: &mut Vec<Finding>) {
    let in_state = |state| status.nodes.iter().filter(move |n| n.node.state == state);
    let usable = in_state(NodeState::Healthy).count() + in_state(NodeState::Full).count();
    if usable == 0 && !status.nodes.is_empty() {
        findings.push((
            Level::Critical,
            "No DataNode sends heartbeats.".to_owned(),
            "Start the DataNodes, or mend the network between them and the NameNode.".to_owned(),
        ));
        return;
    }
    if let Some(names) = named(in_state(NodeState::Dead)) {
        findings.push((
            Level::Warning,
            format!("{names} dead."),
            format!("{names} dead: start it again, or leave it; its replicas are restored on other nodes."),
        ));
    }
    if let Some(names) = named(in_state(NodeState::Suspect)) {
        findings.push((
            Level::Warning,
            format!("{names} silent."),
            "A silent node is declared dead after 15 s; look at its process and its network.".to_owned(),
        ));
    }
    for node in status.nodes.iter().filter(|n| !n.trouble.is_empty()) {
        findings.push((
            Level::Warning,
            format!("DataNode {} reports: {}.", node.node.id, node.trouble.trim_end_matches('.')),
            format!("Look at the disks of DataNode {}.", node.node.id),
        ));
    }
}

fn named<'a>(nodes: impl Iterator<Item = &'a NodeStatus>) -> Option<String> {
    let ids: Vec<String> = nodes.map(|n| n.node.id.to_string()).collect();
    match &ids[..] {
        [] => None,
        [one] => Some(format!("DataNode {one} is")),
        many => Some(format!("DataNodes {} are", many.join(", "))),
    }
}

fn groups(status: &ClusterStatus, placement: &Placement, findings: &mut Vec<Finding>) {
    let alive = |id| {
        placement.nodes.iter().any(|n| n.id == id && matches!(n.state, NodeState::Healthy | NodeState::Full))
    };
    let living = |g: &quarry_common::wire::cluster::Group| {
        g.members.iter().filter(|m| m.state == MemberState::Serving && alive(m.node)).count()
    };
    let lost = placement.groups.iter().filter(|g| !g.members.is_empty() && living(g) == 0).count();
    let last = placement.groups.iter().filter(|g| g.members.len() > 1 && living(g) == 1).count();
    if lost > 0 {
        findings.push((
            Level::Critical,
            format!("{} no living replica: their data cannot be read.", groups_have(lost)),
            "Start the dead DataNodes again: only they have this data.".to_owned(),
        ));
    }
    if last > 0 {
        findings.push((
            Level::Critical,
            format!("{} one living replica left.", groups_have(last)),
            "Stop no further DataNode until these groups are healed.".to_owned(),
        ));
    }
    let incomplete = status.groups_degraded + status.groups_healing;
    if incomplete > 0 {
        let total = incomplete + status.groups_healthy;
        let (text, advice) = if status.groups_healing > 0 {
            ("are being healed", "Healing goes on by itself; nothing needs to be done.")
        } else {
            (
                "lack replicas",
                "Groups lack replicas until there are as many healthy DataNodes as the replication asks for: add or start one.",
            )
        };
        findings.push((
            Level::Warning,
            format!("{incomplete} of {total} placement groups {text}."),
            advice.to_owned(),
        ));
    }
}

fn groups_have(n: usize) -> String {
    if n == 1 { "One placement group has".to_owned() } else { format!("{n} placement groups have") }
}

fn room(status: &ClusterStatus, findings: &mut Vec<Finding>) {
    let full = status.nodes.iter().filter(|n| n.node.state == NodeState::Full).count();
    let capacity: u64 = status.nodes.iter().map(|n| n.capacity).sum();
    let free: u64 = status.nodes.iter().map(|n| n.free).sum();
    if capacity == 0 {
        return;
    }
    let used = 1.0 - free as f64 / capacity as f64;
    let level = if used >= ALMOST_NOTHING_LEFT {
        Level::Critical
    } else if used >= NEARLY_FULL || full > 0 {
        Level::Warning
    } else {
        return;
    };
    findings.push((
        level,
        format!("{:.0} % of the space is used.", used * 100.0),
        "Add DataNodes or disks, or remove files.".to_owned(),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{Epoch, NodeId, PgId};
    use quarry_common::wire::cluster::{Group, Member, Node, Replication};

    fn cluster(states: &[NodeState]) -> (ClusterStatus, Placement) {
        let nodes: Vec<Node> = states
            .iter()
            .zip(1..)
            .map(|(state, id)| Node { id: NodeId(id), address: format!("10.0.0.{id}:1"), state: *state })
            .collect();
        let members =
            nodes.iter().map(|n| Member { node: n.id, state: MemberState::Serving }).collect::<Vec<_>>();
        let group = Group { id: PgId(1), epoch: Epoch(1), replication: Replication::Factor(3), members };
        let status = ClusterStatus {
            nodes: nodes.iter().map(|n| crate::monitor::tests::node_status(n.clone())).collect(),
            groups_healthy: 1,
            ..ClusterStatus::default()
        };
        (status, Placement { version: 1, nodes, groups: vec![group] })
    }

    fn check(states: &[NodeState]) -> Health {
        let (status, placement) = cluster(states);
        of(&status, &placement)
    }

    #[test]
    fn the_worst_finding_comes_first() {
        use NodeState::{Dead, Healthy, Suspect};
        assert_eq!(check(&[Healthy, Healthy, Healthy]).level, Level::Ok);
        let one = check(&[Healthy, Healthy, Dead]);
        assert_eq!(one.level, Level::Warning);
        assert!(one.sentence.contains("DataNode 3 is dead"), "{}", one.sentence);
        let two = check(&[Healthy, Suspect, Dead]);
        assert_eq!(two.level, Level::Critical);
        assert!(
            two.sentence.starts_with("One placement group has one living replica left."),
            "{}",
            two.sentence
        );
        assert!(!two.advice.is_empty());
        assert!(check(&[Dead, Dead, Dead]).sentence.contains("No DataNode sends heartbeats"));
    }

    #[test]
    fn room_is_watched() {
        let (mut status, placement) = cluster(&[NodeState::Healthy]);
        (status.nodes[0].capacity, status.nodes[0].free) = (100, 10);
        assert_eq!(of(&status, &placement).level, Level::Warning);
        status.nodes[0].free = 1;
        assert_eq!(of(&status, &placement).level, Level::Critical);
    }
}
