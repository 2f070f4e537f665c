//! The figures of `docs/sizing.md`, from the functions that decide about placement groups.
//!
//! ```text
//! cargo run --release -p quarry-namenode-core --example sizing
//! ```

use quarry_common::ids::{Epoch, NodeId, PgId};
use quarry_common::wire::cluster::{Group, MemberState, Replication};
use quarry_namenode_core::membership::{Cluster, MOVES_MAX, decide};
use quarry_namenode_core::{NodeView, Timing};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one disk: 8 TB.
const DISK: u64 = 8_000_000_000_000;
/// How full the clusters are, in percent.
const FILL: u64 = 60;
/// Failures of a disk in a year, in percent: what large fleets report.
const YEARLY_FAILURES: f64 = 1.5;
/// Bytes a second at which one node takes data while clients use it: a fifth of a 10 Gbit/s link.
const NODE_RATE: f64 = 250e6;

fn node(id: u32, disks: u64, racks: u32) -> NodeView {
    NodeView {
        node: NodeId(id),
        rack: if racks > 1 { format!("rack{}", id % racks) } else { String::new() },
        heartbeat_age_ms: Some(100),
        writable: true,
        capacity: disks * DISK,
        free: disks * DISK,
        bytes: 0,
        draining: false,
        excused: false,
        disks_out_ms: None,
    }
}

/// Lets the decisions work until there are none; gives the members that joined groups which were there before.
fn settle(nodes: &mut [NodeView], groups: &mut Vec<Group>, policy: Replication, group_bytes: u64) -> usize {
    let before = groups.len();
    let mut joined = 0;
    loop {
        fill(nodes, &groups[..before.max(1).min(groups.len())], group_bytes);
        let synced = groups.iter().flat_map(|g| g.members.iter().map(|m| (g.id, g.epoch, m.node))).collect();
        let changes = decide(&Cluster {
            nodes,
            groups,
            next_pg: PgId(groups.len() as u32 + 1),
            policies: &BTreeSet::from([policy]),
            synced: &synced,
            timing: Timing::at(60_000),
        });
        if changes.is_empty() {
            return joined;
        }
        for change in changes {
            let changed = Group {
                id: change.pg,
                epoch: Epoch(change.expected.0 + 1),
                replication: change.replication,
                members: change.members,
            };
            match groups.iter_mut().find(|g| g.id == change.pg) {
                Some(group) => {
                    joined += changed.members.iter().filter(|m| m.state == MemberState::Syncing).count();
                    *group = changed;
                }
                None => groups.push(changed),
            }
        }
    }
}

/// Puts the groups' data on their members.
fn fill(nodes: &mut [NodeView], groups: &[Group], group_bytes: u64) {
    let mut bytes = BTreeMap::<NodeId, u64>::new();
    for member in groups.iter().flat_map(|g| &g.members) {
        *bytes.entry(member.node).or_default() += group_bytes;
    }
    for node in nodes {
        node.bytes = bytes.get(&node.node).copied().unwrap_or(0).min(node.capacity);
        node.free = node.capacity - node.bytes;
    }
}

fn row(count: u32, disks: u64, racks: u32, copies: u8) {
    let policy = Replication::Factor(copies);
    let mut nodes: Vec<_> = (1..=count).map(|id| node(id, disks, racks)).collect();
    let mut groups = Vec::new();
    settle(&mut nodes, &mut groups, policy, 0);
    let total = u64::from(count) * disks * DISK / 100 * FILL;
    let group_bytes = total / u64::from(copies) / groups.len() as u64;
    fill(&mut nodes, &groups, group_bytes);
    let most = nodes.iter().map(|n| n.bytes).max().unwrap_or(0) as f64;
    let evenness = most / (total as f64 / f64::from(count));
    // Nodes that share a group with one node: they heal it together.
    let partners: BTreeSet<_> = groups
        .iter()
        .filter(|g| g.members.iter().any(|m| m.node == NodeId(1)))
        .flat_map(|g| g.members.iter().map(|m| m.node))
        .collect();
    let helpers = partners.len().saturating_sub(1).max(1);
    let lost = (disks * DISK / 100 * FILL) as f64;
    let heal_hours = lost / (NODE_RATE * helpers as f64) / 3600.0;
    let (moved, group_count) = one_more(&mut nodes, &mut groups, policy, (disks, racks, group_bytes));
    let share = total as f64 / f64::from(count + 1);
    println!(
        "| {count} | {disks} | {racks} | {copies} | {group_count} | {evenness:.2} | {:.2} | {heal_hours:.1} | {} |",
        moved as f64 * group_bytes as f64 / share,
        loss(count, disks, copies, heal_hours, helpers)
    );
}

/// A node joins; gives the replicas of groups that move to it, and the number of groups before.
fn one_more(
    nodes: &mut Vec<NodeView>,
    groups: &mut Vec<Group>,
    policy: Replication,
    (disks, racks, group_bytes): (u64, u32, u64),
) -> (usize, usize) {
    let count = groups.len();
    nodes.push(node(nodes.len() as u32 + 1, disks, racks));
    (settle(nodes, groups, policy, group_bytes), count)
}

/// The chance of losing some data within a year, by the usual approximation: a disk fails, and before its data are healed all other
/// copies of one of its groups fail as well.
fn loss(count: u32, disks: u64, copies: u8, heal_hours: f64, helpers: usize) -> String {
    let all = f64::from(count) * disks as f64;
    let rate = YEARLY_FAILURES / 100.0 / 8760.0;
    // One disk's data heals faster than a node's.
    let window = heal_hours / disks as f64;
    let mut chance = all * rate * 8760.0;
    for other in 1..copies {
        // The other copies of a disk's chunks are spread over the disks of its partners.
        let spread = (helpers as f64 * disks as f64) / f64::from(other);
        chance *= (rate * window * spread).min(1.0);
    }
    format!("{chance:.0e}")
}

fn main() {
    println!("Balancing moves {MOVES_MAX} groups at a time.\n");
    println!(
        "| nodes | disks | racks | copies | groups | fullest / mean | moved / ideal | healing, h | loss a year |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for copies in [2, 3] {
        for (count, disks, racks) in
            [(3, 1, 1), (6, 4, 1), (12, 12, 4), (30, 12, 6), (100, 12, 10), (300, 36, 20), (1000, 36, 40)]
        {
            row(count, disks, racks, copies);
        }
    }
}
