use super::*;
use LeaseMode::{Exclusive, Shared};

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);
const FILE: Ino = Ino(10);
const DIR: Ino = Ino(11);
/// Term and margin.
const END: u64 = 5_250;

fn table() -> LeaseTable {
    let mut table = LeaseTable::new(LeaseConfig::default(), 0, 1, []);
    for session in [A, B, C] {
        assert_eq!(table.renew(0, session), Actions::default());
    }
    table
}

fn grant(
    table: &mut LeaseTable,
    now: u64,
    session: SessionId,
    ino: Ino,
    mode: LeaseMode,
) -> Result<(), Refusal> {
    let (result, actions) = table.grant(now, session, ino, mode);
    assert_eq!(actions, Actions::default());
    result.map(|_| ())
}

fn acquire(
    table: &mut LeaseTable,
    now: u64,
    session: SessionId,
    ino: Ino,
    access: Access,
) -> (Ticket, Actions) {
    table.acquire(now, session, &[(ino, access)]).expect("few tickets")
}

fn recall(session: SessionId, number: u64, ino: Ino, keep: Option<LeaseMode>) -> Recall {
    Recall { session, number, ino, keep }
}

#[test]
fn readers_share_and_a_writer_excludes() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Ok(()));
    assert_eq!(grant(&mut t, 0, B, FILE, Shared), Ok(()));
    assert_eq!(grant(&mut t, 0, B, FILE, Exclusive), Err(Refusal::Held));
    assert_eq!(t.give_back(A, &[FILE]), Actions::default());
    assert_eq!(grant(&mut t, 0, B, FILE, Exclusive), Ok(()));
    assert_eq!(grant(&mut t, 0, B, FILE, Shared), Ok(()));
    assert_eq!(t.holders(FILE).collect::<Vec<_>>(), [(B, Exclusive)]);
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Err(Refusal::Held));
}

#[test]
fn a_change_waits_for_the_others_and_keeps_the_own_lease() {
    let mut t = table();
    for session in [A, B, C] {
        assert_eq!(grant(&mut t, 0, session, FILE, Shared), Ok(()));
    }
    let (ticket, actions) = acquire(&mut t, 1, A, FILE, Access::Write);
    assert_eq!(actions.recalls, [recall(B, 1, FILE, None), recall(C, 1, FILE, None)]);
    assert_eq!(actions.ready, []);
    assert_eq!(t.ack(B, 1), (Some(FILE), Actions::default()));
    // Nobody gets in while the change waits and until it is done.
    assert_eq!(grant(&mut t, 1, B, FILE, Shared), Err(Refusal::Busy));
    assert_eq!(t.ack(C, 1).1.ready, [ticket]);
    assert_eq!(grant(&mut t, 1, B, FILE, Shared), Err(Refusal::Busy));
    assert_eq!(t.holders(FILE).collect::<Vec<_>>(), [(A, Shared)]);
    t.done(ticket);
    assert_eq!(grant(&mut t, 1, B, FILE, Shared), Ok(()));
}

#[test]
fn a_look_leaves_the_writer_a_shared_lease() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Exclusive), Ok(()));
    let (ticket, actions) = acquire(&mut t, 1, B, FILE, Access::Read);
    assert_eq!(actions.recalls, [recall(A, 1, FILE, Some(Shared))]);
    // Asked already.
    let (second, actions) = acquire(&mut t, 1, C, FILE, Access::Read);
    assert_eq!(actions, Actions::default());
    assert_eq!(t.ack(A, 1).1.ready, [ticket, second]);
    assert_eq!(t.holders(FILE).collect::<Vec<_>>(), [(A, Shared)]);
    assert_eq!(grant(&mut t, 1, B, FILE, Shared), Ok(()));
    assert_eq!(grant(&mut t, 1, C, FILE, Exclusive), Err(Refusal::Busy));
}

#[test]
fn a_change_after_a_look_recalls_the_rest() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Exclusive), Ok(()));
    let (look, _) = acquire(&mut t, 1, B, FILE, Access::Read);
    let (change, actions) = acquire(&mut t, 2, C, FILE, Access::Write);
    assert_eq!(actions.recalls, [recall(A, 2, FILE, None)]);
    assert_eq!(t.ack(A, 1).1.ready, [look]);
    assert!(!t.is_ready(change));
    assert_eq!(t.ack(A, 2).1.ready, [change]);
    assert_eq!(t.ack(A, 2), (None, Actions::default()));
    assert!(t.is_empty() && t.next_deadline().is_none());
}

#[test]
fn a_silent_holder_is_waited_for_until_its_term_ends() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Ok(()));
    assert_eq!(t.renew(1_000, A), Actions::default());
    let (ticket, _) = acquire(&mut t, 1_500, B, FILE, Access::Write);
    assert_eq!(t.next_deadline(), Some(1_000 + END));
    // It lives but does not answer the recall: that must not take longer.
    assert_eq!(t.renew(3_000, A), Actions::default());
    assert_eq!(t.tick(999 + END), Actions::default());
    let actions = t.tick(1_000 + END);
    assert_eq!((actions.ready, actions.broken), (vec![ticket], vec![(A, FILE)]));
    assert_eq!(t.next_deadline(), None);
}

#[test]
fn a_lease_that_ran_out_is_in_nobodys_way() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Exclusive), Ok(()));
    assert_eq!(t.renew(END, B), Actions::default());
    let (ticket, actions) = acquire(&mut t, END, B, FILE, Access::Write);
    assert_eq!(actions, Actions { ready: vec![ticket], broken: vec![(A, FILE)], ..Actions::default() });
    t.done(ticket);
    assert_eq!(grant(&mut t, END, A, FILE, Shared), Err(Refusal::Busy));
    assert_eq!(t.renew(END, A), Actions::default());
    assert_eq!(grant(&mut t, END, A, FILE, Shared), Ok(()));
    // One that comes too late has lost what it had.
    assert_eq!(t.renew(2 * END, A).broken, [(A, FILE)]);
}

