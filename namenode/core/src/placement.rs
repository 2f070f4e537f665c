//! Where new chunks go, and how much the cluster can hold.

use crate::health::{Health, NodeView, Timing, mix};
use crate::membership::{counted, min_replicas, wanted};
use quarry_common::ids::{NodeId, PgId};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::cluster::{Group, Replication};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What a choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// All registered nodes.
    pub nodes: &'a [NodeView],
    /// All groups.
    pub groups: &'a [Group],
    /// Thresholds.
    pub timing: Timing,
    /// See [`min_replicas`]: what an administrator has set.
    pub min_replicas: Option<u8>,
    /// The policy of the file.
    pub policy: Replication,
    /// Nodes that failed the client lately.
    pub avoid: &'a [NodeId],
    /// How many groups are wanted.
    pub count: usize,
    /// Decides between groups that are equally good; draw a new one for each choice.
    pub seed: u64,
}

/// Why no group was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Every group of the policy has a member without space, or there is no group and no node with space to make one of.
    #[error("every group of the policy is full")]
    NoSpace,
    /// Groups have too few members that take chunks; they get them back, or an administrator lowers the bound.
    #[error("the groups of the policy have too few members for a safe write")]
    TooFew,
    /// No group takes chunks now, but one may in a moment: there is none of the policy yet, or members are silent and
    /// not left out yet.
    #[error("no group of the policy takes chunks at the moment")]
    Unavailable,
}

/// How good a group is for new chunks; smaller is better, groups of the same grade are equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grade {
    /// Writers not heard of since this NameNode started: they may well be there.
    unknown: usize,
    /// Writers that failed the client.
    avoided: usize,
    /// Writers that the policy wants and the group lacks.
    missing: usize,
}

/// Chooses up to `count` different groups of the policy for new chunks, at least one.
///
/// A group takes chunks if none of its writers is silent or full. Of these the best grade is taken: all writers heard,
/// none to avoid, as many as the policy wants; within it chance decides, weighted by the space that is left.
///
/// # Errors
/// [`Refusal::NoSpace`] only if every group is full, or every node if there is no group, so that waiting would not help.
pub fn choose(choice: &Choice<'_>) -> Result<Vec<PgId>, Refusal> {
    let nodes: BTreeMap<_, _> = choice.nodes.iter().map(|n| (n.node, n)).collect();
    let (mut all, mut full, mut few) = (0, 0, 0);
    let mut usable: Vec<(Grade, PgId, u64)> = Vec::new();
    for group in choice.groups.iter().filter(|g| g.replication == choice.policy) {
        all += 1;
        match assess(choice, &nodes, group) {
            Ok((grade, weight)) => usable.push((grade, group.id, weight)),
            Err(Refusal::NoSpace) => full += 1,
            Err(Refusal::TooFew) => few += 1,
            Err(Refusal::Unavailable) => {}
        }
    }
    let Some(best) = usable.iter().map(|(grade, ..)| *grade).min() else {
        let no_space = if all > 0 { full == all } else { every_node_is_full(choice) };
        return Err(if no_space {
            Refusal::NoSpace
        } else if few > 0 {
            Refusal::TooFew
        } else {
            Refusal::Unavailable
        });
    };
    let equals = usable.into_iter().filter(|(grade, ..)| *grade == best).map(|(_, pg, weight)| (pg, weight));
    Ok(draw(equals.collect(), choice.count.max(1), choice.seed))
}

/// Groups are made of nodes with space only, so a cluster that is full from the start has none.
fn every_node_is_full(choice: &Choice<'_>) -> bool {
    !choice.nodes.is_empty()
        && choice.nodes.iter().all(|node| choice.timing.health(node) == Health::Healthy && is_full(node))
}

/// A node whose disks are out has no space either, but that ends: they come back, or others take its place.
fn is_full(node: &NodeView) -> bool {
    node.disks_out_ms.is_none() && (!node.writable || node.free < CHUNK_SIZE)
}

