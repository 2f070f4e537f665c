//! Transfers against fake DataNodes: failing chains, slow and rotten replicas, full clusters.

use super::Transfer;
use super::placement::{PlacementCache, follow};
use crate::error::GetError;
use crate::session::{Events, LossNotice, Session};
use crate::testing::{Mood, World};
use crate::traits::ChunkIo;
use async_trait::async_trait;
use bytes::Bytes;
use quarry_common::checksum::sha256;
use quarry_common::ids::{Ino, NodeId};
use quarry_common::wire::cluster::{MemberState, NodeState};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::NewChunk;
use quarry_common::wire::session::{LeaseGrant, Losses, Push, Request};
use std::sync::Arc;
use std::time::Instant;

const FILE: Ino = Ino(7);

struct Announce(Arc<PlacementCache>);

#[async_trait]
impl Events for Announce {
    fn answered(&self, _: &[LeaseGrant], _: Instant) {}
    fn push(&self, push: Push) {
        if let Push::PlacementChanged { version } = push {
            self.0.announce(version);
        }
    }
    fn lost(&self, _: &Losses, _: LossNotice) {}
    fn locks_lost(&self, _: &[Ino]) {}
    fn dirty(&self) -> Vec<Ino> {
        Vec::new()
    }
    fn expired(&self, _: &[Ino]) {}
    fn disconnected(&self) {
        self.0.distrust();
    }

    async fn settled(&self) {}
}

async fn transfer(world: &World) -> Arc<Transfer> {
    let placement = PlacementCache::new();
    let (config, transport) = world.config();
    let events = Arc::new(Announce(placement.clone()));
    let session = Arc::new(Session::open(config, transport, events).await.unwrap());
    tokio::spawn(follow(placement.clone(), Arc::downgrade(&session)));
    Arc::new(Transfer::new(session, placement))
}

fn data(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into()
}

fn holders(chunk: &NewChunk) -> Vec<u32> {
    let mut ids: Vec<u32> = chunk.holders.iter().map(|n| n.0).collect();
    ids.sort_unstable();
    ids
}

fn allocs(world: &World) -> usize {
    world.namenode.state().count(|r| matches!(r, Request::AllocChunks { .. }))
}

#[tokio::test]
async fn a_chunk_reaches_all_members_and_any_range_comes_back() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    let data = data(2 << 20);
    let chunk = t.put(FILE, data.clone(), true).await.unwrap();
    assert_eq!((chunk.info.length as usize, chunk.info.sha256), (data.len(), sha256(&data)));
    assert_eq!(holders(&chunk), [1, 2, 3]);
    assert!(world.datanodes.iter().all(|n| *n.synced.lock().unwrap() == [chunk.info.id]));
    for (offset, length) in [(0, 2 << 20), (0, 1), (65_535, 2), (100_000, 300_000), ((2 << 20) - 1, 1)] {
        let got = t.get(chunk.info.id, offset, length).await.unwrap();
        assert_eq!(got, data.slice(offset as usize..(offset + length) as usize));
    }
    assert_eq!(t.get(chunk.info.id, 2 << 20, 1).await, Err(GetError::Fs(FsError::Invalid)));
    assert_eq!(t.put(FILE, Bytes::new(), false).await, Err(FsError::Invalid));
}

#[tokio::test]
async fn a_growing_file_asks_for_more_ids_at_once() {
    let world = World::new(1).await;
    let t = transfer(&world).await;
    for _ in 0..20 {
        t.put(FILE, data(1), false).await.unwrap();
    }
    // 1, 4 and 16.
    assert_eq!(allocs(&world), 3);
}

#[tokio::test]
async fn a_failing_member_sends_the_data_to_another_group() {
    let world = World::new(3).await;
    world.place(&[&[1, 2], &[2, 3], &[1, 3]]);
    let t = transfer(&world).await;
    world.node(2).be(Mood::Refusing);
    let chunk = t.put(FILE, data(1000), false).await.unwrap();
    assert_eq!(holders(&chunk), [1, 3]);
    // The next one goes there at once.
    let before = allocs(&world);
    let chunk = t.put(Ino(8), data(1000), false).await.unwrap();
    assert_eq!((holders(&chunk), allocs(&world) - before), (vec![1, 3], 1));
}

