//! Requests over real connections.

use crate::testing::{Cluster, chunk, data, file_of, ids};
use bytes::Bytes;
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::{ChunkId, Epoch, NodeId, PgId};
use quarry_common::limits::{BLOCK_SIZE, CHUNK_SIZE};
use quarry_common::wire::cluster::{Group, Member, MemberState, Node, NodeState, Placement, Replication};
use quarry_common::wire::data::{DataReply, DataRequest, Endpoint, IDS_MAX, WriteChunk};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::ChunkInfo;
use quarry_net::identity::Role;
use rustix::io::Errno;

const FULL: usize = CHUNK_SIZE as usize;
const BLOCK: usize = BLOCK_SIZE as usize;

fn id(sequence: u64) -> ChunkId {
    ChunkId::new(PgId(1), sequence)
}

fn written(holders: &[u32], failed: &[u32], reply: &DataReply) {
    let DataReply::Written { holders: h, failed: f } = reply else { panic!("{reply:?}") };
    assert_eq!(h.iter().map(|n| n.0).collect::<Vec<_>>(), holders, "{reply:?}");
    assert_eq!(f.iter().map(|(n, _)| n.0).collect::<Vec<_>>(), failed, "{reply:?}");
}

#[tokio::test]
async fn a_chunk_goes_along_the_chain_and_comes_back_from_each_member() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(1).await;
    let chain = [cluster.hop(2), cluster.hop(3)];
    for (sequence, length, durable) in
        [(1, FULL, true), (2, 1, true), (3, BLOCK, false), (4, 3 * BLOCK + 7, false)]
    {
        let reply = client.put(id(sequence), length, durable, &chain).await.unwrap();
        written(&[1, 2, 3], &[], &reply);
        for number in 1..=3 {
            let (reply, bytes) = cluster.client(number).await.read(id(sequence), 0, length as u32).await;
            let wanted = data(id(sequence), length);
            let block_crcs = block_crcs(&wanted);
            assert_eq!(reply, Ok(DataReply::Data { offset: 0, length: length as u32, block_crcs }));
            assert_eq!(bytes, wanted);
        }
    }
    // Durable ones survive a loss of power everywhere, at once.
    for number in 1..=3 {
        cluster.disk(number).lose_power(1);
        assert_eq!(cluster.disk(number).content(&file_of(id(1)))[..FULL], data(id(1), FULL));
    }
}

#[tokio::test]
async fn ranges_are_whole_blocks() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client(1).await;
    let length = 2 * BLOCK + 100;
    client.put(id(1), length, false, &[]).await.unwrap();
    let whole = data(id(1), length);
    let (reply, bytes) = client.read(id(1), BLOCK as u32 + 5, 10).await;
    assert!(matches!(reply, Ok(DataReply::Data { offset, .. }) if offset as usize == BLOCK), "{reply:?}");
    assert_eq!(bytes, whole[BLOCK..2 * BLOCK]);
    let (_, bytes) = client.read(id(1), 2 * BLOCK as u32, u32::MAX).await;
    assert_eq!(bytes, whole[2 * BLOCK..]);
    assert_eq!(client.read(id(2), 0, 1).await.0, Err(ServiceError::ChunkNotFound));
    assert!(matches!(client.read(id(1), length as u32 * 2, 1).await.0, Err(ServiceError::BadRequest(_))));
    assert!(matches!(client.read(id(1), 0, 0).await.0, Err(ServiceError::BadRequest(_))));
}

#[tokio::test]
async fn a_dead_member_is_skipped_and_named() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(1).await;
    let chain = [cluster.hop(2), cluster.hop(3)];
    written(&[1, 2, 3], &[], &client.put(id(1), FULL, false, &chain).await.unwrap());
    cluster.stop_node(2).await;
    written(&[1, 3], &[2], &client.put(id(2), FULL, false, &chain).await.unwrap());
    cluster.stop_node(3).await;
    written(&[1], &[2, 3], &client.put(id(3), 10, true, &chain).await.unwrap());
    // The pool notices that they are back, although it believes for a moment that they are not.
    cluster.start_node(2).await;
    cluster.start_node(3).await;
    let all = async {
        loop {
            let reply = client.put(id(4), FULL, true, &chain).await.unwrap();
            if matches!(&reply, DataReply::Written { holders, .. } if holders.len() == 3) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), all).await.expect("they are never found again");
}

