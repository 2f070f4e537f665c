//! Leases: granted with answers, recalled before others' changes.

use crate::bench::{Bench, Client, Running, create, eventually, file, unlink};
use quarry_common::ids::Ino;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Mutation, MutationReply, NewNode, Query, QueryReply, SetAttr};
use quarry_common::wire::session::{LeaseGrant, LeaseMode, Push, Reply, Request};
use std::sync::Arc;

async fn two(bench: &mut Bench) -> (Running, Client, Arc<Client>) {
    let running = bench.start().await;
    let (a, b) = (bench.client(&running, "a").await, bench.client(&running, "b").await);
    a.pushes.be_silent();
    b.pushes.be_silent();
    (running, a, Arc::new(b))
}

async fn leases_of_lookup(client: &Client, name: &str) -> Vec<Ino> {
    let query = Query::Lookup { parent: Ino::ROOT, name: name.as_bytes().into() };
    let granted = client.respond(Request::Query(query)).await.leases;
    assert!(granted.iter().all(|LeaseGrant { mode, .. }| *mode == LeaseMode::Shared));
    granted.into_iter().map(|grant| grant.ino).collect()
}

/// Numbers and inodes of the recalls that came so far.
fn recalls(client: &Client) -> Vec<(u64, Ino)> {
    let recall = |push| match push {
        Push::Recall { number, ino, keep: None } => Some((number, ino)),
        _ => None,
    };
    client.pushes.all().into_iter().filter_map(recall).collect()
}

