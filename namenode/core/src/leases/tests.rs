use super::*;
use LeaseMode::{Exclusive, Shared};
use quarry_common::wire::session::{LOSSES_MAX, LeaseId, Losses};

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
        table.renew(0, session);
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

fn grant_of(table: &mut LeaseTable, now: u64, session: SessionId, ino: Ino, mode: LeaseMode) -> LeaseId {
    let granted = table.grant(now, session, ino, mode).0.expect("granted");
    assert_eq!((granted.ino, granted.mode), (ino, mode));
    LeaseId { ino, generation: granted.generation }
}

fn resume(table: &mut LeaseTable, now: u64, session: SessionId, reclaims: &[LeaseId]) -> Actions {
    table.resume(now, session, reclaims, (&[], LeaseGeneration(0)))
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
    t.renew(1_000, A);
    let (ticket, _) = acquire(&mut t, 1_500, B, FILE, Access::Write);
    assert_eq!(t.next_deadline(), Some(1_000 + END));
    // It lives but does not answer the recall: that must not take longer.
    t.renew(3_000, A);
    assert_eq!(t.tick(999 + END), Actions::default());
    let actions = t.tick(1_000 + END);
    assert_eq!((actions.ready, actions.broken), (vec![ticket], vec![(A, FILE)]));
    assert_eq!(t.next_deadline(), None);
}

#[test]
fn a_lapsed_lease_goes_on_with_the_next_request() {
    let mut t = table();
    let lease = grant_of(&mut t, 0, A, FILE, Exclusive);
    // Long after its term, and nobody has asked for the file.
    t.renew(9 * END, A);
    assert_eq!(t.losses(A), Losses::default());
    let (ticket, actions) = acquire(&mut t, 9 * END, B, FILE, Access::Read);
    assert_eq!((actions.recalls, actions.ready), (vec![recall(A, 1, FILE, Some(Shared))], vec![]));
    assert_eq!(t.ack(A, 1).1.ready, [ticket]);
    t.done(ticket);
    let again = grant_of(&mut t, 9 * END, A, FILE, Exclusive);
    assert!(again.generation > lease.generation, "it was shared meanwhile");
    assert_eq!(grant_of(&mut t, 9 * END, A, FILE, Exclusive), again);
}

#[test]
fn a_lapsed_exclusive_lease_breaks_durably_before_others_are_let_past() {
    let mut t = table();
    let lease = grant_of(&mut t, 0, A, FILE, Exclusive);
    t.renew(END, B);
    let (ticket, actions) = acquire(&mut t, END, B, FILE, Access::Write);
    let fence = Fence::Lease(lease);
    assert_eq!(actions, Actions { fences: vec![(A, fence)], losers: vec![A], ..Actions::default() });
    // Too late: neither a renewal nor a resumption revives it.
    t.renew(END, A);
    assert_eq!(resume(&mut t, END, A, &[lease]), Actions::default());
    assert_eq!(t.losses(A).leases, [lease]);
    let (second, actions) = acquire(&mut t, END, C, FILE, Access::Read);
    assert_eq!(actions, Actions::default());
    let actions = t.fenced(A, fence);
    assert_eq!((actions.ready, actions.broken), (vec![ticket, second], vec![(A, FILE)]));
    assert_eq!(grant(&mut t, END, A, FILE, Shared), Err(Refusal::Busy));
    t.done(ticket);
    let number = t.losses(A).number;
    assert_eq!(t.acknowledge(A, number - 1), []);
    assert_eq!(t.acknowledge(A, number), [lease]);
    assert_eq!(t.losses(A).leases, []);
    assert_eq!(grant(&mut t, END, A, FILE, Shared), Ok(()));
}

#[test]
fn a_shared_lease_breaks_at_once_and_is_told() {
    let mut t = table();
    let lease = grant_of(&mut t, 0, A, FILE, Shared);
    t.renew(END, B);
    let (ticket, actions) = acquire(&mut t, END, B, FILE, Access::Write);
    let broken =
        Actions { ready: vec![ticket], broken: vec![(A, FILE)], losers: vec![A], ..Actions::default() };
    assert_eq!(actions, broken);
    assert_eq!(t.losses(A).leases, [lease]);
}