#[tokio::test]
async fn a_restarted_member_is_found_again_at_once() {
    let mut cluster = Cluster::start(2).await;
    let client = cluster.client(1).await;
    for sequence in 1..4 {
        let reply = client.put(id(sequence), 1000, false, &[cluster.hop(2)]).await.unwrap();
        written(&[1, 2], &[], &reply);
        cluster.stop_node(2).await;
        cluster.start_node(2).await;
    }
}

#[tokio::test]
async fn a_member_that_hangs_or_is_another_delays_and_does_not_fail() {
    let cluster = Cluster::start(2).await;
    // Takes connections and never answers.
    let listener = cluster.transport(Role::DataNode, "7").listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let hangs = Endpoint { node: NodeId(7), address: listener.local_address().to_string() };
    let hanging = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Some(connection) = listener.accept().await {
            taken.push(connection);
        }
    });
    let lost = Node { id: NodeId(7), address: hangs.address.clone(), state: NodeState::Suspect };
    let impostor = Endpoint { node: NodeId(8), address: cluster.hop(2).address };
    let other = Node { id: NodeId(8), address: impostor.address.clone(), state: NodeState::Healthy };
    cluster.namenode.set_placement(Placement { nodes: vec![lost, other], ..Placement::default() });
    let client = cluster.client(1).await;
    let reply = client.put(id(1), FULL, false, std::slice::from_ref(&hangs)).await.unwrap();
    written(&[1], &[7], &reply);
    let DataReply::Written { failed, .. } = reply else { unreachable!() };
    assert!(failed[0].1.contains("NameNode"), "it is given up when the NameNode says so: {failed:?}");
    written(&[1], &[8], &client.put(id(2), FULL, false, &[impostor]).await.unwrap());
    hanging.abort();
}