#[tokio::test]
async fn without_another_group_a_write_waits_until_the_dead_member_is_out() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    world.node(3).stop().await;
    let put = tokio::spawn({
        let t = t.clone();
        async move { t.put(FILE, data(100_000), false).await }
    });
    world.namenode.until(|state| state.count(|r| matches!(r, Request::AllocChunks { .. })) >= 2).await;
    assert!(!put.is_finished());
    world.namenode.replace(|p| {
        p.nodes[2].state = NodeState::Suspect;
        p.groups[0].members[2].state = MemberState::Stale;
        p.groups[0].epoch.0 += 1;
    });
    let chunk = put.await.unwrap().unwrap();
    assert_eq!(holders(&chunk), [1, 2]);
    assert!(world.node(1).has(chunk.info.id) && world.node(2).has(chunk.info.id));
}

#[tokio::test]
async fn a_member_that_comes_back_gets_what_it_missed() {
    let world = World::new(2).await;
    let t = transfer(&world).await;
    world.node(2).be(Mood::Refusing);
    let put = tokio::spawn({
        let t = t.clone();
        async move { t.put(FILE, data(1000), false).await }
    });
    world.namenode.until(|state| state.count(|r| matches!(r, Request::AllocChunks { .. })) >= 2).await;
    world.node(2).be(Mood::Good);
    let chunk = put.await.unwrap().unwrap();
    assert_eq!(holders(&chunk), [1, 2]);
    assert!(world.node(2).has(chunk.info.id));
}

#[tokio::test]
async fn a_stopped_member_holds_a_write_only_until_the_namenode_notices() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    // All connections exist, nobody is in trouble.
    for _ in 0..3 {
        t.put(FILE, data(1000), false).await.unwrap();
    }
    for stopped in 1..=3 {
        world.node(stopped).be(Mood::Silent);
        let put = tokio::spawn({
            let t = t.clone();
            async move { t.put(FILE, data(1000), false).await }
        });
        tokio::task::yield_now().await;
        world.namenode.replace(|p| {
            let i = stopped as usize - 1;
            p.nodes[i].state = NodeState::Suspect;
            p.groups[0].members[i].state = MemberState::Stale;
        });
        let chunk = put.await.unwrap().unwrap();
        assert!(!holders(&chunk).contains(&stopped) && chunk.holders.len() == 2, "{stopped}: {chunk:?}");
        world.node(stopped).be(Mood::Good);
        world.namenode.replace(|p| {
            let i = stopped as usize - 1;
            p.nodes[i].state = NodeState::Healthy;
            p.groups[0].members[i].state = MemberState::Serving;
        });
        world.namenode.until(|s| s.count(|r| matches!(r, Request::Placement)) > stopped as usize * 2).await;
    }
}

#[tokio::test]
async fn a_member_that_only_other_nodes_reach_gets_its_chunks_through_them() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    world.node(2).be(Mood::CutOff);
    for _ in 0..6 {
        let chunk = t.put(FILE, data(1000), true).await.unwrap();
        assert_eq!(holders(&chunk), [1, 2, 3]);
        assert!(world.node(2).has(chunk.info.id));
    }
    world.node(2).be(Mood::Good);
    assert_eq!(holders(&t.put(FILE, data(1000), true).await.unwrap()), [1, 2, 3]);
}

#[tokio::test]
async fn a_new_member_gets_chunks_from_the_moment_the_client_knows_of_it() {
    let world = World::new(3).await;
    world.place(&[&[1, 2]]);
    let t = transfer(&world).await;
    assert_eq!(holders(&t.put(FILE, data(10), false).await.unwrap()), [1, 2]);
    world.place(&[&[1, 2, 3]]);
    // A push travels in order with answers.
    t.session.ask(Request::Renew { acknowledged: 0 }).await.unwrap();
    assert_eq!(holders(&t.put(FILE, data(10), false).await.unwrap()), [1, 2, 3]);
}

#[tokio::test]
async fn a_full_cluster_says_so_at_once() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    world.namenode.state().no_space = true;
    assert_eq!(t.put(FILE, data(10), false).await, Err(FsError::NoSpace));
}

#[tokio::test]
async fn a_slow_replica_is_overtaken_by_another() {
    let world = World::new(2).await;
    let t = transfer(&world).await;
    let chunk = t.put(FILE, data(200_000), false).await.unwrap();
    for silent in [1, 2] {
        world.node(silent).be(Mood::Silent);
        for _ in 0..3 {
            assert_eq!(t.get(chunk.info.id, 0, 200_000).await.unwrap(), data(200_000));
        }
        world.node(silent).be(Mood::Good);
    }
}

