use super::*;
use LockKind::{Read, Unlock, Write};
use proptest::prelude::*;

const FILE: Ino = Ino(5);
const DONE: Result<Outcome, FsError> = Ok(Outcome::Done);

fn lock(owner: u64, start: u64, end: u64, kind: LockKind) -> Lock {
    Lock { owner, pid: 100 + owner as u32, start, end, kind, family: LockFamily::Record }
}

/// Sets without waiting; nobody may be woken.
fn set(table: &mut LockTable, owner: u64, start: u64, end: u64, kind: LockKind) -> Result<Outcome, FsError> {
    let (outcome, woken) = table.set(SessionId(1), FILE, &lock(owner, start, end, kind), false)?;
    assert_eq!(woken, Woken::default());
    Ok(outcome)
}

fn wait(table: &mut LockTable, session: u64, ino: Ino, lock: &Lock) -> Ticket {
    match table.set(SessionId(session), ino, lock, true) {
        Ok((Outcome::Waiting(ticket), woken)) if woken == Woken::default() => ticket,
        other => panic!("{other:?}"),
    }
}

fn held(table: &LockTable, owner: u64) -> Vec<(u64, u64, LockKind)> {
    let ranges = table.held.get(&FILE).into_iter().flat_map(Ranges::iter);
    ranges.filter(|h| h.owner.owner == owner).map(|h| (h.lock.start, h.lock.end, h.lock.kind)).collect()
}

#[test]
fn ranges_split_merge_and_change_kind() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 99, Write), DONE);
    assert_eq!(set(&mut t, 1, 40, 59, Read), DONE);
    assert_eq!(held(&t, 1), [(0, 39, Write), (40, 59, Read), (60, 99, Write)]);
    assert_eq!(set(&mut t, 1, 50, 50, Unlock), DONE);
    assert_eq!(held(&t, 1), [(0, 39, Write), (40, 49, Read), (51, 59, Read), (60, 99, Write)]);
    assert_eq!(set(&mut t, 1, 50, 50, Read), DONE);
    assert_eq!(held(&t, 1), [(0, 39, Write), (40, 59, Read), (60, 99, Write)]);
    assert_eq!(set(&mut t, 1, 10, 80, Write), DONE);
    assert_eq!(held(&t, 1), [(0, 99, Write)]);
    assert_eq!((t.total(), t.count(SessionId(1))), (1, 1));
    assert_eq!(set(&mut t, 1, 0, u64::MAX, Unlock), DONE);
    assert_eq!((t.total(), t.held.len(), t.owners.len(), t.sessions.len()), (0, 0, 0, 0));
}

#[test]
fn flock_and_fcntl_do_not_exclude_each_other() {
    let mut t = LockTable::new();
    let flock = |owner| Lock { family: LockFamily::Flock, ..lock(owner, 0, u64::MAX, Write) };
    assert_eq!(set(&mut t, 1, 0, 9, Write), DONE);
    assert_eq!(t.set(SessionId(1), FILE, &flock(2), false).map(|(outcome, _)| outcome), DONE);
    assert_eq!(t.set(SessionId(1), FILE, &flock(3), false), Err(FsError::WouldBlock));
    assert_eq!(set(&mut t, 4, 20, 29, Write), DONE);
    assert_eq!(set(&mut t, 4, 0, 0, Write), Err(FsError::WouldBlock));
    let ticket = wait(&mut t, 1, FILE, &flock(3));
    assert_eq!(set(&mut t, 1, 0, 9, Unlock), DONE);
    assert_eq!(t.release_owner(SessionId(1), FILE, 2).granted, [ticket]);
}

#[test]
fn readers_share_and_writers_do_not() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Read), DONE);
    assert_eq!(set(&mut t, 2, 5, 15, Read), DONE);
    assert_eq!(set(&mut t, 3, 9, 9, Write), Err(FsError::WouldBlock));
    assert_eq!(set(&mut t, 2, 10, 15, Write), DONE);
    assert_eq!(set(&mut t, 1, 5, 5, Write), Err(FsError::WouldBlock));
    // Owners of different sessions differ even if they have the same number.
    assert_eq!(t.set(SessionId(2), FILE, &lock(1, 0, 0, Write), false), Err(FsError::WouldBlock));
}