#[tokio::test]
async fn chunks_of_other_groups_and_members_that_the_namenode_does_not_know_are_refused() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client(1).await;
    let foreign = ChunkId::new(PgId(2), 1);
    match client.put(foreign, 1000, true, &[]).await {
        Err(ServiceError::Unavailable(why)) => assert!(why.contains("does not belong"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Wherever the sender says that the member is, no connection is made.
    let unknown = Endpoint { node: NodeId(9), address: "127.0.0.1:9".into() };
    let reply = client.put(id(1), 1000, true, &[unknown]).await.unwrap();
    written(&[1], &[9], &reply);
    // A node that joins a group takes its chunks at once.
    let member = Member { node: NodeId(1), state: MemberState::Syncing };
    let joined = Group { id: PgId(2), epoch: Epoch(1), replication: Replication::All, members: vec![member] };
    cluster.namenode.set_placement(Placement { groups: vec![joined], ..Placement::default() });
    let joins = async {
        while client.put(foreign, 1000, true, &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), joins).await.expect("it takes them");
}

#[tokio::test]
async fn a_member_without_room_is_named_and_a_first_one_without_room_says_so() {
    let mut cluster = Cluster::start(1).await;
    let mut small = cluster.config(2);
    small.capacity = Some(1000);
    cluster.start_node_with(small).await.unwrap();
    let reply = cluster.client(1).await.put(id(1), 5000, true, &[cluster.hop(2)]).await.unwrap();
    written(&[1], &[2], &reply);
    let reply = cluster.client(2).await.put(id(2), 5000, true, &[cluster.hop(1)]).await;
    assert_eq!(reply, Err(ServiceError::Fs(FsError::NoSpace)));
}

#[tokio::test]
async fn what_does_not_fit_its_checksums_is_kept_by_nobody() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client(1).await;
    let good = data(id(1), 3 * BLOCK);
    let header = || WriteChunk { chain: vec![NodeId(2)], ..chunk(id(1), &good) };
    let mut bad = good.to_vec();
    bad[2 * BLOCK + 1] ^= 1;
    let reply = client.write(header(), bad.into()).await;
    assert!(matches!(&reply, Err(ServiceError::Corrupt(what)) if what.contains("131072")), "{reply:?}");
    for (header, data) in [
        (header(), good.slice(..3 * BLOCK - 1)),
        (header(), [&good[..], b"x"].concat().into()),
        (WriteChunk { length: 0, block_crcs: vec![], ..header() }, Bytes::new()),
        (WriteChunk { length: CHUNK_SIZE as u32 + 1, ..header() }, good.clone()),
        (WriteChunk { block_crcs: vec![1, 2], ..header() }, good.clone()),
        (WriteChunk { chain: vec![NodeId(2); 64], ..header() }, good.clone()),
    ] {
        let reply = client.write(header, data).await;
        assert!(
            matches!(reply, Err(ServiceError::BadRequest(_) | ServiceError::Unavailable(_))),
            "{reply:?}"
        );
    }
    client.break_off(header(), good.slice(..2 * BLOCK)).await.unwrap();
    // Whole chunks still go through, and the broken ones left nothing.
    for number in [1, 2] {
        assert_eq!(cluster.client(number).await.read(id(1), 0, 1).await.0, Err(ServiceError::ChunkNotFound));
    }
    written(&[1, 2], &[], &client.write(header(), good.clone()).await.unwrap());
    let other = data(id(9), 3 * BLOCK);
    let reply = client.write(chunk(id(1), &other), other).await;
    assert!(matches!(reply, Err(ServiceError::BadRequest(_))), "{reply:?}");
    written(&[1, 2], &[], &client.write(header(), good).await.unwrap());
}

#[tokio::test]
async fn each_role_may_do_its_part() {
    let cluster = Cluster::start(1).await;
    let requests = || {
        let data = data(id(1), 10);
        [
            (DataRequest::Write(chunk(id(1), &data)), data, "client gateway datanode"),
            (DataRequest::Read { id: id(1), offset: 0, length: 1 }, Bytes::new(), "client gateway datanode"),
            (DataRequest::Sync { ids: vec![id(1)] }, Bytes::new(), "client gateway"),
            (DataRequest::List { pg: PgId(1), after: None, limit: 1 }, Bytes::new(), "namenode datanode"),
            (DataRequest::Digest { pg: PgId(1) }, Bytes::new(), "namenode"),
            (DataRequest::Verify { ids: vec![id(1)] }, Bytes::new(), "namenode"),
            (
                DataRequest::SyncGroup { pg: PgId(1), epoch: Epoch(1), source: NodeId(1) },
                Bytes::new(),
                "namenode",
            ),
            (DataRequest::Delete { ids: vec![id(2)] }, Bytes::new(), "namenode"),
        ]
    };
    for role in [Role::Client, Role::Gateway, Role::DataNode, Role::NameNode] {
        let asker = cluster.asker(role, 1).await;
        for (request, data, allowed) in requests() {
            let (reply, _) = asker.exchange(&request, data).await;
            let refused = matches!(reply, Err(ServiceError::Unauthorised(_)));
            assert_eq!(
                !refused,
                allowed.split(' ').any(|r| r == role.to_string()),
                "{role} {request:?} {reply:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_namenode_lists_verifies_and_deletes() {
    let cluster = Cluster::start(1).await;
    let (client, namenode) = (cluster.client(1).await, cluster.asker(Role::NameNode, 1).await);
    for id in ids(1..=5) {
        client.put(id, 70_000, false, &[]).await.unwrap();
    }
    assert_eq!(namenode.digest(PgId(1)).await.count, 5);
    let list = DataRequest::List { pg: PgId(1), after: Some(id(2)), limit: 2 };
    assert_eq!(
        namenode.ask(list).await,
        Ok(DataReply::Ids { ids: vec![(id(3), 70_000), (id(4), 70_000)], end: false })
    );
    assert_eq!(client.ask(DataRequest::Sync { ids: ids(1..=5) }).await, Ok(DataReply::Done));
    assert_eq!(client.ask(DataRequest::Sync { ids: ids(5..=6) }).await, Err(ServiceError::ChunkNotFound));
    cluster.disk(1).rot(&file_of(id(2)), 65_540);
    let verified = namenode.ask(DataRequest::Verify { ids: ids([1, 2, 3, 9]) }).await;
    let Ok(DataReply::Verified { bad }) = verified else { panic!("{verified:?}") };
    assert_eq!(bad.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids([2, 9]));
    assert!(bad[0].1.contains("CRC") && bad[1].1 == "missing", "{bad:?}");
    cluster.namenode.until(|told| told.bad == ids([2])).await;
    assert_eq!(namenode.ask(DataRequest::Delete { ids: ids([1, 2, 4, 77]) }).await, Ok(DataReply::Done));
    assert_eq!(namenode.digest(PgId(1)).await.count, 2);
    for too_many in
        [DataRequest::Delete { ids: ids(0..=IDS_MAX as u64) }, DataRequest::Verify { ids: ids(0..65) }]
    {
        assert!(matches!(namenode.ask(too_many).await, Err(ServiceError::BadRequest(_))));
    }
}

#[tokio::test]
async fn rot_that_a_reader_meets_is_not_served() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client(1).await;
    client.put(id(1), 3 * BLOCK, true, &[]).await.unwrap();
    cluster.disk(1).rot(&file_of(id(1)), BLOCK + 1);
    // The other blocks are good.
    assert!(client.read(id(1), 0, 1).await.0.is_ok());
    let (reply, bytes) = client.read(id(1), BLOCK as u32, 1).await;
    assert!(matches!(reply, Err(ServiceError::Corrupt(_))) && bytes.is_empty(), "{reply:?}");
    cluster.namenode.until(|told| told.bad == ids([1])).await;
    assert_eq!(client.read(id(1), 0, 1).await.0, Err(ServiceError::ChunkNotFound));
}

#[tokio::test]
async fn a_member_catches_up_from_another() {
    let mut cluster = Cluster::start(2).await;
    let (one, two) = (cluster.client(1).await, cluster.client(2).await);
    for id in ids(1..=40) {
        one.put(id, 100_000, false, &[]).await.unwrap();
    }
    // Some are here already, one is not what the NameNode knows, one is unknown to it.
    for id in ids(5..=10) {
        two.put(id, 100_000, false, &[]).await.unwrap();
    }
    for id in ids(1..=39) {
        let mut sha256 = sha256(&data(id, 100_000));
        sha256[0] ^= u8::from(id == self::id(17));
        cluster.namenode.knows(ChunkInfo { id, length: 100_000, sha256 });
    }
    cluster.namenode.until(|told| told.registered.len() == 2).await;
    let namenode = cluster.asker(Role::NameNode, 2).await;
    let request = || DataRequest::SyncGroup { pg: PgId(1), epoch: Epoch(1), source: NodeId(1) };
    let (first, second) = tokio::join!(namenode.ask(request()), namenode.ask(request()));
    let Ok(DataReply::Synced { pulled: 33, failed }) = &first else { panic!("{first:?}") };
    assert!(failed.len() == 1 && failed[0].0 == id(17) && failed[0].1.contains("SHA-256"), "{failed:?}");
    assert_eq!(first, second, "the second joins the first");
    assert_eq!(namenode.digest(PgId(1)).await.count, 39);
    // It is on the disk, and a second run has nothing to do but the one that failed.
    cluster.disk(2).lose_power(5);
    assert_eq!(cluster.disk(2).content(&file_of(id(40)))[..100_000], data(id(40), 100_000));
    let again = namenode.ask(request()).await;
    assert!(
        matches!(again, Ok(DataReply::Synced { pulled: 0, ref failed }) if failed.len() == 1),
        "{again:?}"
    );
    cluster.stop_node(1).await;
    assert!(matches!(namenode.ask(request()).await, Err(ServiceError::Unavailable(_))));
}

#[tokio::test]
async fn many_writers_over_crossing_chains_do_not_stand_still() {
    let cluster = Cluster::start(3).await;
    let orders = [[1, 2, 3], [2, 3, 1], [3, 1, 2]];
    let mut clients = Vec::new();
    for order in orders {
        clients.push((cluster.client(order[0]).await, [cluster.hop(order[1]), cluster.hop(order[2])]));
    }
    let writes = (0..90u64).map(|n| {
        let (client, chain) = &clients[n as usize % 3];
        async move { client.put(id(n), 300_000, n % 7 == 0, chain).await }
    });
    for reply in futures::future::join_all(writes).await {
        let reply = reply.unwrap();
        assert!(
            matches!(&reply, DataReply::Written { holders, failed } if holders.len() == 3 && failed.is_empty()),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn a_failing_disk_is_told_and_a_chunk_goes_elsewhere() {
    let cluster = Cluster::start(2).await;
    cluster.disk(1).fail("/data".as_ref(), quarry_host::disk::faulty::Calls::Writes, Errno::IO);
    let client = cluster.client(1).await;
    let reply = client.put(id(1), 1000, true, &[cluster.hop(2)]).await;
    assert!(matches!(reply, Err(ServiceError::Unavailable(_))), "{reply:?}");
    let told = cluster.namenode.until(|told| told.heartbeats.iter().any(|h| !h.writable)).await;
    let bad = told.heartbeats.iter().find(|h| !h.writable).unwrap();
    assert!(bad.trouble.contains("/data"), "{}", bad.trouble);
    written(&[2], &[1], &cluster.client(2).await.put(id(2), 1000, true, &[cluster.hop(1)]).await.unwrap());
}
