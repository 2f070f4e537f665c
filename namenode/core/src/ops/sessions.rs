//! Sessions, and mutations that happen exactly once.

use super::{SESSIONS_MAX, fences};
use crate::command::{Effect, Outcome};
use crate::error::{OpError, StateError, split};
use crate::records::{EndedRecord, SessionRecord, SlotRecord};
use crate::store::Store;
use crate::tables::{EndedKey, SessionKey, SlotKey};
use crate::tx::Tx;
use quarry_common::ids::{LeaseGeneration, SessionId};
use quarry_common::limits::SESSION_SLOTS;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Mutation, MutationReply};
use quarry_common::wire::session::{ClientInfo, Fate};

/// Bytes of text that a session may have about itself.
const TEXT_MAX: usize = 1024;

pub(crate) fn open(
    tx: &mut Tx<'_>,
    owner: &str,
    info: &ClientInfo,
    fenced_below: LeaseGeneration,
) -> Outcome {
    if tx.store.meta.sessions >= SESSIONS_MAX as u64 {
        return Outcome::Refused(format!("there are {SESSIONS_MAX} sessions already"));
    }
    if owner.len() + info.host.len() + info.purpose.len() > TEXT_MAX {
        return Outcome::Refused(format!("a session's names may have {TEXT_MAX} bytes"));
    }
    let session = SessionId(tx.store.meta.next_session);
    tx.store.meta.next_session += 1;
    tx.store.meta.sessions += 1;
    let record = SessionRecord {
        owner: owner.to_owned(),
        info: info.clone(),
        since: tx.now,
        fenced_below,
        began_at: fenced_below,
        fences: 0,
    };
    tx.store.put(&SessionKey(session), &record);
    Outcome::Session(session)
}

/// Ended sessions whose last replies are kept: each has 64 of a few hundred bytes. The oldest go first.
const ENDED_MAX: u64 = 1024;

pub(crate) fn end(tx: &mut Tx<'_>, session: SessionId, expired: bool) -> Result<Outcome, StateError> {
    let Some(record) = tx.store.get(&SessionKey(session))? else { return Ok(Outcome::Done) };
    if expired {
        tx.store.put(&EndedKey(session), &EndedRecord { owner: record.owner });
        tx.store.meta.ended_sessions += 1;
        forget_oldest(tx)?;
    } else {
        delete_slots(tx, session)?;
    }
    fences::end(tx, session)?;
    tx.store.delete(&SessionKey(session));
    tx.store.meta.sessions -= 1;
    tx.effect(Effect::SessionEnded(session));
    Ok(Outcome::Done)
}

/// Keeps the number of ended sessions within its bound.
fn forget_oldest(tx: &mut Tx<'_>) -> Result<(), StateError> {
    if tx.store.meta.ended_sessions <= ENDED_MAX {
        return Ok(());
    }
    for (EndedKey(oldest), _) in tx.store.range(&EndedKey(SessionId(0)), None, 1)? {
        tx.store.delete(&EndedKey(oldest));
        tx.store.meta.ended_sessions -= 1;
        delete_slots(tx, oldest)?;
    }
    Ok(())
}

