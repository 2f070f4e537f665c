//! The session against a fake NameNode: lost answers, lost connections, expiry, redirection.

use crate::file::OpenMode;
use crate::fs::FileSystem;
use crate::testing::{Fate, World};
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Caller, NewNode, Query};
use quarry_common::wire::session::{Lock, LockKind, Request};
use std::time::Duration;

const CALLER: Caller = Caller { uid: 0, gid: 0 };
const READ: OpenMode = OpenMode { read: true, write: false, append: false, direct: false, truncate: false };

async fn mkdir(fs: &FileSystem, name: &str) -> Result<Ino, FsError> {
    fs.create(Ino::ROOT, name.as_bytes(), NewNode::Dir, 0o755, 0, CALLER).await.map(|attr| attr.ino)
}

async fn create(fs: &FileSystem, name: &str) -> Ino {
    fs.create(Ino::ROOT, name.as_bytes(), NewNode::File { open: false }, 0o644, 0, CALLER).await.unwrap().ino
}

fn write_lock(owner: u64) -> Lock {
    Lock { owner, pid: 1, start: 0, end: 9, kind: LockKind::Write }
}

fn is_mutation(request: &Request) -> bool {
    matches!(request, Request::Mutate { .. })
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_gets_the_first_answer() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    world.namenode.once(is_mutation, Fate::LoseAnswer);
    let ino = mkdir(&fs, "d").await.unwrap();
    // A second execution would have been refused.
    assert_eq!(fs.lookup(Ino::ROOT, b"d").await.unwrap().ino, ino);
    let state = world.namenode.state();
    assert_eq!((state.count(is_mutation), state.mutations.len()), (2, 1));
    assert_eq!(state.count(|r| matches!(r, Request::ResumeSession { .. })), 1);
}

#[tokio::test]
async fn failures_are_answers_too() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    mkdir(&fs, "d").await.unwrap();
    world.namenode.once(is_mutation, Fate::LoseAnswer);
    assert_eq!(mkdir(&fs, "d").await, Err(FsError::Exists));
    mkdir(&fs, "e").await.unwrap();
    assert_eq!(world.namenode.state().mutations.len(), 3);
}

#[tokio::test]
async fn a_request_that_is_refused_before_the_state_machine_leaves_its_slot_usable() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    world.namenode.once(is_mutation, Fate::Fail(ServiceError::BadRequest("no".into())));
    assert_eq!(mkdir(&fs, "d").await, Err(FsError::Io));
    mkdir(&fs, "d").await.unwrap();
}

#[tokio::test]
async fn every_answer_of_the_state_machine_uses_up_a_number() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    for error in [ServiceError::BadRequest("no".into()), ServiceError::Fenced, ServiceError::WindowChanged] {
        world.namenode.once(is_mutation, Fate::Refuse(error));
        assert_eq!(mkdir(&fs, "refused").await, Err(FsError::Io));
    }
    // The slots are used in turn; none answers with what it answered before.
    for i in 0..200 {
        mkdir(&fs, &format!("d{i}")).await.unwrap();
    }
    assert_eq!(world.namenode.state().count(is_mutation), 203);
}

#[tokio::test]
async fn a_change_whose_session_ended_before_its_answer_is_made_once() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    for (i, carried_out) in [true, false].into_iter().enumerate() {
        let name = format!("d{i}");
        let mut first = true;
        world.namenode.judge(move |request| match request {
            Request::Mutate { .. } if std::mem::take(&mut first) => {
                if carried_out {
                    Fate::LoseAnswer
                } else {
                    Fate::Hold
                }
            }
            Request::ResumeSession { .. } => Fate::Fail(ServiceError::SessionExpired),
            _ => Fate::Normal,
        });
        let made = tokio::spawn({
            let (fs, name) = (fs.clone(), name.clone());
            async move { mkdir(&fs, &name).await }
        });
        world.namenode.until(|state| state.count(is_mutation) == i + 1).await;
        world.server.lose_connections();
        let ino = made.await.unwrap().unwrap();
        assert_eq!(fs.lookup(Ino::ROOT, name.as_bytes()).await.unwrap().ino, ino);
    }
    let state = world.namenode.state();
    assert_eq!(state.mutations.len(), 2, "each once");
    assert_eq!(state.count(|r| matches!(r, Request::Fate { .. })), 2);
}

