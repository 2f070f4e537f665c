//! Placement groups: checked changes of their members, and the numbers of their chunks.

use super::GROUPS_MAX;
use crate::command::{Effect, GroupChange, Outcome};
use crate::error::StateError;
use crate::tables::{CursorKey, GroupKey, NodeKey};
use crate::tx::Tx;
use quarry_common::ids::{ChunkId, Epoch, PgId};
use quarry_common::limits::PG_MEMBERS_MAX;
use quarry_common::wire::cluster::{Group, Member, MemberState};
use std::collections::{BTreeMap, BTreeSet};

/// Applies all changes, or none and says why.
pub(crate) fn change(tx: &mut Tx<'_>, changes: &[GroupChange]) -> Result<Outcome, StateError> {
    let mut changed: BTreeMap<PgId, Group> = BTreeMap::new();
    for change in changes {
        let before = match changed.get(&change.pg) {
            Some(group) => Some(group.clone()),
            None => tx.store.get(&GroupKey(change.pg))?,
        };
        if let Err(why) = check(before.as_ref(), change, tx.store.meta.next_pg) {
            return Ok(Outcome::Refused(format!("change of group {}: {why}", change.pg)));
        }
        for member in &change.members {
            if !tx.store.contains(&NodeKey(member.node))? {
                return Ok(Outcome::Refused(format!("group {}: no node {}", change.pg, member.node)));
            }
        }
        let group = Group {
            id: change.pg,
            epoch: Epoch(change.expected.0 + 1),
            replication: change.replication,
            members: change.members.clone(),
        };
        changed.insert(change.pg, group);
    }
    if changed.is_empty() {
        return Ok(Outcome::Done);
    }
    let groups = tx.store.range(&GroupKey(PgId(0)), None, GROUPS_MAX)?;
    let new = changed.keys().filter(|pg| groups.binary_search_by_key(pg, |g| &g.0.0).is_err()).count();
    if groups.len() + new > GROUPS_MAX {
        return Ok(Outcome::Refused(format!("there may be {GROUPS_MAX} groups")));
    }
    for (pg, group) in &changed {
        tx.store.put(&GroupKey(*pg), group);
        tx.store.meta.next_pg = tx.store.meta.next_pg.max(PgId(pg.0 + 1));
    }
    tx.store.meta.placement_version += 1;
    tx.effect(Effect::PlacementChanged);
    Ok(Outcome::Done)
}

/// The rules of a change. They keep this true: every chunk that a commit accepted is on every serving member.
fn check(before: Option<&Group>, change: &GroupChange, next_pg: PgId) -> Result<(), String> {
    let members = &change.members;
    let distinct: BTreeSet<_> = members.iter().map(|m| m.node).collect();
    if distinct.len() != members.len() || members.len() > PG_MEMBERS_MAX {
        return Err(format!("{} members of {} nodes", members.len(), distinct.len()));
    }
    if !members.iter().any(|m| m.state == MemberState::Serving) {
        return Err("nobody would serve".to_owned());
    }
    let Some(before) = before else {
        return check_new(change, next_pg);
    };
    if before.epoch != change.expected {
        return Err(format!("it is at epoch {}, not {}", before.epoch, change.expected));
    }
    if before.replication != change.replication {
        return Err("its policy cannot change".to_owned());
    }
    for member in members {
        let was = before.members.iter().find(|m| m.node == member.node).map(|m| m.state);
        if !may_become(was, member.state) {
            return Err(format!("node {} cannot become {:?}, it was {was:?}", member.node, member.state));
        }
    }
    let goes_on = |m: &Member| m.state == MemberState::Serving && before.serving().any(|n| n == m.node);
    if members.iter().any(goes_on) { Ok(()) } else { Err("nobody who served would go on serving".to_owned()) }
}

fn check_new(change: &GroupChange, next_pg: PgId) -> Result<(), String> {
    if change.expected != Epoch(0) {
        return Err("it does not exist".to_owned());
    }
    if change.pg < next_pg || change.pg > ChunkId::MAX_PG {
        return Err(format!("its number must be from {next_pg} to {}", ChunkId::MAX_PG));
    }
    if change.members.iter().any(|m| m.state != MemberState::Serving) {
        return Err("a new group has nothing to catch up with".to_owned());
    }
    Ok(())
}

/// A member serves only after it has synced, and syncs only from having been out or new.
fn may_become(was: Option<MemberState>, is: MemberState) -> bool {
    match (was, is) {
        (Some(was), is) if was == is => true,
        (None | Some(MemberState::Stale), MemberState::Syncing) => true,
        (Some(MemberState::Syncing), MemberState::Serving) => true,
        (Some(MemberState::Serving | MemberState::Syncing), MemberState::Stale) => true,
        (None, _) | (Some(MemberState::Stale), _) | (Some(MemberState::Serving), _) => false,
        (Some(MemberState::Syncing), _) => false,
    }
}

/// Sets sequence numbers aside.
pub(crate) fn reserve(tx: &mut Tx<'_>, pg: PgId, count: u32) -> Result<Outcome, StateError> {
    if !tx.store.contains(&GroupKey(pg))? {
        return Ok(Outcome::Refused(format!("no group {pg}")));
    }
    let mut cursor = tx.store.get(&CursorKey(pg))?.unwrap_or_default();
    let next = cursor.next + u64::from(count);
    if count == 0 || next > ChunkId::MAX_SEQUENCE {
        return Ok(Outcome::Refused(format!("{count} ids from {} on are not to be had", cursor.next)));
    }
    let first = ChunkId::new(pg, cursor.next);
    cursor.next = next;
    tx.store.put(&CursorKey(pg), &cursor);
    Ok(Outcome::Reserved { first, count })
}