fn delete_slots(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StateError> {
    let from = SlotKey { session, slot: 0 };
    let to = SlotKey { session, slot: SESSION_SLOTS };
    for (key, _) in tx.store.range(&from, Some(&to), usize::from(SESSION_SLOTS))? {
        tx.store.delete(&key);
    }
    Ok(())
}

/// What became of a mutation of a session that has ended; `None` while it lives.
pub(crate) fn fate(
    store: &Store,
    owner: &str,
    session: SessionId,
    (slot, sequence): (u16, u64),
) -> Result<Option<Fate>, StateError> {
    if store.contains(&SessionKey(session))? {
        return Ok(None);
    }
    let ended = store.get(&EndedKey(session))?;
    if ended.is_none_or(|ended| ended.owner != owner) {
        return Ok(Some(Fate::Unknown));
    }
    Ok(Some(match store.get(&SlotKey { session, slot })? {
        Some(record) if record.sequence == sequence => Fate::Answered(Box::new(record.reply)),
        // The slot has gone on, which a client does only after it has the answer.
        Some(record) if record.sequence > sequence => Fate::Unknown,
        Some(_) | None => Fate::Never,
    }))
}

/// Applies a mutation, or finds the answer that its first arrival got.
pub(crate) fn mutate(
    tx: &mut Tx<'_>,
    session: SessionId,
    slot: u16,
    sequence: u64,
    mutation: &Mutation,
) -> Result<Result<MutationReply, ServiceError>, StateError> {
    if slot >= SESSION_SLOTS {
        return Ok(Err(ServiceError::SlotMismatch { slot, last: 0 }));
    }
    // Its slots may still be there.
    if !tx.store.contains(&SessionKey(session))? {
        return Ok(Err(ServiceError::SessionExpired));
    }
    let key = SlotKey { session, slot };
    let last = match tx.store.get(&key)? {
        Some(record) if record.sequence == sequence => return Ok(record.reply),
        Some(record) => record.sequence,
        None => 0,
    };
    if sequence != last.wrapping_add(1) {
        return Ok(Err(ServiceError::SlotMismatch { slot, last }));
    }
    let result = super::mutate(tx, session, mutation);
    // The same number is tried again, and must not find this answer.
    let is_final = !matches!(result, Err(OpError::Busy(_)));
    let reply = split(result)?;
    if !is_final {
        return Ok(reply);
    }
    tx.store.put(&key, &SlotRecord { sequence, reply: reply.clone() });
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Body;
    use crate::testing::{Bench, CALLER};
    use quarry_common::ids::Ino;
    use quarry_common::wire::error::FsError;
    use quarry_common::wire::fs::NewNode;

    fn create(session: SessionId, slot: u16, sequence: u64) -> Body {
        let mutation = Mutation::Create {
            parent: Ino::ROOT,
            name: b"f"[..].into(),
            node: NewNode::Dir,
            mode: 0o777,
            umask: 0,
            caller: CALLER,
        };
        Body::Mutate { session, slot, sequence, mutation }
    }

    fn bad(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Mutation(Err(ServiceError::SlotMismatch { .. })))
    }

    #[test]
    fn a_retry_gets_the_first_answer() {
        let mut bench = Bench::new();
        let session = bench.open_session();
        let first = bench.apply(create(session, 5, 1));
        assert!(matches!(first, Outcome::Mutation(Ok(_))));
        bench.checkpoint();
        assert_eq!(bench.apply(create(session, 5, 1)), first);
        assert_eq!(bench.effects, []);
        let second = bench.apply(create(session, 5, 2));
        assert_eq!(second, Outcome::Mutation(Err(FsError::Exists.into())));
        assert_eq!(bench.apply(create(session, 5, 2)), second, "an error is an answer, too");
        for (slot, sequence) in [(5, 1), (5, 4), (6, 0), (6, 2), (SESSION_SLOTS, 1)] {
            assert!(bad(&bench.apply(create(session, slot, sequence))), "{slot} {sequence}");
        }
        bench.check();
    }

    #[test]
    fn an_ended_session_is_gone_with_its_slots() {
        let mut bench = Bench::new();
        let session = bench.open_session();
        for slot in 0..SESSION_SLOTS {
            bench.apply(create(session, slot, 1));
        }
        assert_eq!(bench.state.sessions().expect("sound").len(), 2);
        let end = Body::EndSession { session, expired: false };
        assert_eq!(bench.apply(end.clone()), Outcome::Done);
        assert_eq!(bench.effects, [Effect::SessionEnded(session)]);
        assert_eq!(bench.apply(end), Outcome::Done);
        let late = bench.apply(create(session, 0, 2));
        assert_eq!(late, Outcome::Mutation(Err(ServiceError::SessionExpired)));
        assert_ne!(bench.open_session(), session);
        bench.check();
    }

    #[test]
    fn the_fate_of_an_expired_sessions_mutations_can_be_asked_for() {
        let mut bench = Bench::new();
        let session = bench.open_session();
        let first = bench.apply(create(session, 3, 1));
        let second = bench.apply(create(session, 3, 2));
        let fate = |bench: &Bench, owner: &str, slot, sequence| {
            bench.state.fate(owner, session, (slot, sequence)).expect("sound")
        };
        assert_eq!(fate(&bench, "client", 3, 2), None, "it lives, and its slot answers");
        bench.apply(Body::EndSession { session, expired: true });
        bench.checkpoint();
        let Outcome::Mutation(reply) = second else { panic!("{second:?}") };
        assert_eq!(fate(&bench, "client", 3, 2), Some(Fate::Answered(Box::new(reply))));
        assert_eq!(fate(&bench, "client", 3, 3), Some(Fate::Never));
        assert_eq!(fate(&bench, "client", 4, 1), Some(Fate::Never));
        assert_eq!(fate(&bench, "client", 3, 1), Some(Fate::Unknown), "{first:?} was answered");
        assert_eq!(fate(&bench, "other", 3, 2), Some(Fate::Unknown));
        // Neither a retry nor anything new is carried out in it.
        for sequence in [2, 3] {
            let late = bench.apply(create(session, 3, sequence));
            assert_eq!(late, Outcome::Mutation(Err(ServiceError::SessionExpired)));
        }
        for _ in 0..ENDED_MAX {
            let session = bench.open_session();
            bench.apply(Body::EndSession { session, expired: true });
        }
        assert_eq!(fate(&bench, "client", 3, 2), Some(Fate::Unknown), "the oldest are forgotten");
        bench.check();
    }
}
