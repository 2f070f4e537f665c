//! DataNodes that introduce themselves.

use super::NODES_MAX;
use crate::command::{Effect, Outcome};
use crate::error::StateError;
use crate::records::NodeRecord;
use crate::tables::{GroupKey, NodeKey};
use crate::tx::Tx;
use quarry_common::ids::{Epoch, NodeId, PgId};
use quarry_common::wire::cluster::{MemberState, RegisterNode};

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
    let record =
        NodeRecord { node: *node, address: address.clone(), rack: rack.clone(), store_id: *store_id };
    if known.as_ref() == Some(&record) {
        return Ok(Outcome::Done);
    }
    if known.is_some_and(|k| k.store_id != *store_id) {
        disown(tx, *node)?;
    }
    tx.store.put(&NodeKey(*node), &record);
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
    use crate::testing::{Bench, PG, register};

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