/// The group's grade and its weight: the chunks for which its fullest writer has space.
fn assess(
    choice: &Choice<'_>,
    nodes: &BTreeMap<NodeId, &NodeView>,
    group: &Group,
) -> Result<(Grade, u64), Refusal> {
    let counted = counted(choice.nodes);
    if group.writers().count() < min_replicas(choice.policy, counted, choice.min_replicas) {
        return Err(Refusal::TooFew);
    }
    let mut grade = Grade { unknown: 0, avoided: 0, missing: wanted(choice.policy, counted) };
    let mut weight = u64::MAX;
    let mut silent = false;
    for writer in group.writers() {
        let Some(node) = nodes.get(&writer) else { return Err(Refusal::Unavailable) };
        match choice.timing.health(node) {
            // Its disks failed a moment ago: soon it is left out, or they are back.
            Health::Healthy if node.disks_out_ms.is_some() => silent = true,
            Health::Healthy if is_full(node) => return Err(Refusal::NoSpace),
            Health::Healthy => weight = weight.min(node.free / CHUNK_SIZE),
            // It has not said how much space it has.
            Health::Unknown => {
                grade.unknown += 1;
                weight = 1;
            }
            Health::Suspect | Health::Dead => silent = true,
        }
        // What goes to a node that is being drained moves once more.
        grade.avoided += usize::from(choice.avoid.contains(&writer) || node.draining);
        grade.missing = grade.missing.saturating_sub(1);
    }
    if silent || group.serving().next().is_none() {
        return Err(Refusal::Unavailable);
    }
    Ok((grade, weight))
}

/// Draws different groups, each with a probability in proportion to its weight.
fn draw(mut groups: Vec<(PgId, u64)>, count: usize, seed: u64) -> Vec<PgId> {
    let mut drawn = Vec::with_capacity(count.min(groups.len()));
    let mut state = seed;
    while drawn.len() < count && !groups.is_empty() {
        state = mix(state);
        let total: u128 = groups.iter().map(|(_, weight)| u128::from(*weight)).sum();
        // The high half of a 128-bit product: uniform over the total without a division.
        let mut point = (u128::from(state) * total) >> 64;
        let hit = groups.iter().position(|(_, weight)| {
            let inside = point < u128::from(*weight);
            point = point.saturating_sub(u128::from(*weight));
            inside
        });
        drawn.push(groups.swap_remove(hit.unwrap_or(0)).0);
    }
    drawn
}

/// Bytes of user data that the cluster can hold, and how many more, at a policy.
///
/// The most data of which `r` copies fit on different nodes is the largest `b` with `sum(min(space, b)) >= r * b`: no
/// node can hold more than one copy of anything. Nodes that are dead or have not been heard do not count; with fewer
/// nodes than copies, groups have the members there are.
pub fn capacity(nodes: &[NodeView], timing: Timing, policy: Replication) -> (u64, u64) {
    let live = || {
        let lives = |n: &&NodeView| n.heartbeat_age_ms.is_some() && timing.health(n) != Health::Dead;
        nodes.iter().filter(|n| !n.draining).filter(lives)
    };
    let copies = wanted(policy, live().count());
    let capacity = logical(live().map(|n| n.capacity).collect(), copies);
    let free = logical(live().map(|n| if n.writable { n.free } else { 0 }).collect(), copies);
    (capacity, free.min(capacity))
}