/// Passes over sequence numbers that this file system did not hand out, and that DataNodes hold all the same.
pub(crate) fn skip(tx: &mut Tx<'_>, skips: &[(PgId, u64)]) -> Result<Outcome, StateError> {
    let fits = |(pg, next): &(PgId, u64)| *pg <= ChunkId::MAX_PG && *next <= ChunkId::MAX_SEQUENCE;
    if let Some((pg, next)) = skips.iter().find(|skip| !fits(skip)) {
        return Ok(Outcome::Refused(format!("there is no chunk {next} of group {pg}")));
    }
    for &(pg, next) in skips {
        let mut cursor = tx.store.get(&CursorKey(pg))?.unwrap_or_default();
        cursor.next = cursor.next.max(next);
        tx.store.put(&CursorKey(pg), &cursor);
        tx.store.meta.next_pg = tx.store.meta.next_pg.max(PgId(pg.0 + 1));
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Body;
    use crate::testing::{Bench, PG, group_change};
    use MemberState::{Serving, Stale, Syncing};

    fn apply(bench: &mut Bench, expected: u64, members: &[(u32, MemberState)]) -> bool {
        match bench.apply(Body::ChangeGroups(vec![group_change(expected, members)])) {
            Outcome::Done => true,
            Outcome::Refused(_) => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_goes_out_and_comes_back_through_syncing() {
        let mut bench = Bench::new();
        assert!(apply(&mut bench, 1, &[(1, Serving), (2, Serving), (3, Stale)]));
        assert!(!apply(&mut bench, 1, &[(1, Serving), (2, Stale), (3, Stale)]), "an old epoch");
        assert!(!apply(&mut bench, 2, &[(1, Serving), (2, Serving), (3, Serving)]), "not synced");
        assert!(apply(&mut bench, 2, &[(1, Serving), (2, Serving), (3, Syncing)]));
        assert!(apply(&mut bench, 3, &[(1, Serving), (2, Serving), (3, Serving)]));
        assert!(apply(&mut bench, 4, &[(1, Serving), (2, Stale), (3, Serving), (4, Syncing)]));
        assert!(apply(&mut bench, 5, &[(1, Serving), (3, Serving), (4, Serving)]));
        let group = bench.state.group(PG).expect("sound").expect("there");
        assert_eq!(group.epoch, Epoch(6));
        bench.check();
    }

    #[test]
    fn somebody_who_has_everything_must_stay() {
        let mut bench = Bench::new();
        assert!(!apply(&mut bench, 1, &[]));
        assert!(!apply(&mut bench, 1, &[(1, Stale), (2, Stale), (3, Stale)]));
        assert!(!apply(&mut bench, 1, &[(1, Serving), (1, Serving)]));
        assert!(!apply(&mut bench, 1, &[(1, Serving), (9, Syncing)]), "an unknown node");
        assert!(apply(&mut bench, 1, &[(1, Serving), (4, Syncing)]));
        assert!(!apply(&mut bench, 2, &[(4, Serving)]));
        assert!(apply(&mut bench, 2, &[(1, Serving), (4, Serving)]));
        assert!(apply(&mut bench, 3, &[(4, Serving)]));
        bench.check();
    }

    #[test]
    fn a_list_of_changes_is_one_change() {
        let mut bench = Bench::new();
        let good = group_change(1, &[(1, Serving)]);
        let mut bad = group_change(1, &[(1, Serving)]);
        bad.pg = PgId(2);
        assert!(matches!(
            bench.apply(Body::ChangeGroups(vec![good.clone(), bad.clone()])),
            Outcome::Refused(_)
        ));
        assert_eq!(bench.state.group(PG).expect("sound").map(|g| g.members.len()), Some(3));
        bad.expected = Epoch(0);
        assert_eq!(bench.apply(Body::ChangeGroups(vec![good, bad])), Outcome::Done);
        assert_eq!(bench.state.groups().expect("sound").len(), 2);
        bench.check();
    }

    #[test]
    fn numbers_that_datanodes_hold_are_skipped() {
        let mut bench = Bench::new();
        let held = 5 << 20;
        let skips = vec![(PG, held), (PgId(7), 3)];
        assert_eq!(bench.apply(Body::SkipChunks(skips)), Outcome::Done);
        assert_eq!(
            bench.apply(Body::SkipChunks(vec![(PG, 9)])),
            Outcome::Done,
            "a lower number changes nothing"
        );
        let reserve = Body::ReserveChunks { pg: PG, count: 10 };
        assert_eq!(bench.apply(reserve), Outcome::Reserved { first: ChunkId::new(PG, held), count: 10 });
        assert_eq!(bench.state.meta().next_pg, PgId(8), "the unknown group's number is not given away");
        let beyond = Body::SkipChunks(vec![(PG, ChunkId::MAX_SEQUENCE + 1)]);
        assert!(matches!(bench.apply(beyond), Outcome::Refused(_)));
        bench.check();
    }

    #[test]
    fn ids_are_given_once() {
        let mut bench = Bench::new();
        let reserve = Body::ReserveChunks { pg: PG, count: 10 };
        let first = ChunkId::new(PG, 1 << 20);
        assert_eq!(bench.apply(reserve.clone()), Outcome::Reserved { first, count: 10 });
        let first = ChunkId::new(PG, (1 << 20) + 10);
        assert_eq!(bench.apply(reserve), Outcome::Reserved { first, count: 10 });
        for (pg, count) in [(PgId(2), 1), (PG, 0)] {
            assert!(matches!(bench.apply(Body::ReserveChunks { pg, count }), Outcome::Refused(_)));
        }
        bench.check();
    }
}