#[tokio::test]
async fn a_change_of_which_nothing_is_known_any_more_is_an_error() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    world.namenode.once(is_mutation, Fate::Hold);
    let made = tokio::spawn({
        let fs = fs.clone();
        async move { mkdir(&fs, "d").await }
    });
    world.namenode.until(|state| state.count(is_mutation) == 1).await;
    world.namenode.expire_sessions();
    world.namenode.state().ended.clear();
    world.server.lose_connections();
    assert_eq!(made.await.unwrap(), Err(FsError::Io));
}

#[tokio::test]
async fn a_namenode_that_is_not_ready_is_asked_again() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    world.namenode.once(is_mutation, Fate::Fail(ServiceError::Unavailable("starting".into())));
    mkdir(&fs, "d").await.unwrap();
}

#[tokio::test]
async fn many_changes_at_once_survive_lost_connections() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    let mut n = 0;
    world.namenode.judge(move |request| {
        n += usize::from(is_mutation(request));
        if is_mutation(request) && n % 50 == 0 && n <= 250 { Fate::LoseAnswer } else { Fate::Normal }
    });
    let all: Vec<_> = (0..200)
        .map(|i| {
            let fs = fs.clone();
            tokio::spawn(async move { mkdir(&fs, &format!("d{i}")).await })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(world.namenode.state().mutations.len(), 200);
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_stop_the_change_and_its_slot_comes_back() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    world.namenode.judge(|request| if is_mutation(request) { Fate::Hold } else { Fate::Normal });
    for i in 0..70 {
        let name = format!("d{i}");
        let change = mkdir(&fs, &name);
        // 64 are on their way when no more slots are free; the others never begin.
        let _ = tokio::time::timeout(Duration::from_millis(5), change).await;
    }
    world.namenode.until(|state| state.count(is_mutation) == 64).await;
    world.namenode.release();
    mkdir(&fs, "last").await.unwrap();
    world.namenode.until(|state| state.mutations.len() == 65).await;
    assert!(fs.lookup(Ino::ROOT, b"d63").await.is_ok());
    assert_eq!(fs.lookup(Ino::ROOT, b"d64").await, Err(FsError::NotFound));
}

#[tokio::test]
async fn a_file_whose_creator_gave_up_is_closed() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    world.namenode.judge(|request| if is_mutation(request) { Fate::Hold } else { Fate::Normal });
    let made = fs.create_open(Ino::ROOT, b"f", 0o644, 0, CALLER, READ);
    assert!(tokio::time::timeout(Duration::from_millis(20), made).await.is_err());
    world.namenode.until(|state| state.count(is_mutation) == 1).await;
    world.namenode.release();
    world.namenode.until(|state| state.count(|r| matches!(r, Request::Close { .. })) == 1).await;
    assert!(world.namenode.open().is_empty());
}

#[tokio::test]
async fn a_session_is_resumed_with_what_it_has_open_and_locked() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    let (a, b) = (create(&fs, "a").await, create(&fs, "b").await);
    let file = fs.open(a, READ).await.unwrap();
    fs.open(b, READ).await.unwrap().release().await;
    world.namenode.until(|s| s.count(|r| matches!(r, Request::Close { .. })) == 1).await;
    fs.set_lock(a, write_lock(1), false).await.unwrap();
    world.namenode.forget_volatile();
    world.stop_namenode().await;
    let waiting = tokio::spawn({
        let fs = fs.clone();
        async move { fs.getattr(a).await }
    });
    world.server.restart().await;
    waiting.await.unwrap().unwrap();
    assert_eq!(world.namenode.open(), [a]);
    assert_eq!(world.namenode.locks(), [(a, write_lock(1))]);
    file.release().await;
    world.namenode.until(|s| s.count(|r| matches!(r, Request::Close { .. })) == 2).await;
    assert!(world.namenode.open().is_empty());
}

