//! Fences: broken leases, as durable facts. A change that was buffered under a broken lease is refused whenever it
//! arrives, also after a restart.

use super::OpResult;
use crate::command::{Fence, Outcome};
use crate::error::StateError;
use crate::records::SessionRecord;
use crate::store::Store;
use crate::tables::{FenceKey, SessionKey};
use crate::tx::Tx;
use quarry_common::ids::{Ino, LeaseGeneration, SessionId};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::{LOSSES_MAX, LeaseId};

/// Rows of one session: as many as it may have unacknowledged, and some whose release did not get into the log. One more
/// breaks all leases of the session up to that one.
pub(crate) const FENCES_MAX: usize = 2 * LOSSES_MAX;

pub(crate) fn fence(tx: &mut Tx<'_>, session: SessionId, fence: Fence) -> Result<Outcome, StateError> {
    let Some(mut record) = tx.store.get(&SessionKey(session))? else { return Ok(Outcome::Done) };
    match fence {
        Fence::Lease(LeaseId { generation, .. }) if generation < record.fenced_below => {}
        Fence::Lease(LeaseId { ino, generation }) => {
            let key = FenceKey { session, ino };
            match tx.store.get(&key)? {
                Some(before) => tx.store.put(&key, &before.max(generation)),
                None if record.fences as usize >= FENCES_MAX => {
                    raise_floor(tx, session, &mut record, LeaseGeneration(generation.0 + 1))?;
                }
                None => {
                    record.fences += 1;
                    tx.store.put(&key, &generation);
                }
            }
        }
        Fence::Below(below) => raise_floor(tx, session, &mut record, below)?,
    }
    tx.store.put(&SessionKey(session), &record);
    Ok(Outcome::Done)
}

fn raise_floor(
    tx: &mut Tx<'_>,
    session: SessionId,
    record: &mut SessionRecord,
    below: LeaseGeneration,
) -> Result<(), StateError> {
    record.fenced_below = record.fenced_below.max(below);
    for (ino, generation) in of_session(tx.store, session)? {
        if generation < record.fenced_below {
            tx.store.delete(&FenceKey { session, ino });
            record.fences -= 1;
        }
    }
    Ok(())
}

pub(crate) fn release(
    tx: &mut Tx<'_>,
    session: SessionId,
    leases: &[LeaseId],
) -> Result<Outcome, StateError> {
    if leases.len() > FENCES_MAX {
        return Ok(Outcome::Refused(format!("a command may release {FENCES_MAX} fences")));
    }
    let Some(mut record) = tx.store.get(&SessionKey(session))? else { return Ok(Outcome::Done) };
    for LeaseId { ino, generation } in leases {
        let key = FenceKey { session, ino: *ino };
        // A later lease on the same inode may have been broken meanwhile.
        if tx.store.get(&key)? == Some(*generation) {
            tx.store.delete(&key);
            record.fences -= 1;
        }
    }
    tx.store.put(&SessionKey(session), &record);
    Ok(Outcome::Done)
}