#[test]
fn a_test_tells_the_first_conflict_in_terms_the_kernel_takes() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 50, u64::MAX, Write), DONE);
    assert_eq!(set(&mut t, 1, 10, 20, Read), DONE);
    let test = |owner, start, end, kind| t.test(SessionId(1), FILE, &lock(owner, start, end, kind));
    assert_eq!(test(2, 0, u64::MAX, Write), Ok(Some(lock(1, 10, 20, Read))));
    assert_eq!(test(2, 0, u64::MAX, Read), Ok(Some(lock(1, 50, END, Write))));
    assert_eq!(test(1, 0, u64::MAX, Write), Ok(None));
    assert_eq!(test(2, 21, 49, Write), Ok(None));
    assert_eq!(test(2, 9, 8, Write), Err(FsError::Invalid));
    assert_eq!(test(2, END + 1, u64::MAX, Write), Err(FsError::Invalid));
}

#[test]
fn waiters_are_served_in_order() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Write), DONE);
    let a = wait(&mut t, 2, FILE, &lock(1, 0, 4, Read));
    let b = wait(&mut t, 3, FILE, &lock(1, 3, 6, Write));
    let c = wait(&mut t, 4, FILE, &lock(1, 0, 4, Read));
    let (outcome, woken) = t.set(SessionId(1), FILE, &lock(1, 0, 9, Unlock), false).expect("unlock");
    assert_eq!((outcome, woken.granted), (Outcome::Done, vec![a]));
    // The writer waits for the first reader, and the second reader behind the writer.
    assert_eq!(t.release_owner(SessionId(2), FILE, 1).granted, [b]);
    assert_eq!(t.release_session(SessionId(3)).granted, [c]);
    assert_eq!(t.waiting(), 0);
}

#[test]
fn a_stream_of_readers_does_not_starve_a_writer() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Read), DONE);
    let writer = wait(&mut t, 2, FILE, &lock(1, 0, 9, Write));
    let reader = wait(&mut t, 3, FILE, &lock(1, 0, 9, Read));
    // A request that does not wait is told what is, not what may come.
    assert_eq!(t.set(SessionId(4), FILE, &lock(1, 0, 0, Read), false).map(|r| r.0), DONE);
    assert_eq!(t.release_session(SessionId(4)), Woken::default());
    // An owner that holds a lock does not queue behind the one that waits for it.
    let (outcome, _) = t.set(SessionId(1), FILE, &lock(1, 5, 20, Read), true).expect("granted");
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(t.release_session(SessionId(1)).granted, [writer]);
    assert_eq!(t.release_session(SessionId(2)).granted, [reader]);
}

#[test]
fn a_downgrade_lets_readers_in() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Write), DONE);
    let reader = wait(&mut t, 2, FILE, &lock(1, 0, 9, Read));
    let (_, woken) = t.set(SessionId(1), FILE, &lock(1, 0, 9, Read), false).expect("downgrade");
    assert_eq!(woken.granted, [reader]);
}

#[test]
fn deadlocks_are_refused() {
    let mut t = LockTable::new();
    // Two readers that both want to write.
    assert_eq!(set(&mut t, 1, 0, 9, Read), DONE);
    assert_eq!(t.set(SessionId(2), FILE, &lock(1, 0, 9, Read), true).map(|r| r.0), DONE);
    let first = wait(&mut t, 1, FILE, &lock(1, 0, 9, Write));
    assert_eq!(t.set(SessionId(2), FILE, &lock(1, 0, 9, Write), true), Err(FsError::Deadlock));
    // The loser gives its lock up, and the other goes on.
    assert_eq!(t.release_owner(SessionId(2), FILE, 1).granted, [first]);

    // A ring of three over three files.
    let mut t = LockTable::new();
    for n in 1..=3 {
        assert_eq!(t.set(SessionId(n), Ino(n), &lock(7, 0, 0, Write), true).map(|r| r.0), DONE);
    }
    wait(&mut t, 1, Ino(2), &lock(7, 0, 0, Write));
    wait(&mut t, 2, Ino(3), &lock(7, 0, 0, Read));
    assert_eq!(t.set(SessionId(3), Ino(1), &lock(7, 0, 0, Read), true), Err(FsError::Deadlock));
    // Without waiting, there is no deadlock.
    assert_eq!(t.set(SessionId(3), Ino(1), &lock(7, 0, 0, Read), false), Err(FsError::WouldBlock));
}

