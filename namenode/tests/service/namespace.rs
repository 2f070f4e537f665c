//! A NameNode's folder that is empty, old, or another file system's.

use crate::bench::Bench;
use quarry_common::ids::{NamespaceId, PgId};
use quarry_common::wire::cluster::{Holdings, NamespaceStamp, NodeReply};
use quarry_common::wire::error::ServiceError;

/// The stamp that a DataNode was told, and its registration.
fn told(reply: Result<NodeReply, ServiceError>) -> NamespaceStamp {
    match reply {
        Ok(NodeReply::Registered { stamp, .. }) => stamp,
        other => panic!("not registered: {other:?}"),
    }
}

fn seen(stamp: NamespaceStamp) -> Holdings {
    Holdings { stamp: Some(stamp), next: Vec::new() }
}

#[tokio::test]
async fn an_empty_folder_never_becomes_a_file_system_by_itself() {
    let bench = Bench::new();
    std::fs::create_dir(&bench.config.dir).unwrap();
    let error = bench.try_start().await.err().unwrap();
    assert!(error.contains("holds no file system") && error.contains("mount it"), "{error}");
    assert_eq!(std::fs::read_dir(&bench.config.dir).unwrap().count(), 0);
}

#[tokio::test]
async fn a_folder_that_lost_its_database_or_its_log_is_refused() {
    let bench = Bench::new();
    let running = bench.start().await;
    drop(bench.client(&running, "a").await);
    running.stop().await;
    let log = bench.config.dir.join("log");
    std::fs::rename(&log, bench.config.dir.join("away")).unwrap();
    assert!(bench.try_start().await.is_err(), "without the log");
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(bench.config.dir.join("away"), &log).unwrap();
    std::fs::rename(bench.config.dir.join("meta.redb"), bench.config.dir.join("away.redb")).unwrap();
    assert!(bench.try_start().await.is_err(), "without the database");
    assert!(!bench.config.dir.join("meta.redb").exists(), "no new one is made");
    std::fs::rename(bench.config.dir.join("away.redb"), bench.config.dir.join("meta.redb")).unwrap();
    bench.start().await.stop().await;
}

#[tokio::test]
async fn a_datanode_of_another_file_system_is_refused() {
    let bench = Bench::new();
    let running = bench.start().await;
    let other = NamespaceStamp { namespace: NamespaceId(5), generation: 1, position: 1 };
    let (_, reply) = bench.register(&running, 1, seen(other)).await;
    let why = reply.unwrap_err().to_string();
    assert!(why.contains("another file system") || why.contains("belongs to the file system"), "{why}");
    let (_, reply) = bench.register(&running, 2, Holdings::default()).await;
    told(reply);
    running.stop().await;
}

#[tokio::test]
async fn an_old_copy_of_the_folder_refuses_to_serve() {
    let bench = Bench::new();
    let running = bench.start().await;
    let stamp = told(bench.register(&running, 1, Holdings::default()).await.1);
    running.stop().await;
    let later = NamespaceStamp { position: stamp.position + 1000, ..stamp };
    let unknown_chunk = Holdings { stamp: Some(stamp), next: vec![(PgId(900), 7)] };
    for holdings in [seen(later), unknown_chunk] {
        let running = bench.start().await;
        let (_, reply) = bench.register(&running, 1, holdings).await;
        assert!(reply.is_err());
        let why = running.ended().await;
        assert!(why.contains("old copy") && why.contains("quarry meta restore"), "{why}");
    }
    let running = bench.start().await;
    told(bench.register(&running, 1, seen(stamp)).await.1);
    running.stop().await;
}
