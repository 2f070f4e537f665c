//! Sessions, retries, and who may ask what.

use crate::bench::{Bench, DEADLINE, create, dial, eventually, file, unlink};
use quarry_common::ids::Ino;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{NewNode, QueryReply};
use quarry_common::wire::session::{ClientInfo, Fate, Push, Reply, Request, Response};
use quarry_net::identity::Role;
use quarry_net::rpc::{Observer, RpcClient, SessionProtocol};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let bench = Bench::new();
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let request = Request::Mutate { slot: 3, sequence: 1, mutation: file("x") };
    let first = client.ask(request.clone()).await.unwrap();
    assert_eq!(client.ask(request).await.unwrap(), first);
    let again = Request::Mutate { slot: 3, sequence: 2, mutation: file("x") };
    assert_eq!(client.ask(again).await, Err(FsError::Exists.into()));
    let Reply::Mutation(quarry_common::wire::fs::MutationReply::Attr(made)) = first else {
        panic!("{first:?}")
    };
    assert_eq!(client.lookup("x").await.unwrap(), made);
    assert_eq!(client.lookup("y").await, Err(FsError::NotFound.into()));
    running.stop().await;
}

#[tokio::test]
async fn many_requests_at_once() {
    let bench = Bench::new();
    let running = bench.start().await;
    let client = Arc::new(bench.client(&running, "a").await);
    let tasks: Vec<_> = (0..64u16)
        .map(|slot| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    client.mutate(slot, file(&format!("{slot}-{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let status = client.status().await;
    assert_eq!(status.files, 64 * 20);
    assert_eq!(status.sessions.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn without_a_session_there_is_only_the_status() {
    let bench = Bench::new();
    let running = bench.start().await;
    let client = bench.connect(&running, "a").await;
    assert_eq!(client.lookup("x").await, Err(ServiceError::SessionExpired));
    assert_eq!(client.ask(Request::Renew { acknowledged: 0 }).await, Err(ServiceError::SessionExpired));
    assert_eq!(client.status().await.cluster, "bench");
    running.stop().await;
}

#[tokio::test]
async fn only_its_own_client_resumes_a_session() {
    let bench = Bench::new();
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let resume =
        Request::ResumeSession { session: client.session, open: vec![], locks: vec![], leases: vec![] };
    let foreign = bench.connect(&running, "b").await;
    let refused = foreign.ask(resume.clone()).await;
    assert!(matches!(refused, Err(ServiceError::Unauthorised(_))), "{refused:?}");
    let other = bench.connect(&running, "a").await;
    assert!(matches!(other.ask(resume.clone()).await, Ok(Reply::Session { .. })));
    // The session has moved: the first connection is closed.
    client.rpc.closed().await;
    other.attr_of(file("x")).await;
    assert_eq!(other.ask(Request::CloseSession).await, Ok(Reply::Done));
    assert_eq!(other.ask(resume).await, Err(ServiceError::SessionExpired));
    running.stop().await;
}

#[tokio::test]
async fn an_open_file_outlives_its_name_until_the_session_expires() {
    let mut bench = Bench::new();
    bench.config.session_ttl = Duration::from_secs(2);
    let running = bench.start().await;
    let (holder, other) = (bench.client(&running, "a").await, bench.client(&running, "b").await);
    let ino = holder.attr_of(create("x", NewNode::File { open: true })).await.ino;
    let closed = other.attr_of(file("y")).await.ino;
    other.attr_of(unlink("x")).await;
    other.attr_of(unlink("y")).await;
    eventually("a closed one is reaped", async || {
        other.attr(closed).await == Err(FsError::Stale.into())
            || other.attr(closed).await == Err(FsError::NotFound.into())
    })
    .await;
    assert_eq!(holder.attr(ino).await.unwrap().nlink, 0);
    holder.drop_connection();
    eventually("the open one is reaped", async || other.attr(ino).await.is_err()).await;
    assert!(matches!(other.ask(Request::Open { ino }).await, Err(ServiceError::Fs(FsError::Stale))));
    assert_eq!(other.status().await.sessions.len(), 1);
    let resume =
        Request::ResumeSession { session: holder.session, open: vec![], locks: vec![], leases: vec![] };
    let late = bench.connect(&running, "a").await;
    assert_eq!(late.ask(resume).await, Err(ServiceError::SessionExpired));
    running.stop().await;
}

#[tokio::test]
async fn closing_frees_at_once() {
    let bench = Bench::new();
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let ino = client.attr_of(create("x", NewNode::File { open: true })).await.ino;
    client.attr_of(unlink("x")).await;
    assert!(client.attr(ino).await.is_ok());
    client.ask(Request::Close { inos: vec![ino] }).await.unwrap();
    eventually("it is reaped", async || client.attr(ino).await.is_err()).await;
    let statfs = client.query(quarry_common::wire::fs::Query::StatFs).await.unwrap();
    assert!(matches!(statfs, QueryReply::StatFs(s) if s.inodes == 1), "{statfs:?}");
    assert!(client.attr(Ino::ROOT).await.is_ok());
    running.stop().await;
}

struct Ignore;

impl Observer<SessionProtocol> for Ignore {
    fn response(&self, _: &Response, _: Instant) {}
    fn push(&self, _: Push) {}
}

#[tokio::test]
async fn a_datanode_is_no_client_and_a_namenode_has_nothing_to_ask() {
    let bench = Bench::new();
    let running = bench.start().await;
    for (role, id) in [(Role::DataNode, "9"), (Role::NameNode, "2")] {
        let connection = dial(&bench.transport(role, id), &running).await;
        let started = RpcClient::<SessionProtocol>::start(connection.clone(), Arc::new(Ignore)).await;
        assert!(started.is_err(), "{role} was served");
    }
    let gateway = dial(&bench.transport(Role::Gateway, "web"), &running).await;
    let gateway = RpcClient::<SessionProtocol>::start(gateway, Arc::new(Ignore)).await.unwrap();
    assert!(gateway.call(Request::ClusterStatus, DEADLINE).await.unwrap().result.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn one_certificate_has_so_many_sessions_and_others_get_theirs() {
    const SESSIONS: usize = 256;
    let bench = Bench::new();
    let running = bench.start().await;
    for _ in 0..SESSIONS {
        // A client that dies at once: its session lives on until it expires.
        bench.client(&running, "greedy").await.drop_connection();
    }
    let one_more = bench.connect(&running, "greedy").await;
    let answer = one_more.ask(Request::OpenSession(ClientInfo::default())).await;
    assert!(matches!(answer, Err(ServiceError::Unavailable(_))), "{answer:?}");
    let other = bench.client(&running, "modest").await;
    assert_eq!(other.status().await.sessions.len(), SESSIONS + 1);
    running.stop().await;
}

#[tokio::test]
async fn what_an_expired_session_did_can_be_asked_for_also_after_a_restart() {
    let mut bench = Bench::new();
    bench.config.session_ttl = Duration::from_secs(2);
    let running = bench.start().await;
    let old = bench.client(&running, "a").await;
    let first = old.mutate(3, file("x")).await;
    assert!(first.is_ok());
    let fate = |sequence| Request::Fate { session: old.session, slot: 3, sequence };
    let new = bench.client(&running, "a").await;
    assert!(matches!(new.ask(fate(1)).await, Err(ServiceError::BadRequest(_))), "it lives");
    old.drop_connection();
    eventually("it expires", async || new.ask(fate(1)).await.is_ok()).await;
    let check = async |client: &crate::bench::Client| {
        let answered = Reply::Fate(Fate::Answered(Box::new(first.clone())));
        assert_eq!(client.ask(fate(1)).await, Ok(answered));
        assert_eq!(client.ask(fate(2)).await, Ok(Reply::Fate(Fate::Never)));
    };
    check(&new).await;
    let foreign = bench.client(&running, "b").await;
    assert_eq!(foreign.ask(fate(1)).await, Ok(Reply::Fate(Fate::Unknown)));
    running.stop().await;
    let running = bench.start().await;
    check(&bench.client(&running, "a").await).await;
    running.stop().await;
}