#[test]
fn a_cancelled_waiter_frees_those_behind_it() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Read), DONE);
    let writer = wait(&mut t, 2, FILE, &lock(1, 0, 9, Write));
    let reader = wait(&mut t, 3, FILE, &lock(1, 0, 9, Read));
    assert_eq!(t.cancel(&[writer]), Woken { granted: vec![reader], dropped: vec![writer] });
    assert_eq!(t.cancel(&[writer]), Woken::default());
    let again = wait(&mut t, 2, FILE, &lock(1, 0, 9, Write));
    assert_eq!(t.cancel_owner(SessionId(2), Ino(6), 1), Woken::default());
    assert_eq!(t.cancel_owner(SessionId(2), FILE, 1).dropped, [again]);
}

#[test]
fn requests_cancelled_together_are_not_granted() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Read), DONE);
    let writer = wait(&mut t, 2, FILE, &lock(1, 0, 9, Write));
    let reader = wait(&mut t, 2, FILE, &lock(2, 0, 9, Read));
    let both = vec![writer, reader];
    assert_eq!(t.cancel(&both), Woken { granted: vec![], dropped: both });
    assert_eq!(t.count(SessionId(2)), 0);
}

#[test]
fn closing_frees_locks_and_waiters() {
    let mut t = LockTable::new();
    assert_eq!(set(&mut t, 1, 0, 9, Write), DONE);
    assert_eq!(set(&mut t, 2, 20, 29, Write), DONE);
    let own = wait(&mut t, 1, FILE, &lock(3, 0, 9, Write));
    let other = wait(&mut t, 2, FILE, &lock(1, 0, 29, Write));
    let woken = t.release_inode(SessionId(1), FILE);
    assert_eq!(woken, Woken { granted: vec![other], dropped: vec![own] });
    assert_eq!((t.count(SessionId(1)), t.count(SessionId(2))), (0, 1));
}

#[test]
fn a_resumed_session_gets_its_locks_unless_they_are_taken() {
    let mut t = LockTable::new();
    let mut restore = |session, lock| t.restore(SessionId(session), FILE, &lock);
    assert_eq!(restore(1, lock(1, 0, 9, Write)), (true, Woken::default()));
    assert_eq!(restore(1, lock(1, 0, 9, Write)), (true, Woken::default()));
    assert_eq!(restore(2, lock(1, 9, 9, Read)), (false, Woken::default()));
    // Weakened while the connection was away: somebody waited for that.
    let reader = wait(&mut t, 2, FILE, &lock(1, 9, 9, Read));
    let (held, woken) = t.restore(SessionId(1), FILE, &lock(1, 0, 9, Read));
    assert_eq!((held, woken.granted), (true, vec![reader]));
}

#[test]
fn limits_are_told_as_no_locks() {
    let mut t = LockTable::new();
    for n in 0..SESSION_LOCKS_MAX as u64 {
        // One inode each: many locks of one inode would make this test slow.
        assert_eq!(t.set(SessionId(1), Ino(n), &lock(1, 0, 9, Write), false).map(|r| r.0), DONE);
    }
    assert_eq!(t.set(SessionId(1), Ino(1 << 40), &lock(1, 0, 9, Write), false), Err(FsError::NoLocks));
    // An unlock that splits a lock needs one more as well; one that does not split always works.
    assert_eq!(t.set(SessionId(1), Ino(1), &lock(1, 5, 5, Unlock), false), Err(FsError::NoLocks));
    assert_eq!(t.set(SessionId(1), Ino(1), &lock(1, 5, 9, Unlock), false).map(|r| r.0), DONE);
    let waits = (0..=SESSION_WAITING_MAX as u64)
        .map(|n| t.set(SessionId(2), Ino(n), &lock(1, 0, 0, Write), true).is_ok())
        .filter(|ok| *ok)
        .count();
    assert_eq!(waits, SESSION_WAITING_MAX);
    let woken = t.release_session(SessionId(1));
    assert_eq!((woken.granted.len(), t.count(SessionId(2))), (SESSION_WAITING_MAX, SESSION_WAITING_MAX));
}