#[test]
fn several_inodes_are_acquired_together() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Ok(()));
    assert_eq!(grant(&mut t, 0, A, DIR, Shared), Ok(()));
    assert_eq!(grant(&mut t, 0, B, DIR, Shared), Ok(()));
    let both = [(FILE, Access::Write), (DIR, Access::Write)];
    let (of_b, actions) = t.acquire(1, B, &both).expect("few tickets");
    assert_eq!(actions.recalls, [recall(A, 1, FILE, None), recall(A, 2, DIR, None)]);
    // In the other order, by the one that the first waits for: neither waits for the other.
    let (of_a, actions) = t.acquire(1, A, &[both[1], both[0]]).expect("few tickets");
    assert_eq!(actions.recalls, [recall(B, 1, DIR, None)]);
    assert_eq!(t.ack(B, 1).1.ready, [of_a]);
    assert_eq!(t.ack(A, 1).1.ready, []);
    assert_eq!(t.ack(A, 2).1.ready, [of_b]);
}

#[test]
fn a_ticket_can_grow() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Ok(()));
    let (ticket, actions) = acquire(&mut t, 1, B, DIR, Access::Write);
    assert_eq!(actions.ready, [ticket]);
    let actions = t.extend(1, ticket, &[(FILE, Access::Write)]);
    assert_eq!((actions.recalls.len(), actions.ready.len(), t.is_ready(ticket)), (1, 0, false));
    assert_eq!(t.give_back(A, &[FILE]).ready, [ticket]);
    t.done(ticket);
    assert_eq!(t.extend(1, ticket, &[(FILE, Access::Write)]), Actions::default());
}

#[test]
fn ending_and_resuming_sessions_gives_their_leases_up() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Ok(()));
    assert_eq!(grant(&mut t, 0, B, FILE, Shared), Ok(()));
    let (ticket, _) = acquire(&mut t, 0, C, FILE, Access::Write);
    assert_eq!(t.end_session(A), Actions::default());
    assert_eq!(t.resume(1, B), Actions { ready: vec![ticket], ..Actions::default() });
    assert!(t.is_empty() && t.next_deadline().is_none());
    t.done(ticket);
    // An answer to a recall of the old connection says nothing of a new lease.
    assert_eq!(grant(&mut t, 1, B, FILE, Shared), Ok(()));
    let (_, actions) = acquire(&mut t, 1, C, FILE, Access::Write);
    assert_eq!(actions.recalls, [recall(B, 2, FILE, None)]);
    assert_eq!(t.ack(B, 1), (None, Actions::default()));
}

#[test]
fn no_lease_is_granted_while_its_recall_is_under_way() {
    let mut t = table();
    assert_eq!(grant(&mut t, 0, A, FILE, Exclusive), Ok(()));
    let (ticket, _) = acquire(&mut t, 0, B, FILE, Access::Read);
    t.done(ticket);
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Err(Refusal::Busy));
    assert_eq!(t.ack(A, 1).1, Actions::default());
    assert_eq!(grant(&mut t, 0, A, FILE, Exclusive), Ok(()));
}

#[test]
fn sessions_from_before_the_start_are_waited_for() {
    let mut t = LeaseTable::new(LeaseConfig::default(), 0, 1, [A, B]);
    assert_eq!(t.renew(0, C), Actions::default());
    let (of_c, actions) = acquire(&mut t, 0, C, FILE, Access::Read);
    assert_eq!(actions, Actions::default());
    assert_eq!(grant(&mut t, 0, C, FILE, Shared), Err(Refusal::Starting));
    assert_eq!(t.resume(1, A), Actions::default());
    assert_eq!(t.next_deadline(), Some(END));
    // B waits for nobody but itself.
    assert_eq!(acquire(&mut t, 1, B, FILE, Access::Write).1.ready.len(), 1);
    assert_eq!(t.tick(END - 1), Actions::default());
    assert_eq!(t.tick(END).ready, [of_c]);

    let mut t = LeaseTable::new(LeaseConfig::default(), 0, 1, [A]);
    let (of_c, _) = acquire(&mut t, 0, C, FILE, Access::Read);
    assert_eq!(t.end_session(A).ready, [of_c]);
}

#[test]
fn the_oldest_leases_make_room() {
    let config = LeaseConfig { budget: 16, ..LeaseConfig::default() };
    let mut t = LeaseTable::new(config, 0, 1, []);
    assert_eq!(t.renew(0, A), Actions::default());
    for n in 0..13 {
        assert_eq!(grant(&mut t, 0, A, Ino(n), Shared), Ok(()));
    }
    // Used again, so the next ones are the oldest.
    assert_eq!(grant(&mut t, 0, A, Ino(0), Shared), Ok(()));
    let (result, actions) = t.grant(0, A, Ino(13), Shared);
    assert!(result.is_ok());
    assert_eq!(actions.recalls, [recall(A, 1, Ino(1), None), recall(A, 2, Ino(2), None)]);
    for n in 14..16 {
        assert!(t.grant(0, A, Ino(n), Shared).0.is_ok());
    }
    assert_eq!(t.grant(0, A, Ino(16), Shared).0, Err(Refusal::Full));
    assert_eq!(t.ack(A, 1).0, Some(Ino(1)));
    assert!(t.grant(0, A, Ino(16), Shared).0.is_ok());
    assert_eq!(t.len(), 16);
}
