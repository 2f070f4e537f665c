use super::*;
use proptest::prelude::*;

use MemberState::{Serving, Stale, Syncing};

const SETTLED: u64 = 60_000;
const BEAT: Option<u64> = Some(500);
const SUSPECT: Option<u64> = Some(4_000);
const DEAD: Option<u64> = Some(20_000);

fn node(id: u32, age: Option<u64>) -> NodeView {
    NodeView {
        node: NodeId(id),
        rack: String::new(),
        heartbeat_age_ms: age,
        disks_out_ms: None,
        writable: true,
        capacity: 1 << 40,
        free: 1 << 39,
        bytes: 1 << 39,
        draining: false,
        excused: false,
    }
}

fn nodes(ages: &[Option<u64>]) -> Vec<NodeView> {
    ages.iter().zip(1..).map(|(age, id)| node(id, *age)).collect()
}

fn group(members: &[(u32, MemberState)]) -> Group {
    Group {
        id: PgId(1),
        epoch: Epoch(7),
        replication: Replication::Factor(3),
        members: members.iter().map(|&(node, state)| Member { node: NodeId(node), state }).collect(),
    }
}

/// What becomes of one group, without new groups.
fn revise(nodes: &[NodeView], group: &Group, synced: &[u32]) -> Option<Vec<(u32, MemberState)>> {
    let synced = synced.iter().map(|n| (group.id, group.epoch, NodeId(*n))).collect();
    let changes = decide(&Cluster {
        nodes,
        groups: std::slice::from_ref(group),
        next_pg: PgId(1 << 10),
        policies: &BTreeSet::new(),
        synced: &synced,
        timing: Timing::at(SETTLED),
    });
    assert!(changes.len() <= 1);
    changes.into_iter().next().map(|c| {
        assert_eq!((c.pg, c.expected), (group.id, group.epoch));
        assert!(!c.reason.is_empty());
        c.members.iter().map(|m| (m.node.0, m.state)).collect()
    })
}

const WHOLE: [(u32, MemberState); 3] = [(1, Serving), (2, Serving), (3, Serving)];

#[test]
fn a_healthy_group_stays() {
    assert_eq!(revise(&nodes(&[BEAT, BEAT, BEAT]), &group(&WHOLE), &[]), None);
}

#[test]
fn a_suspect_member_is_left_out_of_writes() {
    let expected = vec![(1, Serving), (2, Stale), (3, Serving)];
    assert_eq!(revise(&nodes(&[BEAT, SUSPECT, BEAT]), &group(&WHOLE), &[]), Some(expected));
}

#[test]
fn the_last_ones_that_have_everything_stay() {
    assert_eq!(revise(&nodes(&[SUSPECT, SUSPECT, DEAD]), &group(&WHOLE), &[]), None);
    let g = group(&[(1, Serving), (2, Stale), (3, Syncing)]);
    assert_eq!(revise(&nodes(&[DEAD, BEAT, BEAT]), &g, &[]), None);
}

#[test]
fn one_that_came_back_syncs_and_then_serves() {
    let all = nodes(&[BEAT, BEAT, BEAT]);
    let syncing = [(1, Serving), (2, Syncing), (3, Serving)];
    assert_eq!(revise(&all, &group(&[(1, Serving), (2, Stale), (3, Serving)]), &[]), Some(syncing.to_vec()));
    assert_eq!(revise(&all, &group(&syncing), &[]), None);
    assert_eq!(revise(&all, &group(&syncing), &[2]), Some(WHOLE.to_vec()));
}

#[test]
fn a_sync_of_an_older_epoch_does_not_count() {
    let g = group(&[(1, Serving), (2, Syncing), (3, Serving)]);
    let synced = BTreeSet::from([(g.id, Epoch(6), NodeId(2))]);
    let changes = decide(&Cluster {
        nodes: &nodes(&[BEAT, BEAT, BEAT]),
        groups: &[g],
        next_pg: PgId(1 << 10),
        policies: &BTreeSet::new(),
        synced: &synced,
        timing: Timing::at(SETTLED),
    });
    assert_eq!(changes, []);
}

#[test]
fn one_that_caught_up_serves_even_if_its_source_just_died() {
    let g = group(&[(1, Serving), (2, Syncing), (3, Stale)]);
    let all = nodes(&[DEAD, BEAT, DEAD]);
    // One at a time: somebody who served before must go on serving.
    let both = [(1, Serving), (2, Serving), (3, Stale)];
    assert_eq!(revise(&all, &g, &[2]), Some(both.to_vec()));
    assert_eq!(revise(&all, &group(&both), &[]), Some(vec![(1, Stale), (2, Serving), (3, Stale)]));
}