#[tokio::test]
async fn a_change_waits_until_nobody_else_caches_what_it_changes() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let ino = b.attr_of(file("x")).await.ino;
    assert_eq!(leases_of_lookup(&a, "x").await, [Ino::ROOT, ino]);
    assert_eq!(leases_of_lookup(&a, "absent").await, [Ino::ROOT]);
    let change = {
        let b = b.clone();
        tokio::spawn(async move { b.attr_of(unlink("x")).await })
    };
    eventually("both leases are recalled", async || recalls(&a).len() == 2).await;
    // Recalled, not answered: no change yet, and no new lease.
    assert!(a.lookup("x").await.is_ok());
    assert_eq!(leases_of_lookup(&a, "x").await, []);
    let acks = recalls(&a).into_iter().map(|(number, _)| (number, false)).collect();
    a.ask(Request::RecallDone { recalls: acks }).await.unwrap();
    assert_eq!(change.await.unwrap().nlink, 0);
    assert_eq!(a.lookup("x").await, Err(FsError::NotFound.into()));
    assert_eq!(leases_of_lookup(&a, "x").await, [Ino::ROOT]);
    // Its own changes recall nothing.
    a.attr_of(file("y")).await;
    assert_eq!(recalls(&a).len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_delays_others_for_a_term() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let ino = b.attr_of(file("x")).await.ino;
    assert!(leases_of_lookup(&a, "x").await.contains(&ino));
    assert_eq!(b.attr_of(unlink("x")).await.ino, ino);
    assert!(!recalls(&a).is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_file_open_under_a_lease_outlives_its_name() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let theirs = b.attr_of(file("x")).await.ino;
    let own = a.attr_of(create("y", NewNode::File { open: false })).await.ino;
    leases_of_lookup(&a, "x").await;
    // `own` is leased with the answer that made it; its maker removes it, with both open and the NameNode not told.
    let change = {
        let b = b.clone();
        tokio::spawn(async move { b.attr_of(unlink("x")).await })
    };
    let ack_all = async |open: bool| {
        let acks = recalls(&a).into_iter().map(|(number, _)| (number, open)).collect();
        a.ask(Request::RecallDone { recalls: acks }).await.unwrap();
    };
    eventually("the change goes on", async || {
        ack_all(true).await;
        change.is_finished()
    })
    .await;
    change.await.unwrap();
    a.attr_of(unlink("y")).await;
    eventually("its maker is asked", async || recalls(&a).iter().any(|(_, ino)| *ino == own)).await;
    ack_all(true).await;
    for ino in [theirs, own] {
        assert_eq!(a.attr(ino).await.unwrap().nlink, 0);
    }
    a.ask(Request::Close { inos: vec![theirs, own] }).await.unwrap();
    eventually("both are reaped", async || {
        ack_all(false).await;
        a.attr(theirs).await.is_err() && a.attr(own).await.is_err()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_unknown_leases_are_waited_out_or_given_up() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let ino = a.attr_of(file("x")).await.ino;
    leases_of_lookup(&a, "x").await;
    running.stop().await;
    let running = bench.start().await;
    let again = bench.connect(&running, "b").await;
    let resume = |session| Request::ResumeSession { session, open: vec![], locks: vec![], leases: vec![] };
    again.ask(resume(b.session)).await.unwrap();
    let again = Arc::new(again);
    let change = {
        let again = again.clone();
        tokio::spawn(async move {
            again.ask(Request::Mutate { slot: 1, sequence: 1, mutation: unlink("x") }).await
        })
    };
    // The first client comes back without leases: nothing is in the way any more.
    let a_again = bench.connect(&running, "a").await;
    a_again.ask(resume(a.session)).await.unwrap();
    assert!(change.await.unwrap().is_ok());
    let gone = a_again.attr(ino).await;
    assert!(matches!(gone, Ok(_) | Err(ServiceError::Fs(_))), "{gone:?}");
    running.stop().await;
}

#[tokio::test]
async fn what_a_writer_keeps_is_brought_in_before_others_see_the_file() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    // Whoever makes a file and opens it may keep what it writes.
    let made = a.respond(mutate(create("x", NewNode::File { open: true }))).await;
    let Ok(Reply::Mutation(MutationReply::Attr(attr))) = made.result else { panic!("{made:?}") };
    let ino = attr.ino;
    assert!(matches!(made.leases[..], [LeaseGrant { ino: of, mode: LeaseMode::Exclusive, .. }] if of == ino));
    let ask = {
        let b = b.clone();
        tokio::spawn(async move { b.lookup("x").await })
    };
    let recall = |keep| move |push: &Push| matches!(push, Push::Recall { ino: of, keep: k, .. } if *of == ino && *k == keep);
    eventually("it is recalled", async || a.pushes.all().iter().any(recall(Some(LeaseMode::Shared)))).await;
    // What it kept is committed meanwhile.
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    a.attr_of(Mutation::SetAttr { ino, set, keep_sgid: true }).await;
    assert!(!ask.is_finished());
    ack(&a, ino).await;
    assert_eq!(ask.await.unwrap().unwrap().mode & 0o777, 0o600);

    // The other one asks for the same right: shared leases go first.
    let want = {
        let b = b.clone();
        tokio::spawn(async move { b.respond(Request::Lease { ino }).await })
    };
    eventually("the rest is recalled", async || a.pushes.all().iter().any(recall(None))).await;
    assert!(!want.is_finished());
    ack(&a, ino).await;
    let got = want.await.unwrap();
    assert!(matches!(got.leases[..], [LeaseGrant { ino: of, mode: LeaseMode::Exclusive, .. }] if of == ino));
    assert!(got.leases[0].generation > made.leases[0].generation);
    // Listings do not wait: they leave out what is not known.
    let list = Query::ReadDir { ino: Ino::ROOT, after: 0, limit: 10, plus: true };
    let QueryReply::Entries { entries, .. } = a.query(list).await.unwrap() else { panic!() };
    assert_eq!(entries.iter().map(|e| e.attr.is_some()).collect::<Vec<_>>(), [false]);
    running.stop().await;
}

fn mutate(mutation: Mutation) -> Request {
    Request::Mutate { slot: 9, sequence: 1, mutation }
}

/// Acknowledges all recalls of an inode, with the inode open.
async fn ack(client: &Client, ino: Ino) {
    let number = |push| match push {
        Push::Recall { number, ino: of, .. } if of == ino => Some((number, true)),
        _ => None,
    };
    let recalls = client.pushes.all().into_iter().filter_map(number).collect();
    client.ask(Request::RecallDone { recalls }).await.unwrap();
}

#[tokio::test]
async fn who_lives_and_never_answers_gets_no_lease_for_a_while_and_is_then_evicted() {
    let mut bench = Bench::new();
    let (running, a, b) = two(&mut bench).await;
    let a = Arc::new(a);
    let mut inos = Vec::new();
    for name in ["x0", "x1", "x2", "y"] {
        inos.push(b.attr_of(file(name)).await.ino);
    }
    for (name, ino) in ["x0", "x1", "x2"].iter().zip(&inos) {
        assert!(leases_of_lookup(&a, name).await.contains(ino));
    }
    let living = {
        let a = a.clone();
        tokio::spawn(async move {
            while a.ask(Request::Renew { acknowledged: 0 }).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        })
    };
    for (missed, ino) in inos[..3].iter().enumerate() {
        assert!(!living.is_finished(), "evicted after {missed}");
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        b.attr_of(Mutation::SetAttr { ino: *ino, set, keep_sgid: true }).await;
        if missed < 2 {
            assert_eq!(leases_of_lookup(&a, "y").await, [], "it would delay others again");
        }
    }
    eventually("it is evicted", async || living.is_finished()).await;
    assert_eq!(a.ask(Request::Renew { acknowledged: 0 }).await, Err(ServiceError::SessionExpired));
    running.stop().await;
}