/// The largest `b` with `sum(min(space, b)) >= copies * b`.
fn logical(mut spaces: Vec<u64>, copies: usize) -> u64 {
    let copies = copies.min(spaces.len());
    if copies == 0 {
        return 0;
    }
    spaces.sort_unstable_by_key(|space| Reverse(*space));
    // Nodes larger than `b` take one whole copy each, the others together must hold the remaining ones.
    let mut rest: u128 = spaces.iter().map(|s| u128::from(*s)).sum();
    for (whole, space) in spaces.iter().enumerate().take(copies) {
        let bound = rest / (copies - whole) as u128;
        if u128::from(*space) <= bound {
            return u64::try_from(bound).unwrap_or(u64::MAX);
        }
        rest -= u128::from(*space);
    }
    spaces[copies - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quarry_common::ids::Epoch;
    use quarry_common::wire::cluster::{Member, MemberState};

    const POLICY: Replication = Replication::Factor(2);

    fn node(id: u32) -> NodeView {
        NodeView {
            node: NodeId(id),
            rack: String::new(),
            heartbeat_age_ms: Some(100),
            disks_out_ms: None,
            writable: true,
            capacity: 1000 * CHUNK_SIZE,
            free: 500 * CHUNK_SIZE,
            bytes: 500 * CHUNK_SIZE,
            draining: false,
            excused: false,
        }
    }

    fn group(id: u32, members: &[u32]) -> Group {
        Group {
            id: PgId(id),
            epoch: Epoch(1),
            replication: POLICY,
            members: members
                .iter()
                .map(|n| Member { node: NodeId(*n), state: MemberState::Serving })
                .collect(),
        }
    }

    /// What can be chosen, over many seeds.
    fn chosen(nodes: &[NodeView], groups: &[Group], avoid: &[u32]) -> Result<BTreeMap<u32, usize>, Refusal> {
        let avoid: Vec<_> = avoid.iter().map(|n| NodeId(*n)).collect();
        let mut counts = BTreeMap::new();
        for seed in 0..1000 {
            let timing = Timing::at(60_000);
            let choice = Choice {
                nodes,
                groups,
                timing,
                min_replicas: None,
                policy: POLICY,
                avoid: &avoid,
                count: 1,
                seed: mix(seed),
            };
            for pg in choose(&choice)? {
                *counts.entry(pg.0).or_default() += 1;
            }
        }
        Ok(counts)
    }

    fn triangle() -> (Vec<NodeView>, Vec<Group>) {
        ((1..=3).map(node).collect(), vec![group(1, &[1, 2]), group(2, &[2, 3]), group(3, &[3, 1])])
    }

    #[test]
    fn free_space_weighs() {
        let (mut nodes, groups) = triangle();
        let even = chosen(&nodes, &groups, &[]).expect("groups");
        assert!(even.values().all(|n| (250..420).contains(n)), "{even:?}");
        nodes[0].free = 50 * CHUNK_SIZE;
        let counts = chosen(&nodes, &groups, &[]).expect("groups");
        assert!(counts[&2] > 4 * (counts[&1] + counts[&3]), "{counts:?}");
    }

    #[test]
    fn a_cluster_that_is_full_from_the_start_says_so() {
        let mut nodes: Vec<NodeView> = (1..=2).map(node).collect();
        assert_eq!(chosen(&[], &[], &[]), Err(Refusal::Unavailable));
        assert_eq!(chosen(&nodes, &[], &[]), Err(Refusal::Unavailable), "groups are about to be made");
        nodes[0].free = 0;
        assert_eq!(chosen(&nodes, &[], &[]), Err(Refusal::Unavailable));
        nodes[1].free = CHUNK_SIZE - 1;
        assert_eq!(chosen(&nodes, &[], &[]), Err(Refusal::NoSpace));
        nodes[1].heartbeat_age_ms = None;
        assert_eq!(
            chosen(&nodes, &[], &[]),
            Err(Refusal::Unavailable),
            "it has not said how much space it has"
        );
    }

    #[test]
    fn a_group_with_a_silent_or_avoided_writer_is_passed_over() {
        let (mut nodes, groups) = triangle();
        let only = |r: Result<BTreeMap<u32, usize>, _>| r.expect("groups").into_keys().collect::<Vec<_>>();
        assert_eq!(only(chosen(&nodes, &groups, &[1])), [2]);
        nodes[1].heartbeat_age_ms = Some(5_000);
        assert_eq!(only(chosen(&nodes, &groups, &[])), [3]);
        // Better one to avoid than none.
        assert_eq!(only(chosen(&nodes, &groups, &[1])), [3]);
        nodes[0].heartbeat_age_ms = Some(5_000);
        assert_eq!(chosen(&nodes, &groups, &[]), Err(Refusal::Unavailable));
    }

    #[test]
    fn stale_members_do_not_matter_but_whole_groups_come_first() {
        let (mut nodes, mut groups) = triangle();
        nodes[0].heartbeat_age_ms = Some(20_000);
        groups[0].members[0].state = MemberState::Stale;
        assert_eq!(chosen(&nodes, &groups[..1], &[]).expect("groups").len(), 1);
        assert_eq!(chosen(&nodes, &groups, &[]).expect("groups").into_keys().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn no_space_only_when_every_group_is_full() {
        let (mut nodes, groups) = triangle();
        nodes[0].writable = false;
        nodes[1].free = CHUNK_SIZE - 1;
        assert_eq!(chosen(&nodes, &groups, &[]), Err(Refusal::NoSpace));
        nodes[1].heartbeat_age_ms = Some(5_000);
        assert_eq!(chosen(&nodes, &groups, &[]), Err(Refusal::Unavailable));
        assert_eq!(chosen(&nodes, &[], &[]), Err(Refusal::Unavailable));
    }

    #[test]
    fn a_node_whose_disks_are_out_is_not_full() {
        let (mut nodes, groups) = triangle();
        for node in &mut nodes {
            (node.writable, node.free, node.disks_out_ms) = (false, 0, Some(10));
        }
        assert_eq!(chosen(&nodes, &groups, &[]), Err(Refusal::Unavailable));
        assert_eq!(chosen(&nodes, &[], &[]), Err(Refusal::Unavailable));
        nodes.iter_mut().for_each(|node| node.disks_out_ms = None);
        assert_eq!(chosen(&nodes, &groups, &[]), Err(Refusal::NoSpace));
    }

    #[test]
    fn nodes_not_heard_yet_are_the_last_choice() {
        let (mut nodes, groups) = triangle();
        nodes[0].heartbeat_age_ms = None;
        let choice = |groups| Choice {
            nodes: &nodes,
            groups,
            timing: Timing::at(1_000),
            min_replicas: None,
            policy: POLICY,
            avoid: &[NodeId(2)],
            count: 5,
            seed: 1,
        };
        assert_eq!(choose(&choice(&groups)), Ok(vec![PgId(2)]));
        assert_eq!(choose(&choice(&groups[..1])), Ok(vec![PgId(1)]));
    }

    #[test]
    fn a_group_with_too_few_members_takes_nothing() {
        let (mut nodes, mut groups) = triangle();
        let choice = |min_replicas, nodes: &[NodeView], groups: &[Group]| {
            choose(&Choice {
                nodes,
                groups,
                timing: Timing::at(60_000),
                min_replicas,
                policy: POLICY,
                avoid: &[],
                count: 1,
                seed: 1,
            })
        };
        for group in &mut groups {
            group.members[1].state = MemberState::Stale;
        }
        assert!(choice(None, &nodes, &groups).is_ok(), "one of two is enough by itself");
        assert_eq!(choice(Some(2), &nodes, &groups), Err(Refusal::TooFew));
        nodes.truncate(1);
        assert!(choice(Some(2), &nodes, &groups[..1]).is_ok(), "there are no two nodes");
    }

    #[test]
    fn several_groups_are_different_ones() {
        let (nodes, groups) = triangle();
        let timing = Timing::at(60_000);
        for seed in 0..50 {
            let choice = Choice {
                nodes: &nodes,
                groups: &groups,
                timing,
                min_replicas: None,
                policy: POLICY,
                avoid: &[],
                count: 9,
                seed,
            };
            let mut drawn = choose(&choice).expect("groups");
            drawn.sort_unstable();
            assert_eq!(drawn, [PgId(1), PgId(2), PgId(3)]);
        }
    }

    #[test]
    fn capacity_is_what_fits_on_different_nodes() {
        assert_eq!(logical(vec![10, 10, 10], 3), 10);
        assert_eq!(logical(vec![10, 10, 10], 2), 15);
        assert_eq!(logical(vec![100, 10, 10], 2), 20);
        assert_eq!(logical(vec![100, 7], 2), 7);
        assert_eq!(logical(vec![5], 3), 5);
        assert_eq!(logical(vec![], 3), 0);
        assert_eq!(logical(vec![u64::MAX; 3], 1), u64::MAX);
        let mut nodes: Vec<_> = (1..=3).map(node).collect();
        let timing = Timing::at(60_000);
        let of = |n: u64| n * CHUNK_SIZE;
        assert_eq!(capacity(&nodes, timing, Replication::Factor(3)), (of(1000), of(500)));
        assert_eq!(capacity(&nodes, timing, Replication::Factor(1)), (of(3000), of(1500)));
        assert_eq!(capacity(&nodes, timing, Replication::All), (of(1000), of(500)));
        nodes[0].heartbeat_age_ms = Some(20_000);
        assert_eq!(capacity(&nodes, timing, Replication::Factor(3)), (of(1000), of(500)));
        nodes[1].writable = false;
        assert_eq!(capacity(&nodes, timing, Replication::All), (of(1000), 0));
        assert_eq!(capacity(&[], timing, Replication::All), (0, 0));
    }

    proptest! {
        #[test]
        fn logical_capacity_is_the_largest_that_fits(spaces in prop::collection::vec(0u64..200, 1..6), copies in 1usize..6) {
            let copies = copies.min(spaces.len());
            let fits = |b: u64| spaces.iter().map(|s| *s.min(&b)).sum::<u64>() >= copies as u64 * b;
            let b = logical(spaces.clone(), copies);
            prop_assert!(fits(b) && !fits(b + 1), "{b}");
        }
    }
}