#[test]
fn a_dead_member_is_replaced_and_then_dropped() {
    let all = nodes(&[BEAT, DEAD, BEAT, BEAT]);
    let joined = [(1, Serving), (2, Stale), (3, Serving), (4, Syncing)];
    assert_eq!(revise(&all, &group(&WHOLE), &[]), Some(joined.to_vec()));
    assert_eq!(revise(&all, &group(&joined), &[]), None);
    let replaced = vec![(1, Serving), (3, Serving), (4, Serving)];
    assert_eq!(revise(&all, &group(&joined), &[4]), Some(replaced));
}

#[test]
fn a_suspect_member_is_not_replaced_yet() {
    let expected = vec![(1, Serving), (2, Stale), (3, Serving)];
    assert_eq!(revise(&nodes(&[BEAT, SUSPECT, BEAT, BEAT]), &group(&WHOLE), &[]), Some(expected));
}

#[test]
fn a_dead_member_nobody_can_replace_is_kept() {
    let g = group(&[(1, Serving), (2, Stale), (3, Serving)]);
    assert_eq!(revise(&nodes(&[BEAT, DEAD, BEAT]), &g, &[]), None);
}

#[test]
fn the_replaced_one_that_returns_is_let_go() {
    let g = group(&[(1, Serving), (2, Stale), (3, Serving), (4, Serving)]);
    let expected = vec![(1, Serving), (3, Serving), (4, Serving)];
    assert_eq!(revise(&nodes(&[BEAT, BEAT, BEAT, BEAT]), &g, &[]), Some(expected));
}

#[test]
fn a_full_node_neither_joins_nor_syncs() {
    let mut all = nodes(&[BEAT, BEAT, BEAT, DEAD]);
    all[2].writable = false;
    let short = group(&[(1, Serving), (2, Serving), (4, Stale)]);
    assert_eq!(revise(&all, &short, &[]), None);
    let g = group(&[(1, Serving), (2, Serving), (3, Syncing)]);
    assert_eq!(revise(&all, &g, &[]), Some(vec![(1, Serving), (2, Serving), (3, Stale)]));
    assert_eq!(revise(&all, &group(&WHOLE), &[]), None);
}

#[test]
fn nothing_is_decided_before_the_view_is_warm() {
    let all = nodes(&[BEAT, None, BEAT]);
    let mut cluster = Cluster {
        nodes: &all,
        groups: &[group(&WHOLE)],
        next_pg: PgId(1 << 10),
        policies: &BTreeSet::from([Replication::Factor(1)]),
        synced: &BTreeSet::new(),
        timing: Timing::at(2_500),
    };
    assert_eq!(decide(&cluster), []);
    cluster.timing = Timing::at(3_000);
    let changed = &decide(&cluster)[0];
    assert_eq!(changed.members.iter().map(|m| m.state).collect::<Vec<_>>(), [Serving, Stale, Serving]);
}

fn create(nodes: &[NodeView], groups: &[Group], policy: Replication, uptime: u64) -> Vec<Group> {
    let cluster = Cluster {
        nodes,
        groups,
        next_pg: groups.iter().map(|g| PgId(g.id.0 + 1)).max().unwrap_or(PgId(1)),
        policies: &BTreeSet::from([policy]),
        synced: &BTreeSet::new(),
        timing: Timing::at(uptime),
    };
    let new = decide(&cluster).into_iter().filter(|c| c.expected == Epoch(0));
    new.map(|c| Group { id: c.pg, epoch: Epoch(1), replication: c.replication, members: c.members }).collect()
}

fn memberships(groups: &[Group]) -> BTreeMap<NodeId, usize> {
    let mut load = BTreeMap::new();
    for member in groups.iter().flat_map(|g| &g.members) {
        *load.entry(member.node).or_default() += 1;
    }
    load
}

