//! DataNodes, by their heartbeats only.

use crate::bench::{Bench, DEADLINE, eventually, file};
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::wire::cluster::{
    Holdings, MemberState, NodeReply, NodeRequest, NodeState, Placement, RegisterNode, Replication,
};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::session::{ChunkGrant, Push, Reply, Request};
use std::collections::BTreeSet;
use std::time::Duration;

async fn placement(client: &crate::bench::Client) -> Placement {
    match client.ask(Request::Placement).await.unwrap() {
        Reply::Placement(placement) => placement,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn silence_makes_suspect_then_dead_and_groups_follow() {
    let mut bench = Bench::new();
    bench.config.suspect_after = Duration::from_secs(1);
    bench.config.dead_after = Duration::from_secs(2);
    bench.config.default_replication = Replication::Factor(2);
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let _first = bench.node(&running, 1).await;
    let second = bench.node(&running, 2).await;
    eventually("groups of two", async || {
        let groups = placement(&client).await.groups;
        !groups.is_empty() && groups.iter().all(|g| g.serving().count() == 2)
    })
    .await;
    drop(second);
    eventually("suspect", async || client.state_of(2).await == Some(NodeState::Suspect)).await;
    eventually("dead", async || client.state_of(2).await == Some(NodeState::Dead)).await;
    eventually("the groups go on without it", async || {
        let groups = placement(&client).await.groups;
        groups.iter().all(|g| {
            g.serving().eq([NodeId(1)])
                && g.members.iter().any(|m| m.node == NodeId(2) && m.state == MemberState::Stale)
        })
    })
    .await;
    assert_eq!(client.state_of(1).await, Some(NodeState::Healthy));
    let version = placement(&client).await.version;
    let told = client.pushes.all().into_iter().filter_map(|push| match push {
        Push::PlacementChanged { version } => Some(version),
        Push::Recall { .. } | Push::Lost(_) | Push::Nameless(_) => None,
    });
    assert_eq!(told.max(), Some(version));
    let status = client.status().await;
    assert!(status.groups_degraded > 0 && status.groups_healthy == 0, "{status:?}");
    running.stop().await;
}

#[tokio::test]
async fn chunk_ids_are_granted_once() {
    let mut bench = Bench::new();
    bench.config.default_replication = Replication::Factor(1);
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let ino = client.attr_of(file("x")).await.ino;
    let alloc = |count| Request::AllocChunks { ino, count, avoid: vec![] };
    let none = client.ask(alloc(1)).await;
    assert!(matches!(none, Err(ServiceError::Unavailable(_))), "{none:?}");
    let node = bench.node(&running, 1).await;
    let mut seen = BTreeSet::new();
    eventually("grants", async || client.ask(alloc(1)).await.is_ok()).await;
    for _ in 0..100 {
        let Reply::Grants(grants) = client.ask(alloc(200)).await.unwrap() else { panic!("no grants") };
        for ChunkGrant { pg, first, count } in grants {
            for sequence in first.sequence()..first.sequence() + u64::from(count) {
                assert!(seen.insert(ChunkId::new(pg, sequence)), "twice");
            }
        }
    }
    node.fill_up();
    eventually("full", async || client.state_of(1).await == Some(NodeState::Full)).await;
    assert_eq!(client.ask(alloc(1)).await, Err(FsError::NoSpace.into()));
    running.stop().await;

    // What was handed out before a restart is not handed out again.
    let running = bench.start().await;
    let client = bench.client(&running, "a").await;
    let _node = bench.node(&running, 1).await;
    eventually("grants", async || match client.ask(alloc(100)).await {
        Ok(Reply::Grants(grants)) => {
            assert!(grants.iter().all(|g| !seen.contains(&g.first)), "{grants:?}");
            true
        }
        _ => false,
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_registers_only_itself() {
    let bench = Bench::new();
    let running = bench.start().await;
    let node = bench.node(&running, 1).await;
    let register =
        RegisterNode { node: NodeId(2), address: "127.0.0.1:9".into(), rack: String::new(), store_id: 5 };
    let refused = node
        .rpc
        .call(NodeRequest::Register { node: register, holdings: Holdings::default() }, DEADLINE)
        .await
        .unwrap();
    assert!(matches!(refused, Err(ServiceError::Unauthorised(_))), "{refused:?}");
    let placement = node.rpc.call(NodeRequest::Placement, DEADLINE).await.unwrap().unwrap();
    assert!(matches!(placement, NodeReply::Placement(p) if p.nodes.len() == 1));
    let bad = node.rpc.call(NodeRequest::ReportBad(vec![ChunkId(5)]), DEADLINE).await.unwrap();
    assert_eq!(bad, Ok(NodeReply::Done));
    running.stop().await;
}
