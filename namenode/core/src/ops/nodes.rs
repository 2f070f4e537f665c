//! DataNodes that introduce themselves.

use super::NODES_MAX;
use crate::command::{Effect, Outcome};
use crate::error::StateError;
use crate::records::NodeRecord;
use crate::tables::{GroupKey, NodeKey};
use crate::tx::Tx;
use quarry_common::ids::{Epoch, NodeId, PgId};
use quarry_common::wire::cluster::{MemberState, NodeMode, RegisterNode};

/// Longest address or rack that a node may give.
const TEXT_MAX: usize = 255;

pub(crate) fn register(tx: &mut Tx<'_>, register: &RegisterNode) -> Result<Outcome, StateError> {
    let RegisterNode { node, address, rack, store_id } = register;
    if node.0 == 0 || address.is_empty() || address.len() > TEXT_MAX || rack.len() > TEXT_MAX {
        return Ok(Outcome::Refused(format!(
            "node {node} at `{address}` in rack `{rack}` is no valid registration"
        )));
    }
    let known = tx.store.get(&NodeKey(*node))?;
    if known.is_none() && tx.store.range(&NodeKey(NodeId(0)), None, NODES_MAX)?.len() >= NODES_MAX {
        return Ok(Outcome::Refused(format!("there are {NODES_MAX} DataNodes already")));
    }
    let record = NodeRecord {
        node: *node,
        address: address.clone(),
        rack: rack.clone(),
        store_id: *store_id,
        mode: known.as_ref().map_or(NodeMode::Active, |k| k.mode),
    };
    if known.as_ref() == Some(&record) {
        return Ok(Outcome::Done);
    }
    if known.is_none() {
        tx.store.meta.nodes += 1;
    }
    if known.is_some_and(|k| k.store_id != *store_id) {
        disown(tx, *node)?;
    }
    tx.store.put(&NodeKey(*node), &record);
    tx.store.meta.placement_version += 1;
    tx.effect(Effect::PlacementChanged);
    Ok(Outcome::Done)
}

/// What an administrator has decided about a node.
pub(crate) fn set_mode(tx: &mut Tx<'_>, node: NodeId, mode: NodeMode) -> Result<Outcome, StateError> {
    let Some(mut record) = tx.store.get(&NodeKey(node))? else {
        return Ok(Outcome::Refused(format!("there is no DataNode {node}")));
    };
    tx.store.meta.nodes += u32::from(record.mode == NodeMode::Draining);
    tx.store.meta.nodes -= u32::from(mode == NodeMode::Draining);
    record.mode = mode;
    tx.store.put(&NodeKey(node), &record);
    tx.store.meta.placement_version += 1;
    tx.effect(Effect::PlacementChanged);
    Ok(Outcome::Done)
}

/// Forgets a node. As long as a group has it as a member, data may be on it alone.
pub(crate) fn remove(tx: &mut Tx<'_>, node: NodeId) -> Result<Outcome, StateError> {
    let Some(record) = tx.store.get(&NodeKey(node))? else {
        return Ok(Outcome::Refused(format!("there is no DataNode {node}")));
    };
    let groups = tx.store.range(&GroupKey(PgId(0)), None, super::GROUPS_MAX)?;
    let member_of = groups.iter().filter(|(_, g)| g.members.iter().any(|m| m.node == node)).count();
    if member_of > 0 {
        return Ok(Outcome::Refused(format!("DataNode {node} is a member of {member_of} placement groups")));
    }
    tx.store.delete(&NodeKey(node));
    tx.store.meta.nodes -= u32::from(record.mode != NodeMode::Draining);
    tx.store.meta.placement_version += 1;
    tx.effect(Effect::PlacementChanged);
    Ok(Outcome::Done)
}

/// The node came back with empty data directories: it has nothing of its groups any more. Where nobody else serves
/// it stays as it is, so that the group still has a member that takes writes; its old chunks are lost.
fn disown(tx: &mut Tx<'_>, node: NodeId) -> Result<(), StateError> {
    for (key, mut group) in tx.store.range(&GroupKey(PgId(0)), None, super::GROUPS_MAX)? {
        if !group.serving().any(|n| n != node) {
            continue;
        }
        let mut stale = false;
        for member in group.members.iter_mut().filter(|m| m.node == node && m.state != MemberState::Stale) {
            member.state = MemberState::Stale;
            stale = true;
        }
        if stale {
            group.epoch = Epoch(group.epoch.0 + 1);
            tx.store.put(&key, &group);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Body;
    use crate::testing::{Bench, PG, register};

    #[test]
    fn a_node_is_drained_and_removed_only_without_groups() {
        let mut bench = Bench::new();
        let node = NodeId(4);
        let mode = |bench: &mut Bench, node, mode| bench.apply(Body::SetNodeMode { node, mode });
        assert_eq!(bench.state.meta().nodes, 4);
        assert_eq!(mode(&mut bench, node, NodeMode::Draining), Outcome::Done);
        assert_eq!(mode(&mut bench, node, NodeMode::Draining), Outcome::Done, "once more");
        assert_eq!(bench.state.meta().nodes, 3);
        bench.apply(register(4, 9));
        assert_eq!(bench.state.node(node).expect("sound").map(|n| n.mode), Some(NodeMode::Draining));
        assert!(matches!(mode(&mut bench, NodeId(9), NodeMode::Active), Outcome::Refused(_)));
        let Outcome::Refused(why) = bench.apply(Body::RemoveNode { node: NodeId(1) }) else {
            panic!("removed")
        };
        assert!(why.contains("member of 1"), "{why}");
        assert_eq!(bench.apply(Body::RemoveNode { node }), Outcome::Done);
        assert_eq!((bench.state.meta().nodes, bench.state.node(node).expect("sound")), (3, None));
        bench.apply(register(4, 9));
        assert_eq!(bench.state.meta().nodes, 4, "it is a new one");
        bench.check();
    }

    #[test]
    fn a_node_that_lost_its_store_is_stale() {
        let mut bench = Bench::new();
        let version = bench.state.meta().placement_version;
        assert_eq!(bench.apply(register(2, 1)), Outcome::Done);
        assert_eq!(bench.state.meta().placement_version, version, "nothing new");
        assert_eq!(bench.apply(register(2, 7)), Outcome::Done);
        assert_eq!(bench.effects, [Effect::PlacementChanged]);
        let group = bench.state.group(PG).expect("sound").expect("there");
        assert_eq!(group.epoch, Epoch(2));
        assert_eq!(group.serving().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
        bench.apply(register(1, 7));
        bench.apply(register(3, 7));
        let group = bench.state.group(PG).expect("sound").expect("there");
        assert_eq!(group.serving().collect::<Vec<_>>(), [NodeId(3)], "somebody must take writes");
        assert!(matches!(bench.apply(register(0, 1)), Outcome::Refused(_)));
        bench.check();
    }
}
