//! Locks between sessions.

use crate::bench::{Bench, Client, eventually, file, write_lock};
use quarry_common::ids::Ino;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::session::{Lock, LockKind, Reply, Request};
use std::sync::Arc;
use std::time::Duration;

/// Two clients and a file on which the first has a lock.
async fn two(bench: &Bench, running: &crate::bench::Running) -> (Client, Arc<Client>, Ino) {
    let (a, b) = (bench.client(running, "a").await, bench.client(running, "b").await);
    let ino = a.attr_of(file("x")).await.ino;
    a.ask(Request::Open { ino }).await.unwrap();
    assert_eq!(a.lock(ino, write_lock(1), false).await, Ok(Reply::Done));
    (a, Arc::new(b), ino)
}

fn wait_for_lock(client: &Arc<Client>, ino: Ino) -> tokio::task::JoinHandle<Result<Reply, ServiceError>> {
    let client = client.clone();
    tokio::spawn(async move { client.lock(ino, write_lock(7), true).await })
}

#[tokio::test]
async fn a_lock_goes_from_one_session_to_the_next() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (a, b, ino) = two(&bench, &running).await;
    assert_eq!(b.lock(ino, write_lock(7), false).await, Err(FsError::WouldBlock.into()));
    let test = b.ask(Request::TestLock { ino, lock: write_lock(7) }).await.unwrap();
    assert!(matches!(test, Reply::Lock(Some(Lock { kind: LockKind::Write, .. }))), "{test:?}");
    let waiting = wait_for_lock(&b, ino);
    let unlock = Lock { kind: LockKind::Unlock, ..write_lock(1) };
    a.lock(ino, unlock, false).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(Reply::Done));
    assert_eq!(a.lock(ino, write_lock(1), false).await, Err(FsError::WouldBlock.into()));
    // The last close frees as well.
    b.ask(Request::Close { inos: vec![ino] }).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn waiting_can_be_interrupted() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (_a, b, ino) = two(&bench, &running).await;
    let waiting = wait_for_lock(&b, ino);
    eventually("it waits or is interrupted", async || {
        b.ask(Request::CancelLock { ino, owner: 7 }).await.unwrap();
        waiting.is_finished()
    })
    .await;
    assert_eq!(waiting.await.unwrap(), Err(FsError::Interrupted.into()));
    running.stop().await;
}

#[tokio::test]
async fn a_silent_session_loses_its_locks() {
    let mut bench = Bench::new();
    bench.config.session_ttl = Duration::from_secs(2);
    let running = bench.start().await;
    let (a, b, ino) = two(&bench, &running).await;
    let waiting = wait_for_lock(&b, ino);
    let renewing = {
        let b = b.clone();
        tokio::spawn(async move {
            loop {
                b.ask(Request::Renew { acknowledged: 0 }).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    a.drop_connection();
    assert_eq!(waiting.await.unwrap(), Ok(Reply::Done));
    renewing.abort();
    running.stop().await;
}
