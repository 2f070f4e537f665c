//! What a client buffered under a lease: accepted as long as the lease did not break, and refused for good afterwards.

use crate::bench::{Bench, Client, Running, create, eventually};
use quarry_common::ids::Ino;
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Commit, Mutation, MutationReply, NewNode};
use quarry_common::wire::session::{LeaseId, LeaseMode, Losses, Push, Reply, Request};
use std::sync::Arc;
use std::time::Duration;

/// Longer than a lease lasts at the NameNode.
const LAPSE: Duration = LEASE_TERM.saturating_add(Duration::from_millis(500));

/// A file that was just made and opened, under an exclusive lease.
async fn made(client: &Client, name: &str) -> LeaseId {
    let mutation = create(name, NewNode::File { open: true });
    let response = client.respond(Request::Mutate { slot: 9, sequence: 1, mutation }).await;
    let [grant] = response.leases[..] else { panic!("{response:?}") };
    assert_eq!(grant.mode, LeaseMode::Exclusive);
    LeaseId { ino: grant.ino, generation: grant.generation }
}

/// Brings a buffered size in.
fn commit(lease: LeaseId, size: u64) -> Mutation {
    Mutation::Commit(Commit {
        ino: lease.ino,
        chunks: vec![],
        windows: vec![],
        size_at_least: size,
        mtime: None,
        kill_suidgid: false,
        lease: Some(lease.generation),
    })
}

async fn size_of(client: &Client, ino: Ino) -> u64 {
    client.attr(ino).await.unwrap().size
}

async fn renew(client: &Client, acknowledged: u64) -> Losses {
    match client.ask(Request::Renew { acknowledged }).await.unwrap() {
        Reply::Renewed(losses) => losses,
        other => panic!("{other:?}"),
    }
}

/// The client's session on a new connection.
async fn resume(
    bench: &Bench,
    running: &Running,
    old: &Client,
    id: &str,
    leases: &[LeaseId],
) -> (Client, Losses) {
    let client = bench.connect(running, id).await;
    client.pushes.be_silent();
    let leases = leases.to_vec();
    let request = Request::ResumeSession { session: old.session, open: vec![], locks: vec![], leases };
    match client.ask(request).await.unwrap() {
        Reply::Session { losses, .. } => (Client { session: old.session, ..client }, losses),
        other => panic!("{other:?}"),
    }
}

async fn two(bench: &mut Bench) -> (Running, Client, Client) {
    let running = bench.start().await;
    let (a, b) = (bench.client(&running, "a").await, bench.client(&running, "b").await);
    a.pushes.be_silent();
    b.pushes.be_silent();
    (running, a, b)
}

#[tokio::test]
async fn a_lapse_without_a_conflict_costs_nothing() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let lease = made(&a, "x").await;
    tokio::time::sleep(LAPSE).await;
    assert_eq!(renew(&a, 0).await, Losses::default());
    assert!(a.mutate(0, commit(lease, 7)).await.is_ok());
    a.drop_connection();
    tokio::time::sleep(LAPSE).await;
    let (a, losses) = resume(&bench, &running, &a, "a", &[lease]).await;
    assert_eq!(losses, Losses::default());
    assert!(a.mutate(1, commit(lease, 8)).await.is_ok());
    // It is still held: others have it recalled before they see the file.
    let looked = tokio::spawn(async move { size_of(&b, lease.ino).await });
    let recall = |push: &Push| matches!(push, Push::Recall { ino, .. } if *ino == lease.ino);
    eventually("it is recalled", async || a.pushes.all().iter().any(recall)).await;
    assert!(a.mutate(1, commit(lease, 9)).await.is_ok());
    let Some(Push::Recall { number, .. }) = a.pushes.all().into_iter().find(recall) else { panic!() };
    a.ask(Request::RecallDone { recalls: vec![(number, true)] }).await.unwrap();
    assert_eq!(looked.await.unwrap(), 9);
    running.stop().await;
}