#[tokio::test]
async fn a_failed_or_lying_replica_is_replaced_at_once() {
    for mood in [Mood::Refusing, Mood::Lying] {
        let world = World::new(3).await;
        let t = transfer(&world).await;
        let chunk = t.put(FILE, data(200_000), false).await.unwrap();
        for pair in [[1, 2], [2, 3], [1, 3]] {
            for bad in pair {
                world.node(bad).be(mood);
            }
            assert_eq!(t.get(chunk.info.id, 70_000, 100).await.unwrap(), data(200_000).slice(70_000..70_100));
            for bad in pair {
                world.node(bad).be(Mood::Good);
            }
        }
    }
}

#[tokio::test]
async fn a_killed_node_does_not_stop_reads() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    let chunk = t.put(FILE, data(500_000), false).await.unwrap();
    world.node(1).stop().await;
    world.node(2).stop().await;
    assert_eq!(t.get(chunk.info.id, 0, 500_000).await.unwrap(), data(500_000));
}

#[tokio::test]
async fn a_chunk_that_nobody_has_is_gone_and_one_that_is_rotten_everywhere_an_error() {
    let world = World::new(2).await;
    let t = transfer(&world).await;
    let chunk = t.put(FILE, data(1000), false).await.unwrap();
    for node in &world.datanodes {
        node.be(Mood::Lying);
    }
    assert_eq!(t.get(chunk.info.id, 0, 10).await, Err(GetError::Fs(FsError::Io)));
    for node in &world.datanodes {
        node.chunks.lock().unwrap().clear();
    }
    assert_eq!(t.get(chunk.info.id, 0, 10).await, Err(GetError::Gone));
}

#[tokio::test]
async fn a_replica_that_is_away_is_waited_for_when_the_others_lack_the_chunk() {
    let world = World::new(2).await;
    let t = transfer(&world).await;
    let chunk = t.put(FILE, data(1000), false).await.unwrap();
    world.node(1).chunks.lock().unwrap().clear();
    world.node(2).be(Mood::Refusing);
    let get = tokio::spawn({
        let t = t.clone();
        async move { t.get(chunk.info.id, 0, 1000).await }
    });
    world.namenode.until(|s| s.count(|r| matches!(r, Request::Placement)) >= 2).await;
    world.node(2).be(Mood::Good);
    assert_eq!(get.await.unwrap().unwrap(), data(1000));
}

#[tokio::test]
async fn sync_reaches_the_disks_of_all_holders_and_repairs_one_that_lost_a_chunk() {
    let world = World::new(3).await;
    let t = transfer(&world).await;
    let a = t.put(FILE, data(1000), false).await.unwrap();
    let b = t.put(FILE, data(2000), false).await.unwrap();
    world.node(2).chunks.lock().unwrap().remove(&b.info.id);
    t.sync(&[a.clone(), b.clone()]).await.unwrap();
    for node in &world.datanodes {
        let mut synced = node.synced.lock().unwrap().clone();
        synced.sort_unstable();
        assert_eq!(synced, [a.info.id, b.info.id], "{}", node.id);
    }
    assert!(world.node(2).has(b.info.id));
    for node in &world.datanodes {
        node.chunks.lock().unwrap().remove(&a.info.id);
    }
    assert_eq!(t.sync(&[a, b]).await, Err(FsError::Io));
}

#[tokio::test]
async fn sync_does_not_wait_for_a_holder_that_is_out() {
    let world = World::new(2).await;
    let t = transfer(&world).await;
    let chunk = t.put(FILE, data(1000), false).await.unwrap();
    world.node(2).stop().await;
    let sync = tokio::spawn({
        let (t, chunk) = (t.clone(), chunk.clone());
        async move { t.sync(&[chunk]).await }
    });
    world.namenode.until(|s| s.count(|r| matches!(r, Request::Placement)) >= 2).await;
    world.namenode.replace(|p| p.groups[0].members[1].state = MemberState::Stale);
    sync.await.unwrap().unwrap();
    assert_eq!(*world.node(1).synced.lock().unwrap(), [chunk.info.id]);
    assert_eq!(chunk.holders.iter().filter(|n| **n == NodeId(2)).count(), 1);
}
