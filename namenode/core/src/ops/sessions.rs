//! Sessions, and mutations that happen exactly once.

use super::SESSIONS_MAX;
use crate::command::{Effect, Outcome};
use crate::error::{StateError, split};
use crate::records::{SessionRecord, SlotRecord};
use crate::tables::{SessionKey, SlotKey};
use crate::tx::Tx;
use quarry_common::ids::SessionId;
use quarry_common::limits::SESSION_SLOTS;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Mutation, MutationReply};
use quarry_common::wire::session::ClientInfo;

/// Bytes of text that a session may have about itself.
const TEXT_MAX: usize = 1024;

pub(crate) fn open(tx: &mut Tx<'_>, owner: &str, info: &ClientInfo) -> Outcome {
    if tx.store.meta.sessions >= SESSIONS_MAX as u64 {
        return Outcome::Refused(format!("there are {SESSIONS_MAX} sessions already"));
    }
    if owner.len() + info.host.len() + info.purpose.len() > TEXT_MAX {
        return Outcome::Refused(format!("a session's names may have {TEXT_MAX} bytes"));
    }
    let session = SessionId(tx.store.meta.next_session);
    tx.store.meta.next_session += 1;
    tx.store.meta.sessions += 1;
    let record = SessionRecord { owner: owner.to_owned(), info: info.clone(), since: tx.now };
    tx.store.put(&SessionKey(session), &record);
    Outcome::Session(session)
}

pub(crate) fn end(tx: &mut Tx<'_>, session: SessionId) -> Result<Outcome, StateError> {
    if !tx.store.contains(&SessionKey(session))? {
        return Ok(Outcome::Done);
    }
    let from = SlotKey { session, slot: 0 };
    let to = SlotKey { session, slot: SESSION_SLOTS };
    for (key, _) in tx.store.range(&from, Some(&to), usize::from(SESSION_SLOTS))? {
        tx.store.delete(&key);
    }
    tx.store.delete(&SessionKey(session));
    tx.store.meta.sessions -= 1;
    tx.effect(Effect::SessionEnded(session));
    Ok(Outcome::Done)
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
        return Ok(Err(ServiceError::BadRequest(format!("slot {slot} of {SESSION_SLOTS}"))));
    }
    let key = SlotKey { session, slot };
    let last = match tx.store.get(&key)? {
        Some(record) if record.sequence == sequence => return Ok(record.reply),
        Some(record) => record.sequence,
        // Slots go with their session, so it has to be looked for only here.
        None if !tx.store.contains(&SessionKey(session))? => return Ok(Err(ServiceError::SessionExpired)),
        None => 0,
    };
    if sequence != last.wrapping_add(1) {
        return Ok(Err(ServiceError::SlotMismatch { slot, last }));
    }
    let reply = split(super::mutate(tx, mutation))?;
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
        for (slot, sequence) in [(5, 1), (5, 4), (6, 0), (6, 2)] {
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
        assert_eq!(bench.apply(Body::EndSession { session }), Outcome::Done);
        assert_eq!(bench.effects, [Effect::SessionEnded(session)]);
        assert_eq!(bench.apply(Body::EndSession { session }), Outcome::Done);
        let late = bench.apply(create(session, 0, 2));
        assert_eq!(late, Outcome::Mutation(Err(ServiceError::SessionExpired)));
        assert_ne!(bench.open_session(), session);
        bench.check();
    }
}
