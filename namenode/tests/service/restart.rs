//! What outlives the process.

use crate::bench::{Bench, create, eventually, file, unlink, write_lock};
use quarry_common::wire::cluster::FsckOptions;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::NewNode;
use quarry_common::wire::session::{Reply, Request};
use std::time::Duration;

#[tokio::test]
async fn everything_that_was_answered_is_there_after_a_restart() {
    let bench = Bench::new();
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let mut made = Vec::new();
    for n in 0..300 {
        made.push(client.attr_of(file(&format!("f{n}"))).await);
    }
    running.stop().await;

    let running = bench.start().await;
    let again = bench.connect(&running, "a").await;
    let resume =
        Request::ResumeSession { session: client.session, open: vec![], locks: vec![], leases: vec![] };
    assert!(matches!(again.ask(resume).await, Ok(Reply::Session { .. })));
    for (n, attr) in made.iter().enumerate() {
        assert_eq!(again.lookup(&format!("f{n}")).await.as_ref(), Ok(attr));
    }
    // The last request again: its answer was kept.
    let retry = Request::Mutate { slot: 0, sequence: 300, mutation: file("f299") };
    let answer = again.ask(retry).await.unwrap();
    assert!(
        matches!(answer, Reply::Mutation(quarry_common::wire::fs::MutationReply::Attr(a)) if Some(&a) == made.last())
    );
    check(&again).await;
    running.stop().await;
}

/// The online check finds nothing.
async fn check(client: &crate::bench::Client) {
    let start = client.ask(Request::FsckStart(FsckOptions::default())).await.unwrap();
    let Reply::Fsck(start) = start else { panic!("{start:?}") };
    eventually("the check ends", async || {
        match client.ask(Request::FsckPoll { run: start.run }).await.unwrap() {
            Reply::Fsck(progress) => {
                assert_eq!(progress.problems, []);
                progress.done
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn open_files_and_locks_are_kept_for_those_who_come_back() {
    let mut bench = Bench::new();
    bench.config.session_ttl = Duration::from_secs(3);
    let running = bench.start().await;
    let (a, b) = (bench.client(&running, "a").await, bench.client(&running, "b").await);
    let orphan = a.attr_of(create("x", NewNode::File { open: true })).await.ino;
    let locked = a.attr_of(file("y")).await.ino;
    a.attr_of(unlink("x")).await;
    a.lock(locked, write_lock(1), false).await.unwrap();
    running.stop().await;

    let running = bench.start().await;
    let b_again = bench.connect(&running, "b").await;
    let resume = Request::ResumeSession { session: b.session, open: vec![], locks: vec![], leases: vec![] };
    b_again.ask(resume).await.unwrap();
    let early = b_again.lock(locked, write_lock(2), false).await;
    assert!(matches!(early, Err(ServiceError::Unavailable(_))), "nobody knows yet: {early:?}");
    let a_again = bench.connect(&running, "a").await;
    let resume = Request::ResumeSession {
        session: a.session,
        open: vec![orphan],
        locks: vec![(locked, write_lock(1))],
        leases: vec![],
    };
    a_again.ask(resume).await.unwrap();
    assert_eq!(b_again.lock(locked, write_lock(2), false).await, Err(FsError::WouldBlock.into()));
    assert!(a_again.attr(orphan).await.is_ok());
    // Now its client stays away.
    a_again.drop_connection();
    eventually("the lock is free", async || b_again.lock(locked, write_lock(2), false).await.is_ok()).await;
    eventually("the orphan is gone", async || b_again.attr(orphan).await.is_err()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_directory_is_for_one_process_of_one_cluster() {
    let mut bench = Bench::new();
    let running = bench.start().await;
    let error = bench.try_start().await.err().unwrap();
    assert!(error.contains("in use by another NameNode process"), "{error}");
    let (dir, port) = (bench.config.dir.clone(), bench.config.listen);
    bench.config.dir = dir.with_file_name("other");
    bench.config.listen = running.address;
    let error = bench.try_start().await.err().unwrap();
    assert!(error.contains("cannot listen on"), "{error}");
    running.stop().await;
    (bench.config.dir, bench.config.listen) = (dir, port);
    bench.config.cluster = "elsewhere".into();
    let error = bench.try_start().await.err().unwrap();
    assert!(error.contains("belongs to cluster `bench`"), "{error}");
}