#[test]
fn a_session_that_loses_too_much_loses_all_of_that_mode() {
    for mode in [Shared, Exclusive] {
        let mut t = table();
        let inos = (100..=100 + LOSSES_MAX as u64 + 5).map(Ino);
        let leases: Vec<_> = inos.map(|ino| grant_of(&mut t, 0, A, ino, mode)).collect();
        let other = if mode == Shared { Exclusive } else { Shared };
        let kept = grant_of(&mut t, 0, A, FILE, other);
        t.renew(END, B);
        let mut fences = Vec::new();
        for lease in &leases[..=LOSSES_MAX] {
            let (_, actions) = acquire(&mut t, END, B, lease.ino, Access::Write);
            fences.extend(actions.fences);
        }
        let losses = t.losses(A);
        let below = if mode == Shared { losses.shared_below } else { losses.below };
        assert!(losses.leases.is_empty() && below > leases[LOSSES_MAX + 5].generation);
        assert_eq!(fences.contains(&(A, Fence::Below(below))), mode == Exclusive);
        for (session, fence) in fences {
            let _ = t.fenced(session, fence);
        }
        assert_eq!(t.count(A), 1, "{kept:?} is of the other mode");
        t.renew(END, A);
        let _ = resume(&mut t, END, A, &[kept]);
        assert_eq!(t.losses(A).leases, []);
    }
}

#[test]
fn commits_under_a_recall_move_its_deadline_up_to_a_bound() {
    let mut t = table();
    grant_of(&mut t, 0, A, FILE, Exclusive);
    let (ticket, _) = acquire(&mut t, 0, B, FILE, Access::Read);
    assert_eq!(t.next_deadline(), Some(END));
    for now in [4_000, 8_000, 29_000] {
        t.renew(now, A);
        t.progress(now, A, FILE);
        let _ = t.tick(now);
    }
    assert_eq!(t.next_deadline(), Some(30_000));
    t.progress(29_500, A, DIR);
    assert!(!t.is_ready(ticket));
    assert_eq!(t.tick(30_000).fences.len(), 1);
}

#[test]
fn a_living_session_that_leaves_recalls_unacknowledged_gets_no_lease_and_then_no_stay() {
    let mut t = table();
    let mut now = 0;
    for miss in 1..=MISSES_MAX {
        for session in [A, B] {
            t.renew(now, session);
        }
        assert_eq!(grant(&mut t, now, A, FILE, Shared), Ok(()));
        assert_eq!(grant(&mut t, now, A, DIR, Shared), Ok(()));
        let (ticket, _) = t.acquire(now, B, &[(FILE, Access::Write), (DIR, Access::Write)]).expect("few");
        now += END;
        t.renew(now - 1, A);
        let actions = t.tick(now);
        assert_eq!(actions.ready, [ticket]);
        assert_eq!(
            actions.evicted,
            if miss == MISSES_MAX { vec![A] } else { vec![] },
            "two leases are one miss"
        );
        t.done(ticket);
        assert_eq!(grant(&mut t, now, A, FILE, Shared), Err(Refusal::Barred));
        now += BARRED_MS;
    }
    // One that was dead has missed nothing, and an acknowledgement makes up for misses.
    for session in [B, C] {
        t.renew(now, session);
    }
    assert_eq!(grant(&mut t, now, C, FILE, Shared), Ok(()));
    let (ticket, _) = acquire(&mut t, now, B, FILE, Access::Write);
    let _ = t.tick(now + END);
    t.done(ticket);
    t.renew(now + END, C);
    assert_eq!(grant(&mut t, now + END, C, FILE, Shared), Ok(()));
}

#[test]
fn a_fence_breaks_earlier_leases_on_its_inode_as_well() {
    let mut t = LeaseTable::new(LeaseConfig::default(), 0, 2, [A]);
    let [earlier, later] =
        [3, 4].map(|generation| LeaseId { ino: FILE, generation: LeaseGeneration(generation) });
    // The client has not heard of either loss when the NameNode starts anew.
    let _ = t.resume(1, A, &[earlier], (&[later], LeaseGeneration(0)));
    assert_eq!(t.count(A), 0);
    assert!(t.losses(A).leases.contains(&earlier), "it is told: {:?}", t.losses(A));
}