#[test]
fn three_nodes_get_eight_groups_at_once() {
    let groups = create(&nodes(&[BEAT; 3]), &[], Replication::Factor(3), 100);
    assert_eq!(groups.iter().map(|g| g.id.0).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert!(groups.iter().all(|g| g.members.len() == 3 && g.members.iter().all(|m| m.state == Serving)));
    let mut firsts = BTreeMap::<_, usize>::new();
    for group in &groups {
        *firsts.entry(group.members[0].node).or_default() += 1;
    }
    assert!(firsts.len() == 3 && firsts.values().all(|n| (2..=3).contains(n)), "{firsts:?}");
}

#[test]
fn fewer_nodes_than_the_factor_make_degraded_groups_after_a_while() {
    let two = nodes(&[BEAT; 2]);
    assert_eq!(create(&two, &[], Replication::Factor(3), 100), []);
    let groups = create(&two, &[], Replication::Factor(3), SETTLED);
    assert_eq!(groups.len(), 8);
    assert!(groups.iter().all(|g| g.members.len() == 2));
    // The third completes them, and no more are made.
    let three = nodes(&[BEAT; 3]);
    assert_eq!(create(&three, &groups, Replication::Factor(3), SETTLED), []);
    let joined = revise(&three, &groups[0], &[]).expect("a change");
    assert!(joined.contains(&(3, Syncing)));
}

#[test]
fn groups_of_all_take_every_node() {
    let groups = create(&nodes(&[BEAT; 4]), &[], Replication::All, SETTLED);
    assert_eq!(groups.len(), GROUPS_PER_NODE);
    assert!(groups.iter().all(|g| g.members.len() == 4));
    let five = nodes(&[BEAT; 5]);
    assert_eq!(revise(&five, &groups[0], &[]).expect("a change").len(), 5);
    // A dead node still belongs to all.
    let mut dead = five.clone();
    dead[0].heartbeat_age_ms = DEAD;
    assert!(revise(&dead, &groups[0], &[]).expect("a change").contains(&(1, Stale)));
}

#[test]
fn nodes_that_join_get_groups_of_their_own() {
    let policy = Replication::Factor(3);
    let mut groups = create(&nodes(&[BEAT; 3]), &[], policy, SETTLED);
    groups.extend(create(&nodes(&[BEAT; 12]), &groups, policy, SETTLED));
    assert_eq!(groups.len(), 32);
    let load = memberships(&groups);
    assert!(load.values().all(|n| (7..=9).contains(n)), "{load:?}");
}

#[test]
fn groups_spread_over_racks_and_nodes() {
    let mut all = nodes(&[BEAT; 9]);
    for (at, node) in all.iter_mut().enumerate() {
        node.rack = format!("rack{}", at / 3);
    }
    let groups = create(&all, &[], Replication::Factor(3), SETTLED);
    assert_eq!(groups.len(), 24);
    for group in &groups {
        let racks: BTreeSet<_> = group.members.iter().map(|m| (m.node.0 - 1) / 3).collect();
        assert_eq!(racks.len(), 3, "{group:?}");
    }
    assert!(memberships(&groups).values().all(|n| *n == 8));
    let sets: BTreeSet<Vec<_>> = groups
        .iter()
        .map(|g| {
            let mut nodes: Vec<_> = g.members.iter().map(|m| m.node).collect();
            nodes.sort_unstable();
            nodes
        })
        .collect();
    assert!(sets.len() > 6, "the groups mix the nodes: {sets:?}");
}

/// What core demands of a change, and what this module promises beyond.
fn check(before: &Group, change: &GroupChange, healthy: &BTreeSet<NodeId>) {
    let state = |node| before.members.iter().find(|m| m.node == node).map(|m| m.state);
    let goes_on = change.members.iter().any(|m| m.state == Serving && state(m.node) == Some(Serving));
    assert!(goes_on, "{before:?} {change:?}");
    for member in &change.members {
        let legal = match (state(member.node), member.state) {
            (Some(was), is) if was == is => true,
            (None | Some(Stale), is) => is == Syncing,
            (Some(Syncing), _) | (Some(Serving), Stale) => true,
            (Some(Serving), _) => false,
        };
        assert!(legal, "{before:?} {change:?}");
    }
    let serves = |m: &&Member| m.state == Serving && healthy.contains(&m.node);
    assert!(change.members.iter().any(|m| serves(&m)) || !before.members.iter().any(|m| serves(&m)));
}

proptest! {
    /// Nodes come and go and syncs complete; every change is legal, and once all is quiet all groups are whole.
    #[test]
    fn any_history_is_legal_and_ends_whole(
        rounds in prop::collection::vec((prop::collection::vec(0u8..4, 6), any::<u8>()), 1..30),
        count in 3usize..7,
        factor in 1u8..4,
    ) {
        let policies = BTreeSet::from([Replication::Factor(factor)]);
        let mut groups: Vec<Group> = Vec::new();
        let quiet = (vec![0; 6], u8::MAX);
        for (ages, syncs) in rounds.into_iter().chain(std::iter::repeat_n(quiet, 4)) {
            let ages: Vec<_> = ages.iter().map(|a| [BEAT, BEAT, SUSPECT, DEAD][usize::from(*a)]).collect();
            let nodes = nodes(&ages[..count]);
            let healthy: BTreeSet<_> =
                nodes.iter().filter(|n| n.heartbeat_age_ms == BEAT).map(|n| n.node).collect();
            let synced = groups.iter().flat_map(|g| g.members.iter().map(|m| (g.id, g.epoch, m.node)))
                .filter(|(pg, _, node)| syncs & (1 << ((pg.0 + node.0) % 8)) != 0).collect();
            let timing = Timing::at(SETTLED);
            let cluster = Cluster {
                nodes: &nodes,
                groups: &groups,
                next_pg: groups.iter().map(|g| PgId(g.id.0 + 1)).max().unwrap_or(PgId(1)),
                policies: &policies,
                synced: &synced,
                timing,
            };
            let changes = decide(&cluster);
            prop_assert_eq!(&changes, &decide(&cluster));
            for change in changes {
                let new = Group {
                    id: change.pg,
                    epoch: Epoch(change.expected.0 + 1),
                    replication: change.replication,
                    members: change.members.clone(),
                };
                match groups.iter_mut().find(|g| g.id == change.pg) {
                    Some(group) => {
                        check(group, &change, &healthy);
                        *group = new;
                    }
                    None => groups.push(new),
                }
            }
        }
        for group in &groups {
            prop_assert_eq!(group.members.len(), usize::from(factor));
            prop_assert!(group.members.iter().all(|m| m.state == Serving), "{:?}", group);
        }
    }
}

#[test]
fn one_round_decides_a_bounded_number_of_changes() {
    let groups: Vec<_> =
        (1..=DECISIONS_MAX as u32 + 9).map(|id| Group { id: PgId(id), ..group(&WHOLE) }).collect();
    let nodes = nodes(&[BEAT, BEAT, DEAD, BEAT]);
    let decided = |groups: &[Group], policies: &BTreeSet<Replication>| {
        let cluster = Cluster {
            nodes: &nodes,
            groups,
            next_pg: PgId(1 << 10),
            policies,
            synced: &BTreeSet::new(),
            timing: Timing::at(SETTLED),
        };
        decide(&cluster).len()
    };
    let policies = BTreeSet::from([Replication::Factor(2)]);
    assert_eq!(decided(&groups, &policies), DECISIONS_MAX);
    assert_eq!(decided(&groups[..9], &BTreeSet::new()), 9);
}

#[test]
fn a_drained_node_is_replaced_before_it_is_dropped() {
    let mut all = nodes(&[BEAT; 4]);
    all[1].draining = true;
    let joined = [(1, Serving), (2, Serving), (3, Serving), (4, Syncing)];
    assert_eq!(revise(&all, &group(&WHOLE), &[]), Some(joined.to_vec()));
    assert_eq!(revise(&all, &group(&joined), &[]), None, "it serves until the other one does");
    assert_eq!(revise(&all, &group(&joined), &[4]), Some(vec![(1, Serving), (3, Serving), (4, Serving)]));
    // Where there are no more nodes, the administrator has been asked, or the node is dead.
    all.truncate(3);
    assert_eq!(revise(&all, &group(&WHOLE), &[]), Some(vec![(1, Serving), (3, Serving)]));
}

#[test]
fn draining_is_refused_where_the_others_cannot_hold_the_data() {
    let groups = [group(&WHOLE)];
    let drain = |nodes: &[NodeView], node| {
        may_drain(
            &Cluster {
                nodes,
                groups: &groups,
                next_pg: PgId(2),
                policies: &BTreeSet::new(),
                synced: &BTreeSet::new(),
                timing: Timing::at(SETTLED),
            },
            NodeId(node),
        )
    };
    assert!(drain(&nodes(&[BEAT; 3]), 1).expect_err("too few").contains("needs 3 nodes, and 2 others"));
    assert!(drain(&nodes(&[BEAT, BEAT, BEAT, SUSPECT]), 1).is_err());
    assert_eq!(drain(&nodes(&[BEAT; 4]), 1), Ok(()));
    let mut full = nodes(&[BEAT; 4]);
    for node in &mut full[1..] {
        node.free = 1 << 30;
    }
    assert!(drain(&full, 1).expect_err("no room").contains("room for"));
}

#[test]
fn groups_of_all_shrink_when_a_node_is_drained() {
    let mut all = nodes(&[BEAT, BEAT, BEAT, DEAD]);
    all[3].draining = true;
    let mut g = group(&[(1, Serving), (2, Serving), (3, Serving), (4, Stale)]);
    g.replication = Replication::All;
    assert_eq!(revise(&all, &g, &[]), Some(WHOLE.to_vec()));
}

#[test]
fn an_excused_node_keeps_its_place_unless_one_copy_is_left() {
    let mut all = nodes(&[BEAT, DEAD, BEAT, BEAT]);
    all[1].excused = true;
    let stale = [(1, Serving), (2, Stale), (3, Serving)];
    assert_eq!(revise(&all, &group(&stale), &[]), None);
    let last = [(1, Serving), (2, Stale), (3, Syncing)];
    let joined = vec![(1, Serving), (2, Stale), (3, Syncing), (4, Syncing)];
    assert_eq!(revise(&all, &group(&last), &[]), Some(joined));
}

#[test]
fn many_nodes_that_fall_silent_at_once_are_given_time() {
    let all = nodes(&[BEAT, SUSPECT, SUSPECT, BEAT]);
    assert_eq!(revise(&all, &group(&WHOLE), &[]), None);
    let all = nodes(&[BEAT, DEAD, DEAD, BEAT]);
    assert!(revise(&all, &group(&WHOLE), &[]).is_some());
}

#[test]
fn writes_need_more_than_half_of_the_copies() {
    let min = |n, nodes, set| min_replicas(Replication::Factor(n), nodes, set);
    assert_eq!([1, 2, 3, 4, 5].map(|n| min(n, 9, None)), [1, 1, 2, 2, 3]);
    assert_eq!((min(3, 1, None), min(3, 0, None)), (1, 1));
    assert_eq!((min(3, 9, Some(1)), min(3, 9, Some(9)), min(3, 9, Some(0))), (1, 3, 1));
    assert_eq!(min_replicas(Replication::All, 5, None), 3);
}

#[test]
fn full_nodes_get_relief_from_new_ones() {
    let policy = Replication::Factor(3);
    let mut groups = create(&nodes(&[BEAT; 3]), &[], policy, SETTLED);
    let mut all = nodes(&[BEAT; 6]);
    for node in &mut all[..3] {
        (node.free, node.writable) = (0, false);
    }
    let new = create(&all, &groups, policy, SETTLED);
    assert_eq!(new.len(), 8);
    assert!(new.iter().all(|g| g.members.iter().all(|m| m.node.0 > 3)), "the full ones get none");
    groups.extend(new);
    assert_eq!(create(&all, &groups, policy, SETTLED), []);
}

/// What each node has when every group has this many bytes on each member.
fn fills(groups: &[Group], bytes: u64, nodes: &mut [NodeView]) {
    for node in nodes {
        let of_node = groups.iter().filter(|g| g.members.iter().any(|m| m.node == node.node)).count();
        node.bytes = bytes * of_node as u64;
        node.free = node.capacity - node.bytes;
    }
}

#[test]
fn data_spreads_evenly_over_nodes_that_join_and_then_rests() {
    let policy = Replication::Factor(3);
    let mut all = nodes(&[BEAT; 6]);
    let mut groups = create(&all[..3], &[], policy, SETTLED);
    groups.extend(create(&all, &groups, policy, SETTLED));
    // The first eight have all the data.
    let bytes = 1 << 36;
    let mut moves = 0;
    for _ in 0..200 {
        fills(&groups[..8], bytes, &mut all);
        let synced = groups.iter().flat_map(|g| g.members.iter().map(|m| (g.id, g.epoch, m.node))).collect();
        let changes = decide(&Cluster {
            nodes: &all,
            groups: &groups,
            next_pg: PgId(100),
            policies: &BTreeSet::from([policy]),
            synced: &synced,
            timing: Timing::at(SETTLED),
        });
        if changes.is_empty() {
            break;
        }
        assert!(changes.len() <= MOVES_MAX);
        for change in changes {
            let group = groups.iter_mut().find(|g| g.id == change.pg).expect("a group there is");
            moves += change.members.iter().filter(|m| m.state == Syncing).count();
            (group.members, group.epoch) = (change.members, Epoch(change.expected.0 + 1));
        }
    }
    fills(&groups[..8], bytes, &mut all);
    let fills: Vec<u64> = all.iter().map(NodeView::fill).collect();
    let spread = fills.iter().max().unwrap() - fills.iter().min().unwrap();
    // One group is 62 thousandths of a node.
    assert!(spread <= 63, "{fills:?}");
    // Half of the 24 replicas of the data belong on the new nodes.
    assert!(moves <= 14, "{moves} moves");
    assert!(groups.iter().all(|g| g.members.len() == 3 && g.members.iter().all(|m| m.state == Serving)));
}
