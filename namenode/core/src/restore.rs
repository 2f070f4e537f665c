//! What a restored backup must forget and skip.
//!
//! Between the backup and its restoration the file system went on: it handed out numbers of inodes, sessions, groups and
//! chunks that the backup does not know, and clients and DataNodes remember them. So the restored one is a new *generation*:
//! sessions have ended, nothing is known of what they were answered, and every kind of number goes on far above what can have been handed out. What DataNodes hold above
//! even that is skipped as they register ([`Body::SkipChunks`](crate::Body::SkipChunks)).

use crate::base::{Base, Overlay};
use crate::error::StateError;
use crate::ops::{GROUPS_MAX, SESSIONS_MAX};
use crate::records::{FORMAT, Meta};
use crate::store::{Store, read_meta};
use crate::tables::{CursorKey, EndedKey, FenceKey, SessionKey, SlotKey};
use quarry_common::ids::{ChunkId, Ino, PgId, SessionId};
use std::sync::Arc;

/// Inodes that no cluster makes between a backup and its restoration: a million in a second for twelve days.
const SKIPPED_INOS: u64 = 1 << 40;
/// Sessions likewise.
const SKIPPED_SESSIONS: u64 = 1 << 32;
/// Starts of the NameNode likewise: leases are numbered by them.
const SKIPPED_RUNS: u64 = 1 << 12;
/// Chunks of one group likewise; 4,096 restorations use a group's numbers up.
const SKIPPED_CHUNKS: u64 = 1 << 32;
/// Groups likewise: there are no more at a time.
const SKIPPED_GROUPS: u32 = GROUPS_MAX as u32;

/// The changes that make a restored backup a new generation, whose log begins anew. Gives the meta record as it is then.
///
/// # Errors
/// When the base is not a formatted file system of this version, `generation` is not above its own, or a kind of number is
/// used up.
pub fn new_generation(base: Arc<dyn Base>, generation: u64) -> Result<(Overlay, Meta), StateError> {
    let meta = read_meta(base.as_ref())?.filter(|meta| !meta.cluster.is_empty());
    let Some(mut meta) = meta else {
        return Err(StateError::Corrupt("the backup holds no file system".to_owned()));
    };
    if meta.format != FORMAT {
        return Err(StateError::Corrupt(format!(
            "the backup has format {}, this program reads format {FORMAT}",
            meta.format
        )));
    }
    if generation <= meta.generation {
        return Err(StateError::Corrupt(format!(
            "generation {generation} does not follow the backup's, {}: is this machine's clock right?",
            meta.generation
        )));
    }
    (meta.generation, meta.applied) = (generation, 0);
    meta.next_ino = Ino(meta.next_ino.0.checked_add(SKIPPED_INOS).ok_or_else(|| used_up("inodes"))?);
    meta.runs += SKIPPED_RUNS;
    meta.next_session = meta.next_session.checked_add(SKIPPED_SESSIONS).ok_or_else(|| used_up("sessions"))?;
    meta.next_pg = PgId(meta.next_pg.0.saturating_add(SKIPPED_GROUPS));
    if meta.next_pg > ChunkId::MAX_PG {
        return Err(used_up("placement groups"));
    }
    (meta.sessions, meta.ended_sessions) = (0, 0);
    let mut store = Store::new(base, meta);
    end_sessions(&mut store)?;
    skip_chunks(&mut store)?;
    let meta = store.meta.clone();
    let overlay = store.freeze();
    Ok((Arc::unwrap_or_clone(overlay), meta))
}

fn used_up(what: &str) -> StateError {
    StateError::Corrupt(format!("the numbers of {what} are used up"))
}

fn end_sessions(store: &mut Store) -> Result<(), StateError> {
    for (key, _) in store.range(&SessionKey(SessionId(0)), None, SESSIONS_MAX)? {
        store.delete(&key);
    }
    for (key, _) in store.range(&EndedKey(SessionId(0)), None, usize::MAX)? {
        store.delete(&key);
    }
    for (key, _) in store.range(&FenceKey { session: SessionId(0), ino: Ino(0) }, None, usize::MAX)? {
        store.delete(&key);
    }
    for (key, _) in store.range(&SlotKey { session: SessionId(0), slot: 0 }, None, usize::MAX)? {
        store.delete(&key);
    }
    Ok(())
}

fn skip_chunks(store: &mut Store) -> Result<(), StateError> {
    for (key, mut cursor) in store.range(&CursorKey(PgId(0)), None, usize::MAX)? {
        cursor.next += SKIPPED_CHUNKS;
        if cursor.next > ChunkId::MAX_SEQUENCE {
            return Err(used_up("chunks"));
        }
        store.put(&key, &cursor);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Body, Command, LogicalTime, Outcome};
    use crate::state::State;
    use crate::testing::{Bench, PG};
    use quarry_common::wire::fs::Timestamp;

    #[test]
    fn a_restored_backup_gives_no_number_again() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        bench.write(file, 0, 100).expect("written");
        bench.checkpoint();
        let backup = bench.base.clone();
        // What went on since.
        let later = bench.file(Ino::ROOT, "later");
        let session = bench.open_session();
        let Outcome::Reserved { first, count } = bench.apply(Body::ReserveChunks { pg: PG, count: 99 })
        else {
            panic!("not reserved");
        };

        let (overlay, meta) = new_generation(Arc::new(backup.clone()), 2).expect("restored");
        assert_eq!((meta.generation, meta.applied, meta.sessions), (2, 0, 0));
        let mut base = backup.clone();
        base.checkpoint(&overlay);
        let mut restored = State::open(Arc::new(base.clone())).expect("opens");
        assert_eq!(restored.sessions().expect("sound"), []);
        let mut apply = |body| {
            restored
                .apply(1, &Command { now: Timestamp(1), clock: LogicalTime::default(), body })
                .expect("sound")
                .0
        };
        let Outcome::Reserved { first: next, .. } = apply(Body::ReserveChunks { pg: PG, count: 1 }) else {
            panic!("not reserved");
        };
        assert!(next.sequence() >= first.sequence() + u64::from(count));
        let open = Body::OpenSession {
            owner: "c".to_owned(),
            info: Default::default(),
            fenced_below: Default::default(),
        };
        let Outcome::Session(opened) = apply(open) else { panic!("no session") };
        assert!(opened > session);
        assert!(restored.meta().next_ino > later);
        assert!(restored.attr(file).expect("sound").is_some());
        assert!(restored.attr(later).expect("sound").is_none());
        assert_eq!(crate::invariants::violations(&restored).expect("readable"), Vec::<String>::new());

        let again = new_generation(Arc::new(base), 2).expect_err("the same generation");
        assert!(again.to_string().contains("clock"), "{again}");
        assert!(new_generation(Arc::new(crate::MemoryBase::default()), 2).is_err(), "nothing was formatted");
    }
}