#[test]
fn a_write_of_a_barred_session_gets_its_lease_after_a_term() {
    let mut t = table();
    for session in [A, B] {
        t.renew(0, session);
    }
    assert_eq!(grant(&mut t, 0, A, FILE, Shared), Ok(()));
    let (ticket, _) = acquire(&mut t, 0, B, FILE, Access::Write);
    t.renew(END - 1, A);
    assert_eq!(t.tick(END).ready, [ticket]);
    t.done(ticket);
    for (now, write, answer) in [
        (END, Some(Refusal::Barred), Some(Refusal::Barred)),
        (END + WRITES_BARRED_MS, None, Some(Refusal::Barred)),
        (END + BARRED_MS, None, None),
    ] {
        t.renew(now, A);
        assert_eq!(grant(&mut t, now, A, DIR, Shared).err(), answer);
        let (queued, _) = t.acquire_queued(now, A, FILE).expect("few");
        assert_eq!(t.grant_queued(now, queued, FILE).0.err(), write);
        t.done(queued);
    }
}

#[test]
fn time_in_which_the_namenode_stood_still_counts_for_no_lease() {
    let mut t = table();
    grant_of(&mut t, 0, A, FILE, Exclusive);
    let (_, _) = acquire(&mut t, 0, B, FILE, Access::Read);
    t.forgive(8_000);
    assert_eq!(t.tick(8_001), Actions::default());
    assert_eq!(t.next_deadline(), Some(8_000 + END));
    assert_eq!(grant(&mut t, 8_001, B, DIR, Shared), Ok(()), "B was heard, had it been possible");
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
    assert_eq!(resume(&mut t, 1, B, &[]), Actions { ready: vec![ticket], ..Actions::default() });
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
fn a_resumed_session_keeps_what_it_reclaims() {
    let mut t = table();
    let (file, dir) = (grant_of(&mut t, 0, A, FILE, Exclusive), grant_of(&mut t, 0, A, DIR, Exclusive));
    grant_of(&mut t, 0, A, Ino(12), Shared);
    let (ticket, _) = acquire(&mut t, 0, B, FILE, Access::Read);
    // Pushed again: it may have been lost with the old connection.
    let actions = resume(&mut t, 1, A, &[file]);
    assert_eq!(actions, Actions { recalls: vec![recall(A, 1, FILE, Some(Shared))], ..Actions::default() });
    assert_eq!((t.count(A), t.losses(A)), (1, Losses::default()));
    assert_eq!(t.ack(A, 1).1.ready, [ticket]);
    // Given up before, and never had.
    let foreign = LeaseId { ino: Ino(99), generation: LeaseGeneration(5) };
    let _ = resume(&mut t, 1, A, &[dir, foreign]);
    assert_eq!(t.losses(A).leases, [dir, foreign]);
}

#[test]
fn sessions_from_before_the_start_are_waited_for_and_reclaim() {
    let mut before = table();
    let (of_a, of_b) =
        (grant_of(&mut before, 0, A, FILE, Exclusive), grant_of(&mut before, 0, B, DIR, Exclusive));
    let mut t = LeaseTable::new(LeaseConfig::default(), 0, 2, [A, B]);
    t.renew(0, C);
    let (read, actions) = acquire(&mut t, 0, C, FILE, Access::Read);
    assert_eq!(actions, Actions::default());
    assert!(t.must_acquire_to_read(C, Ino(77)));
    assert_eq!(grant(&mut t, 0, C, DIR, Shared), Err(Refusal::Starting));
    let actions = resume(&mut t, 1, A, &[of_a]);
    // The request that came before is in its way now.
    assert_eq!(actions, Actions { recalls: vec![recall(A, 1, FILE, Some(Shared))], ..Actions::default() });
    assert_eq!(t.losses(A), Losses::default());
    assert_eq!(t.holders(FILE).collect::<Vec<_>>(), [(A, Exclusive)]);
    t.renew(10, A);
    assert_eq!(t.next_deadline(), Some(END));
    assert_eq!(t.tick(END - 1), Actions::default());
    // B has not come back: its leases break durably before others are let past.
    t.progress(END - 1, A, FILE);
    let actions = t.tick(END);
    let fence = Fence::Below(LeaseGeneration((2 << GRANT_BITS) + 1));
    assert_eq!(actions, Actions { fences: vec![(B, fence)], ..Actions::default() });
    let _ = resume(&mut t, END, B, &[of_b]);
    assert_eq!(t.count(B), 0, "too late");
    assert!(t.losses(B).below > of_b.generation);
    assert!(!t.is_ready(read));
    assert_eq!(t.fenced(B, fence).ready, []);
    assert_eq!(t.ack(A, 1).1.ready, [read]);

    let mut t = LeaseTable::new(LeaseConfig::default(), 0, 2, [A]);
    let (of_c, _) = acquire(&mut t, 0, C, FILE, Access::Read);
    assert_eq!(t.end_session(A).ready, [of_c]);
}

#[test]
fn a_lease_that_was_fenced_before_the_start_is_not_given_back() {
    let lease = |ino, generation| LeaseId { ino, generation: LeaseGeneration(generation) };
    let mut t = LeaseTable::new(LeaseConfig::default(), 0, 2, [A]);
    let reclaims = [lease(FILE, 9), lease(DIR, 3), lease(Ino(12), 8)];
    let _ = t.resume(0, A, &reclaims, (&[reclaims[0], lease(Ino(50), 9)], LeaseGeneration(5)));
    assert_eq!(t.holders(Ino(12)).count(), 1);
    let losses = t.losses(A);
    assert_eq!((losses.leases, losses.below), (vec![reclaims[0], lease(Ino(50), 9)], LeaseGeneration(5)));
    assert_eq!(t.count(A), 1);
}

#[test]
fn the_oldest_leases_make_room() {
    let config = LeaseConfig { budget: 16, ..LeaseConfig::default() };
    let mut t = LeaseTable::new(config, 0, 1, []);
    t.renew(0, A);
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

#[test]
fn requests_for_the_lease_alone_are_served_in_their_order() {
    let mut t = table();
    let queue = |t: &mut LeaseTable, session| t.acquire_queued(0, session, FILE).expect("few tickets").0;
    let (of_a, of_b, of_c) = (queue(&mut t, A), queue(&mut t, B), queue(&mut t, C));
    assert_eq!(t.grant_queued(0, of_b, FILE).0, Err(Refusal::Busy), "A was first");
    let (granted, actions) = t.grant_queued(0, of_a, FILE);
    assert!(granted.is_ok());
    assert_eq!(actions.recalls, [recall(A, 1, FILE, None)]);
    assert!(!t.is_ready(of_a) && !t.is_ready(of_b) && !t.is_ready(of_c));
    assert_eq!(t.ack(A, 1).1.ready, [of_b, of_c]);
    let of_a = queue(&mut t, A);
    assert!(t.grant_queued(0, of_b, FILE).0.is_ok());
    assert_eq!(t.ack(B, 1).1.ready, [of_c, of_a]);
    assert!(t.grant_queued(0, of_c, FILE).0.is_ok());
    // A request that does more than that is never overtaken.
    assert_eq!(t.ack(C, 1).1.ready, [of_a]);
    let (change, _) = acquire(&mut t, 0, B, FILE, Access::Write);
    assert_eq!(t.grant_queued(0, of_a, FILE).0, Err(Refusal::Busy));
    t.done(change);
    assert!(t.grant_queued(0, of_a, FILE).0.is_ok());
}

#[test]
fn an_acknowledgement_after_the_break_still_tells_the_inode() {
    let mut t = table();
    let lease = grant_of(&mut t, 0, A, FILE, Exclusive);
    let _ = acquire(&mut t, 0, B, FILE, Access::Write);
    let _ = t.tick(END);
    let _ = t.fenced(A, Fence::Lease(lease));
    assert_eq!(t.ack(A, 1), (Some(FILE), Actions::default()));
    assert_eq!(t.ack(A, 1), (None, Actions::default()), "once");
}

#[test]
fn requests_are_bounded() {
    let mut t = table();
    let tickets: Vec<_> =
        (0..TICKETS_MAX as u64).map(|n| acquire(&mut t, 0, A, Ino(n), Access::Read).0).collect();
    assert!(matches!(t.acquire(0, A, &[(FILE, Access::Read)]), Err(Overloaded)));
    t.done(tickets[7]);
    assert!(t.acquire(0, A, &[(FILE, Access::Read)]).is_ok());
}

#[test]
fn a_breaking_lease_has_no_deadline_whatever_is_acknowledged() {
    let mut t = table();
    let lease = grant_of(&mut t, 0, A, FILE, Exclusive);
    let _ = acquire(&mut t, 0, B, FILE, Access::Read);
    let (change, _) = acquire(&mut t, 0, C, FILE, Access::Write);
    assert_eq!(t.tick(END).fences, [(A, Fence::Lease(lease))]);
    // The first of its two recalls, too late.
    let _ = t.ack(A, 1);
    assert_eq!(t.next_deadline(), None);
    assert_eq!(t.tick(2 * END), Actions::default());
    assert_eq!(t.fenced(A, Fence::Lease(lease)).ready, [change]);
}