/// The session ends: its fences go with it.
pub(crate) fn end(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StateError> {
    for (ino, _) in of_session(tx.store, session)? {
        tx.store.delete(&FenceKey { session, ino });
    }
    Ok(())
}

/// The fences of a session, by inode.
pub(crate) fn of_session(
    store: &Store,
    session: SessionId,
) -> Result<Vec<(Ino, LeaseGeneration)>, StateError> {
    let from = FenceKey { session, ino: Ino(0) };
    let to = FenceKey { session: SessionId(session.0 + 1), ino: Ino(0) };
    let rows = store.range(&from, Some(&to), FENCES_MAX)?;
    Ok(rows.into_iter().map(|(key, generation)| (key.ino, generation)).collect())
}

/// Whether a lease of the session is broken.
pub(crate) fn is_broken(store: &Store, session: SessionId, lease: LeaseId) -> Result<bool, StateError> {
    let LeaseId { ino, generation } = lease;
    let Some(record) = store.get(&SessionKey(session))? else { return Ok(true) };
    if generation < record.fenced_below {
        return Ok(true);
    }
    Ok(store.get(&FenceKey { session, ino })?.is_some_and(|fenced| generation <= fenced))
}

/// Refuses a change that was buffered under a broken lease.
pub(crate) fn check(store: &Store, session: SessionId, lease: LeaseId) -> OpResult<()> {
    if is_broken(store, session, lease)? { Err(ServiceError::Fenced.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Body;
    use crate::testing::Bench;
    use quarry_common::wire::fs::Mutation;

    fn lease(ino: Ino, generation: u64) -> LeaseId {
        LeaseId { ino, generation: LeaseGeneration(generation) }
    }

    fn fence(bench: &mut Bench, fence: Fence) {
        let session = bench.session;
        assert_eq!(bench.apply(Body::Fence { session, fence }), Outcome::Done);
    }

    /// A write to the file that was buffered under a lease.
    fn write(bench: &mut Bench, ino: Ino, generation: Option<u64>) -> Result<(), ServiceError> {
        let mut commit = bench.write_commit(ino, 0, 10);
        commit.lease = generation.map(LeaseGeneration);
        bench.mutate(Mutation::Commit(commit)).map(|_| ())
    }

    #[test]
    fn what_was_buffered_under_a_broken_lease_is_refused_for_good() {
        let mut bench = Bench::new();
        let (file, other) = (bench.file(Ino::ROOT, "f"), bench.file(Ino::ROOT, "g"));
        fence(&mut bench, Fence::Lease(lease(file, 7)));
        bench.checkpoint();
        for generation in [1, 7] {
            assert_eq!(write(&mut bench, file, Some(generation)), Err(ServiceError::Fenced));
        }
        assert_eq!(bench.attr(file).size, 0, "nothing of it is in the file");
        assert_eq!(write(&mut bench, file, Some(8)), Ok(()), "a later lease is another one");
        assert_eq!(write(&mut bench, file, None), Ok(()), "so is no lease at all");
        assert_eq!(write(&mut bench, other, Some(7)), Ok(()));
        // An older break does not take a newer one back.
        fence(&mut bench, Fence::Lease(lease(file, 3)));
        assert_eq!(write(&mut bench, file, Some(7)), Err(ServiceError::Fenced));
        bench.check();
    }

    #[test]
    fn an_acknowledged_fence_is_released_unless_a_later_lease_broke() {
        let mut bench = Bench::new();
        let (file, session) = (bench.file(Ino::ROOT, "f"), bench.session);
        let release = |generation| Body::ReleaseFences { session, leases: vec![lease(file, generation)] };
        fence(&mut bench, Fence::Lease(lease(file, 3)));
        fence(&mut bench, Fence::Lease(lease(file, 5)));
        bench.apply(release(3));
        assert_eq!(write(&mut bench, file, Some(5)), Err(ServiceError::Fenced));
        bench.apply(release(5));
        bench.apply(release(5));
        assert_eq!(of_session(bench.state.store(), session).expect("sound"), []);
        bench.check();
    }

    #[test]
    fn a_floor_breaks_all_earlier_leases_of_one_session() {
        let mut bench = Bench::new();
        let (file, other) = (bench.file(Ino::ROOT, "f"), bench.open_session());
        fence(&mut bench, Fence::Lease(lease(file, 3)));
        fence(&mut bench, Fence::Lease(lease(Ino::ROOT, 12)));
        fence(&mut bench, Fence::Below(LeaseGeneration(10)));
        fence(&mut bench, Fence::Below(LeaseGeneration(4)));
        assert_eq!(write(&mut bench, file, Some(9)), Err(ServiceError::Fenced));
        assert_eq!(write(&mut bench, file, Some(10)), Ok(()));
        let left = of_session(bench.state.store(), bench.session).expect("sound");
        assert_eq!(left, [(Ino::ROOT, LeaseGeneration(12))]);
        assert!(!is_broken(bench.state.store(), other, lease(file, 9)).expect("sound"));
        bench.check();
    }

    #[test]
    fn a_session_begins_with_a_floor_below_which_nothing_is_its_own() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let session = bench.open_session_with_floor(LeaseGeneration(8));
        let is_broken = |generation| is_broken(bench.state.store(), session, lease(file, generation));
        assert!(is_broken(7).expect("sound"), "of the session before");
        assert!(!is_broken(8).expect("sound"));
        bench.check();
    }

    #[test]
    fn fences_are_bounded_and_end_with_their_session() {
        let mut bench = Bench::new();
        let session = bench.session;
        for n in 0..=FENCES_MAX as u64 {
            fence(&mut bench, Fence::Lease(lease(Ino(n), n + 1)));
        }
        assert_eq!(of_session(bench.state.store(), session).expect("sound"), []);
        let last = FENCES_MAX as u64 + 1;
        assert!(is_broken(bench.state.store(), session, lease(Ino(77), last)).expect("sound"));
        assert!(!is_broken(bench.state.store(), session, lease(Ino(77), last + 1)).expect("sound"));
        fence(&mut bench, Fence::Lease(lease(Ino(1), last + 5)));
        bench.apply(Body::EndSession { session, expired: false });
        assert_eq!(of_session(bench.state.store(), session).expect("sound"), []);
        fence(&mut bench, Fence::Lease(lease(Ino(1), last + 6)));
        bench.check();
    }
}