#[tokio::test]
async fn an_expired_session_is_replaced_and_its_files_are_opened_again() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    let (a, b) = (create(&fs, "a").await, create(&fs, "b").await);
    let (_file, _gone) = (fs.open(a, READ).await.unwrap(), fs.open(b, READ).await.unwrap());
    fs.set_lock(a, write_lock(1), false).await.unwrap();
    world.namenode.remove(b);
    world.namenode.expire_sessions();
    mkdir(&fs, "d").await.unwrap();
    assert_eq!(world.namenode.open(), [a]);
    assert!(world.namenode.locks().is_empty());
    assert_eq!(fs.getattr(b).await, Err(FsError::Stale));
    mkdir(&fs, "e").await.unwrap();
}

#[tokio::test]
async fn expiry_during_the_absence_of_the_cluster_is_found_at_the_resumption() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    mkdir(&fs, "d").await.unwrap();
    world.namenode.expire_sessions();
    world.server.lose_connections();
    mkdir(&fs, "e").await.unwrap();
    let state = world.namenode.state();
    let resumed = |r: &Request| matches!(r, Request::ResumeSession { session: SessionId(1), .. });
    assert_eq!((state.count(resumed), state.mutations.len()), (1, 2));
}

#[tokio::test]
async fn a_soft_mount_gives_up_and_a_hard_one_waits() {
    let world = World::new(0).await;
    let soft = world.mount_with(|c| c.soft_timeout = Some(Duration::from_millis(300))).await.unwrap();
    let hard = world.mount().await;
    world.stop_namenode().await;
    assert_eq!(soft.getattr(Ino::ROOT).await, Err(FsError::TimedOut));
    assert_eq!(mkdir(&soft, "d").await, Err(FsError::TimedOut));
    assert!(tokio::time::timeout(Duration::from_millis(100), hard.getattr(Ino::ROOT)).await.is_err());
    world.server.restart().await;
    hard.getattr(Ino::ROOT).await.unwrap();
    // What the soft mount gave up on was not stopped.
    world.namenode.until(|state| state.mutations.len() == 1).await;
}

#[tokio::test]
async fn a_namenode_that_does_not_lead_shows_the_way() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    // The same one by another name.
    let leader = format!("localhost:{}", world.server.address.port());
    let not_leader = ServiceError::NotLeader { leader: Some(leader) };
    world.namenode.once(|r| matches!(r, Request::Query(Query::StatFs)), Fate::Fail(not_leader));
    fs.statfs().await.unwrap();
    let state = world.namenode.state();
    assert_eq!(state.count(|r| matches!(r, Request::ResumeSession { .. })), 1);
}

#[tokio::test]
async fn a_lock_that_is_held_is_waited_for_and_a_wait_can_be_given_up() {
    let world = World::new(0).await;
    let (a, b) = (world.mount().await, world.mount().await);
    let ino = create(&a, "f").await;
    a.set_lock(ino, write_lock(1), true).await.unwrap();
    assert_eq!(b.set_lock(ino, write_lock(2), false).await, Err(FsError::WouldBlock));
    let wait = b.set_lock(ino, write_lock(2), true);
    assert!(tokio::time::timeout(Duration::from_millis(30), wait).await.is_err());
    world.namenode.until(|s| s.count(|r| matches!(r, Request::CancelLock { .. })) == 1).await;
    a.set_lock(ino, Lock { kind: LockKind::Unlock, ..write_lock(1) }, false).await.unwrap();
    // Granted to one who is gone, it is freed again.
    a.set_lock(ino, write_lock(1), true).await.unwrap();
}

#[tokio::test]
async fn shutting_down_ends_the_session() {
    let world = World::new(0).await;
    let fs = world.mount().await;
    create(&fs, "f").await;
    fs.shutdown().await;
    assert_eq!(world.namenode.state().count(|r| matches!(r, Request::CloseSession)), 1);
    assert_eq!(fs.getattr(Ino::ROOT).await, Err(FsError::Stale));
}

#[tokio::test]
async fn a_stranger_is_refused_at_once() {
    let (ours, theirs) = (World::new(0).await, World::new(0).await);
    let address = theirs.server.address.to_string();
    let error = ours.mount_with(|c| c.namenode = address).await.err().unwrap();
    assert!(matches!(error, crate::ClientError::Untrusted(_)), "{error}");
    let error = ours
        .mount_with(|c| {
            c.namenode = "127.0.0.1:1".into();
            c.soft_timeout = Some(Duration::from_millis(200));
        })
        .await;
    assert!(matches!(error.err(), Some(crate::ClientError::Away(_))));
}