#[tokio::test]
async fn what_was_buffered_under_a_broken_lease_is_refused_for_good() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let lease = made(&a, "x").await;
    // Waits for the end of the term: the holder is silent.
    assert_eq!(size_of(&b, lease.ino).await, 0);
    let refused = Err(ServiceError::Fenced);
    let request = Request::Mutate { slot: 0, sequence: 1, mutation: commit(lease, 7) };
    assert_eq!(a.ask(request.clone()).await, refused);
    assert_eq!(a.ask(request).await, refused, "a retry");
    let told = |push: &Push| matches!(push, Push::Lost(losses) if losses.leases == [lease]);
    assert!(a.pushes.all().iter().any(told), "before the first later answer");
    assert_eq!(renew(&a, 0).await.leases, [lease]);
    running.stop().await;

    let running = bench.start().await;
    let (a, losses) = resume(&bench, &running, &a, "a", &[lease]).await;
    assert_eq!(losses.leases, [lease]);
    let (b, _) = resume(&bench, &running, &b, "b", &[]).await;
    let again = Request::Mutate { slot: 0, sequence: 2, mutation: commit(lease, 7) };
    assert_eq!(a.ask(again).await, refused);
    assert_eq!(renew(&a, losses.number).await.leases, []);
    assert_eq!(size_of(&b, lease.ino).await, 0);
    // The right can be had anew, with nothing of the old one.
    b.ask(Request::ReturnLeases { inos: vec![(lease.ino, false)] }).await.unwrap();
    let granted = a.respond(Request::Lease { ino: lease.ino }).await.leases;
    assert!(granted.iter().all(|grant| grant.generation > lease.generation) && !granted.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn who_is_bringing_in_keeps_the_lease_beyond_its_term() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let lease = made(&a, "x").await;
    let b = Arc::new(b);
    let looked = {
        let b = b.clone();
        tokio::spawn(async move { b.lookup("x").await.unwrap().size })
    };
    let recall = |push: &Push| matches!(push, Push::Recall { ino, .. } if *ino == lease.ino);
    eventually("it is recalled", async || a.pushes.all().iter().any(recall)).await;
    let until = std::time::Instant::now() + LEASE_TERM * 3 / 2;
    while std::time::Instant::now() < until {
        a.ask(Request::BringingIn { ino: lease.ino }).await.unwrap();
        tokio::time::sleep(LEASE_TERM / 4).await;
    }
    assert!(!looked.is_finished());
    assert!(a.mutate(0, commit(lease, 7)).await.is_ok());
    let Some(Push::Recall { number, .. }) = a.pushes.all().into_iter().find(recall) else { panic!() };
    a.ask(Request::RecallDone { recalls: vec![(number, true)] }).await.unwrap();
    assert_eq!(looked.await.unwrap(), 7);
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_nobody_looks_before_buffered_changes_are_in() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let lease = made(&a, "x").await;
    running.stop().await;
    let running = bench.start().await;
    let (b, _) = resume(&bench, &running, &b, "b", &[]).await;
    let b = Arc::new(b);
    let looked = {
        let b = b.clone();
        tokio::spawn(async move { b.lookup("x").await.unwrap().size })
    };
    let (a, losses) = resume(&bench, &running, &a, "a", &[lease]).await;
    assert_eq!(losses.leases, []);
    let recall = |push: &Push| matches!(push, Push::Recall { ino, .. } if *ino == lease.ino);
    eventually("it is recalled", async || a.pushes.all().iter().any(recall)).await;
    assert!(a.mutate(0, commit(lease, 7)).await.is_ok());
    assert!(!looked.is_finished());
    let Some(Push::Recall { number, .. }) = a.pushes.all().into_iter().find(recall) else { panic!() };
    a.ask(Request::RecallDone { recalls: vec![(number, true)] }).await.unwrap();
    assert_eq!(looked.await.unwrap(), 7);
    running.stop().await;
}

#[tokio::test]
async fn a_session_that_does_not_come_back_in_time_after_a_restart_is_fenced() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let lease = made(&a, "x").await;
    running.stop().await;
    let running = bench.start().await;
    let (b, _) = resume(&bench, &running, &b, "b", &[]).await;
    assert_eq!(size_of(&b, lease.ino).await, 0);
    let (a, losses) = resume(&bench, &running, &a, "a", &[lease]).await;
    assert!(losses.below > lease.generation, "{losses:?}");
    assert_eq!(a.mutate(0, commit(lease, 7)).await, Err(ServiceError::Fenced));
    // A program that waits for its write rests on no lease.
    let through = match commit(lease, 3) {
        Mutation::Commit(commit) => Mutation::Commit(Commit { lease: None, ..commit }),
        _ => unreachable!("a commit"),
    };
    assert!(matches!(a.mutate(0, through).await, Ok(MutationReply::Committed { .. })));
    running.stop().await;
}
