//! Chunk references, the delete queue and the floors below which no chunk can come any more.
//!
//! The life of a chunk id: reserved for a client; brought in by a commit (a record with the number of slices that name
//! it); released when the last slice goes (no record, but an entry of the delete queue, and the id is retired); deleted
//! on the DataNodes (the entry goes). A retired id stays known until its group's floor has passed it, because a commit
//! that was delayed must not bring a chunk in whose data are being deleted.

use crate::command::{Effect, LogicalTime, Outcome};
use crate::error::StateError;
use crate::membership::min_replicas;
use crate::records::ChunkRecord;
use crate::store::Store;
use crate::tables::{ChunkKey, CursorKey, DeleteKey, GroupKey, RetiredKey};
use crate::tx::Tx;
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{ChunkInfo, NewChunk, Slice};
use std::collections::BTreeMap;

/// Retired ids that one raise of a floor forgets at most; the next raise goes on.
const FORGET_MAX: usize = 4096;

/// How many more or fewer slices name each chunk after an operation.
#[derive(Debug, Default)]
pub(crate) struct References(BTreeMap<ChunkId, i64>);

impl References {
    /// The window's list becomes another.
    pub(crate) fn replace(&mut self, old: &[Slice], new: &[Slice]) {
        for chunk in old.iter().filter_map(|s| s.chunk) {
            *self.0.entry(chunk).or_default() -= 1;
        }
        for chunk in new.iter().filter_map(|s| s.chunk) {
            *self.0.entry(chunk).or_default() += 1;
        }
    }

    /// Counts the references of the tables, and brings `new` chunks in. A chunk without references is released.
    pub(crate) fn apply(
        mut self,
        tx: &mut Tx<'_>,
        new: &BTreeMap<ChunkId, ChunkInfo>,
    ) -> Result<(), StateError> {
        for id in new.keys() {
            // One that no slice names in the end is on DataNodes all the same, and must go from there.
            self.0.entry(*id).or_default();
        }
        for (id, change) in self.0 {
            let known = tx.store.get(&ChunkKey(id))?;
            if known.is_some() && change == 0 {
                continue;
            }
            let record = known.or_else(|| {
                new.get(&id).map(|info| ChunkRecord { length: info.length, sha256: info.sha256, refs: 0 })
            });
            let Some(mut record) = record else {
                return Err(StateError::Corrupt(format!(
                    "a slice names the chunk {id}, which has no record"
                )));
            };
            record.refs = record.refs.checked_add_signed(change).ok_or_else(|| {
                StateError::Corrupt(format!(
                    "the chunk {id} has {} references and lost {change}",
                    record.refs
                ))
            })?;
            store(tx, id, &record, known.is_some())?;
        }
        Ok(())
    }
}

/// Stores a chunk's record, or releases the chunk when its last reference has gone.
fn store(tx: &mut Tx<'_>, id: ChunkId, record: &ChunkRecord, was_known: bool) -> Result<(), StateError> {
    let bytes = u64::from(record.length);
    if record.refs > 0 {
        if !was_known {
            tx.store.meta.usage.chunks += 1;
            tx.store.meta.usage.chunk_bytes += bytes;
        }
        tx.store.put(&ChunkKey(id), record);
        return Ok(());
    }
    if was_known {
        tx.store.meta.usage.chunks -= 1;
        tx.store.meta.usage.chunk_bytes -= bytes;
        tx.store.delete(&ChunkKey(id));
    }
    tx.store.put(&DeleteKey { since: tx.store.meta.clock, id }, &());
    tx.store.meta.usage.deleting += 1;
    if id.sequence() >= tx.store.get(&CursorKey(id.pg()))?.unwrap_or_default().floor {
        tx.store.put(&RetiredKey(id), &());
    }
    tx.effect(Effect::DeleteChunks);
    Ok(())
}

/// Checks that every chunk of a commit may come in: every member that must have it acknowledged it.
pub(crate) fn admit(
    tables: &Store,
    chunks: &[NewChunk],
) -> Result<Result<BTreeMap<ChunkId, ChunkInfo>, ServiceError>, StateError> {
    let mut admitted = BTreeMap::new();
    for NewChunk { info, holders } in chunks {
        let rewrite = |reason: String| Ok(Err(ServiceError::RewriteChunk { chunk: info.id, reason }));
        let Some(group) = tables.get(&GroupKey(info.id.pg()))? else {
            return rewrite(format!("there is no group {}", info.id.pg()));
        };
        if let Some(missing) = group.writers().find(|node| !holders.contains(node)) {
            return rewrite(format!("node {missing} of group {} did not acknowledge it", group.id));
        }
        let min = min_replicas(group.replication, tables.meta.nodes as usize, tables.meta.min_replicas);
        if group.writers().count() < min {
            return rewrite(format!("group {} has fewer than {min} members that take chunks", group.id));
        }
        match tables.get(&ChunkKey(info.id))? {
            Some(known) if (known.length, known.sha256) == (info.length, info.sha256) => {}
            Some(_) => return rewrite("the id has other data already".to_owned()),
            None => {
                let cursor = tables.get(&CursorKey(group.id))?.unwrap_or_default();
                if info.id.sequence() < cursor.floor {
                    return rewrite("the grant of its id ran out".to_owned());
                }
                if info.id.sequence() >= cursor.next {
                    return rewrite("its id was never granted".to_owned());
                }
                if tables.contains(&RetiredKey(info.id))? {
                    return rewrite("it was released already".to_owned());
                }
            }
        }
        if admitted.insert(info.id, *info).is_some_and(|other| other != *info) {
            return rewrite("the commit brings its id twice".to_owned());
        }
    }
    Ok(Ok(admitted))
}

/// The DataNodes have deleted these.
pub(crate) fn deleted(tx: &mut Tx<'_>, entries: &[(LogicalTime, ChunkId)]) -> Result<Outcome, StateError> {
    for &(since, id) in entries {
        let key = DeleteKey { since, id };
        if tx.store.contains(&key)? {
            tx.store.delete(&key);
            tx.store.meta.usage.deleting -= 1;
        }
    }
    Ok(Outcome::Done)
}

/// No smaller sequence of the group may come in any more, so retired ids below need not be remembered.
pub(crate) fn raise_floor(tx: &mut Tx<'_>, pg: PgId, sequence: u64) -> Result<Outcome, StateError> {
    if !tx.store.contains(&GroupKey(pg))? {
        return Ok(Outcome::Refused(format!("no group {pg}")));
    }
    let mut cursor = tx.store.get(&CursorKey(pg))?.unwrap_or_default();
    if sequence > cursor.next {
        return Ok(Outcome::Refused(format!(
            "the floor of group {pg} cannot pass the next id {}",
            cursor.next
        )));
    }
    cursor.floor = cursor.floor.max(sequence);
    tx.store.put(&CursorKey(pg), &cursor);
    let (from, to) = (RetiredKey(ChunkId::new(pg, 0)), RetiredKey(ChunkId::new(pg, cursor.floor)));
    for (key, ()) in tx.store.range(&from, Some(&to), FORGET_MAX)? {
        tx.store.delete(&key);
    }
    Ok(Outcome::Done)
}