#[derive(Clone, Debug)]
enum Op {
    Set { ino: u64, owner: u64, start: u64, end: u64, kind: LockKind, wait: bool },
    CancelOwner { ino: u64, owner: u64 },
    ReleaseOwner { ino: u64, owner: u64 },
    ReleaseInode { ino: u64, session: u64 },
    ReleaseSession { session: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let kind = prop_oneof![Just(Read), Just(Write), Just(Unlock)];
    let set = (1u64..3, 0u64..6, 0u64..BYTES, 0u64..16, kind, any::<bool>()).prop_map(
        |(ino, owner, start, length, kind, wait)| Op::Set {
            ino,
            owner,
            start,
            end: (start + length).min(BYTES - 1),
            kind,
            wait,
        },
    );
    let op = prop_oneof![
        20 => set,
        2 => (1u64..3, 0u64..6).prop_map(|(ino, owner)| Op::CancelOwner { ino, owner }),
        2 => (1u64..3, 0u64..6).prop_map(|(ino, owner)| Op::ReleaseOwner { ino, owner }),
        1 => (1u64..3, 0u64..3).prop_map(|(ino, session)| Op::ReleaseInode { ino, session }),
        1 => (0u64..3).prop_map(|session| Op::ReleaseSession { session }),
    ];
    prop::collection::vec(op, 1..300)
}

const BYTES: u64 = 16;

/// Owners 0..6 of sessions 0..3.
fn session(owner: u64) -> SessionId {
    SessionId(owner / 2)
}

/// Who has what on each byte of each file, and who waits.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<(u64, u64), BTreeMap<u64, LockKind>>,
    waiting: BTreeMap<Ticket, (u64, Lock)>,
}

impl Model {
    fn conflict(&self, ino: u64, lock: &Lock) -> Option<u64> {
        (lock.start..=lock.end).find(|byte| {
            self.bytes.get(&(ino, *byte)).is_some_and(|owners| {
                owners.iter().any(|(o, k)| *o != lock.owner && (*k == Write || lock.kind == Write))
            })
        })
    }

    fn set(&mut self, ino: u64, lock: &Lock) {
        for byte in lock.start..=lock.end.min(BYTES) {
            let owners = self.bytes.entry((ino, byte)).or_default();
            match lock.kind {
                Unlock => owners.remove(&lock.owner),
                kind => owners.insert(lock.owner, kind),
            };
        }
    }

    fn release(&mut self, gone: impl Fn(u64, u64) -> bool) {
        for ((ino, _), owners) in &mut self.bytes {
            owners.retain(|owner, _| !gone(*ino, *owner));
        }
    }

    fn take_in(&mut self, woken: Woken) {
        for ticket in woken.dropped {
            assert!(self.waiting.remove(&ticket).is_some());
        }
        for ticket in woken.granted {
            let (ino, lock) = self.waiting.remove(&ticket).expect("it waited");
            assert_eq!(self.conflict(ino, &lock), None);
            self.set(ino, &lock);
        }
    }

    fn holds_any(&self, owner: u64) -> bool {
        self.bytes.values().any(|owners| owners.contains_key(&owner))
    }

    /// Everyone who waits does so for a reason: a lock of another, or politeness.
    fn check_waiters(&self) {
        for (ticket, (ino, lock)) in &self.waiting {
            let ahead = self
                .waiting
                .range(..ticket)
                .any(|(_, (i, l))| i == ino && l.owner != lock.owner && ranges::exclude(l, lock));
            let polite = ahead && !self.holds_any(lock.owner);
            assert!(self.conflict(*ino, lock).is_some() || polite, "{lock:?} waits for nothing");
        }
    }

    fn waits(&self, owner: u64) -> bool {
        self.waiting.values().any(|(_, l)| l.owner == owner)
    }

    /// Nobody waits, directly or over others, for itself.
    fn is_free_of_cycles(&self) -> bool {
        let waits_for = |owner: u64| -> BTreeSet<u64> {
            let locks = self.waiting.values().filter(|(_, l)| l.owner == owner);
            locks
                .flat_map(|(ino, lock)| {
                    (lock.start..=lock.end)
                        .flat_map(move |b| self.bytes.get(&(*ino, b)).into_iter().flatten())
                        .filter(move |(o, k)| **o != owner && (**k == Write || lock.kind == Write))
                        .map(|(o, _)| *o)
                })
                .collect()
        };
        (0..6).all(|start| {
            let (mut seen, mut next) = (BTreeSet::new(), waits_for(start));
            while let Some(owner) = next.pop_first() {
                if owner == start {
                    return false;
                }
                if seen.insert(owner) {
                    next.extend(waits_for(owner));
                }
            }
            true
        })
    }
}

proptest! {
    /// With `threads`, an owner may ask for one lock while it waits for another. Then cycles can come about without
    /// a request that would wait, and are no deadlocks.
    #[test]
    fn the_table_agrees_with_a_map_of_bytes(ops in ops(), threads in any::<bool>()) {
        let mut table = LockTable::new();
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Set { owner, .. } if !threads && model.waits(owner) => {}
                Op::Set { ino, owner, start, end, kind, wait } => {
                    let lock = lock(owner, start, end, kind);
                    let conflict = model.conflict(ino, &lock);
                    let told = table.test(session(owner), Ino(ino), &lock).expect("a range");
                    if kind != Unlock {
                        prop_assert_eq!(told.is_some(), conflict.is_some());
                    }
                    if let Some(told) = told {
                        prop_assert!(told.start <= end && told.end >= start && told.owner != owner);
                    }
                    match table.set(session(owner), Ino(ino), &lock, wait) {
                        Ok((Outcome::Done, woken)) => {
                            prop_assert!(kind == Unlock || conflict.is_none());
                            model.set(ino, &lock);
                            model.take_in(woken);
                        }
                        Ok((Outcome::Waiting(ticket), woken)) => {
                            prop_assert!(wait && kind != Unlock);
                            prop_assert_eq!(woken, Woken::default());
                            model.waiting.insert(ticket, (ino, lock));
                        }
                        Err(FsError::WouldBlock) => prop_assert!(!wait && conflict.is_some()),
                        Err(FsError::Deadlock) => {
                            prop_assert!(wait && conflict.is_some());
                            model.waiting.insert(Ticket(u64::MAX), (ino, lock));
                            prop_assert!(!model.is_free_of_cycles(), "no deadlock");
                            model.waiting.remove(&Ticket(u64::MAX));
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
                Op::CancelOwner { ino, owner } => {
                    model.take_in(table.cancel_owner(session(owner), Ino(ino), owner));
                }
                Op::ReleaseOwner { ino, owner } => {
                    let woken = table.release_owner(session(owner), Ino(ino), owner);
                    model.release(|i, o| i == ino && o == owner);
                    model.take_in(woken);
                }
                Op::ReleaseInode { ino, session: s } => {
                    let woken = table.release_inode(SessionId(s), Ino(ino));
                    model.release(|i, o| i == ino && o / 2 == s);
                    model.take_in(woken);
                }
                Op::ReleaseSession { session: s } => {
                    let woken = table.release_session(SessionId(s));
                    model.release(|_, o| o / 2 == s);
                    model.take_in(woken);
                }
            }
            model.check_waiters();
            prop_assert!(threads || model.is_free_of_cycles());
            prop_assert_eq!(table.waiting(), model.waiting.len());
        }
        for s in 0..3 {
            let woken = table.release_session(SessionId(s));
            model.release(|_, o| o / 2 == s);
            model.take_in(woken);
        }
        prop_assert_eq!((table.total(), table.held.len(), table.owners.len(), table.waiting()), (0, 0, 0, 0));
    }
}

#[test]
fn the_locks_of_a_session_are_bounded() {
    let mut t = LockTable::new();
    let mut set = |session: u64, ino: u64, start, end, kind| {
        t.set(SessionId(session), Ino(ino), &lock(1, start, end, kind), false).map(|(outcome, _)| outcome)
    };
    for ino in 0..SESSION_LOCKS_MAX as u64 {
        assert_eq!(set(1, ino, 0, 2, Write), DONE);
    }
    assert_eq!(set(1, u64::MAX, 0, 2, Write), Err(FsError::NoLocks));
    assert_eq!(set(1, 0, 1, 1, Unlock), Err(FsError::NoLocks), "two would be left of it");
    assert_eq!(set(2, u64::MAX, 0, 2, Write), DONE, "another session has room");
    assert_eq!(set(1, 0, 0, 2, Unlock), DONE);
    assert_eq!(set(1, u64::MAX - 1, 0, 2, Write), DONE);
}
