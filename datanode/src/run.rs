//! A DataNode from its start to its end.

use crate::background;
use crate::blocking::Blocking;
use crate::config::DataNodeConfig;
use crate::namenode_client::{Introduction, NameNodeClient};
use crate::server::Server;
use crate::store::{Options, Owner, Store};
use anyhow::{Context, bail, ensure};
use quarry_common::wire::cluster::RegisterNode;
use quarry_datanode_client::DataNodeClient;
use quarry_host::disk::{self, Disk};
use quarry_host::{random, task};
use quarry_net::identity::{Identity, Role};
use quarry_net::transport::Transport;
use rand::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// At the end, requests that are being carried out get this long.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a DataNode until it is told to stop. `ready` gets the address as soon as it serves; the NameNode may still be
/// away then.
///
/// # Errors
/// When the certificate is not that of this DataNode, a data directory belongs to somebody else or is in use, none of
/// them works, or the address cannot be listened on.
pub async fn run(
    config: DataNodeConfig,
    transport: Arc<dyn Transport>,
    shutdown: CancellationToken,
    ready: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    run_on(disk::current(), config, transport, shutdown, ready).await
}

/// The same on any disk.
pub(crate) async fn run_on(
    disk: Arc<dyn Disk>,
    config: DataNodeConfig,
    transport: Arc<dyn Transport>,
    shutdown: CancellationToken,
    ready: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    check_identity(&config, transport.identity())?;
    let blocking = Blocking::default();
    let store = open_store(disk, &config, transport.identity(), &blocking).await?;
    let listener = transport
        .listen(config.listen)
        .await
        .with_context(|| format!("DataNode {} cannot listen on {}", config.node, config.listen))?;
    let address = listener.local_address();
    let introduction = Introduction {
        register: RegisterNode {
            node: config.node,
            address: advertised(&config, address)?,
            rack: config.rack.clone(),
            store_id: store.store_id(),
        },
        namenode: config.namenode.clone(),
        heartbeat_interval: config.heartbeat_interval,
    };
    let namenode = NameNodeClient::new(config.node);
    let datanodes = DataNodeClient::new(transport.clone());
    let server = Server::new(
        config.node,
        store.clone(),
        blocking.clone(),
        datanodes,
        namenode.clone(),
        shutdown.clone(),
    );

    let mut tasks = JoinSet::new();
    {
        let store = store.clone();
        let blocking = blocking.clone();
        task::spawn_in(&mut tasks, async move {
            namenode.converse(&introduction, transport.as_ref(), &store, &blocking).await
        });
    }
    task::spawn_in(&mut tasks, background::keep_gauges(store.clone()));
    task::spawn_in(&mut tasks, background::sync(store.clone(), blocking.clone()));
    task::spawn_in(&mut tasks, background::tend(store.clone(), blocking.clone()));
    task::spawn_in(
        &mut tasks,
        background::scrub(store.clone(), blocking.clone(), config.scrub_bytes_per_second),
    );
    tracing::info!(node = %config.node, %address, chunks = store.figures().chunks, "serving");
    // Whoever started us may not care to know.
    let _ = ready.send(address);

    tokio::select! {
        () = server.serve(listener.as_ref()) => {}
        Some(ended) = tasks.join_next() => match ended {
            Ok(never) => match never {},
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => {}
        },
    }
    shutdown.cancel();
    server.finish(FINISH_TIMEOUT).await;
    tasks.shutdown().await;
    listener.close().await;
    blocking.run(move || store.close()).await;
    tracing::info!(node = %config.node, "stopped");
    Ok(())
}

fn check_identity(config: &DataNodeConfig, identity: &Identity) -> anyhow::Result<()> {
    ensure!(
        identity.role == Role::DataNode,
        "the certificate has the role {}, but that of a DataNode must have the role datanode",
        identity.role
    );
    ensure!(
        identity.id == config.node.to_string(),
        "the certificate is that of DataNode {}, not of DataNode {}",
        identity.id,
        config.node
    );
    Ok(())
}

async fn open_store(
    disk: Arc<dyn Disk>,
    config: &DataNodeConfig,
    identity: &Identity,
    blocking: &Blocking,
) -> anyhow::Result<Arc<Store>> {
    let options = Options {
        dirs: config.dirs.clone(),
        owner: Owner { cluster: identity.cluster.clone(), node: config.node },
        reserve: config.reserve_bytes,
        limit: config.capacity,
    };
    let new_id = random::rng().random();
    let store = blocking.run(move || Store::open(disk, &options, new_id)).await?;
    Ok(Arc::new(store))
}

fn advertised(config: &DataNodeConfig, listening: SocketAddr) -> anyhow::Result<String> {
    match &config.advertise {
        Some(address) => Ok(address.clone()),
        None if listening.ip().is_unspecified() => bail!(
            "clients cannot be told to connect to {}: say under which address they reach this DataNode (advertise)",
            listening.ip()
        ),
        None => Ok(listening.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, data, file_of, ids};
    use quarry_common::ids::{Epoch, NodeId, PgId};
    use quarry_common::wire::cluster::{Group, Member, MemberState, Placement, Replication};
    use quarry_host::disk::faulty::FaultyDisk;

    #[tokio::test]
    async fn registers_beats_and_comes_back_when_the_namenode_does() {
        let mut cluster = Cluster::start(0).await;
        let member = Member { node: NodeId(1), state: MemberState::Serving };
        let group =
            |id, members| Group { id: PgId(id), epoch: Epoch(1), replication: Replication::All, members };
        cluster.namenode.set_placement(Placement {
            groups: vec![group(3, vec![member]), group(4, vec![])],
            ..Placement::default()
        });
        let mut config = cluster.config(1);
        (config.rack, config.capacity) = ("r1".into(), Some(1 << 30));
        cluster.start_node_with(config).await.unwrap();
        let told = cluster.namenode.until(|told| told.heartbeats.len() > 2).await;
        let register = &told.registered[0];
        assert_eq!((register.node, register.rack.as_str()), (NodeId(1), "r1"));
        assert_eq!(register.address, cluster.hop(1).address);
        let beat = &told.heartbeats[0];
        assert!(beat.writable && beat.trouble.is_empty() && beat.capacity == 1 << 30, "{beat:?}");
        // The empty group that it belongs to, and no other.
        cluster
            .namenode
            .until(|told| told.heartbeats.iter().any(|h| h.groups.iter().any(|g| g.pg == PgId(3))))
            .await;
        cluster.namenode.hang_up();
        let told = cluster.namenode.until(|told| told.registered.len() == 2).await;
        assert_eq!(told.registered[0], told.registered[1]);
        cluster.client(1).await.put(ids([5])[0], 100, false, &[]).await.unwrap();
        let told = cluster.namenode.until(|told| told.heartbeats.last().is_some_and(|h| h.chunks == 1)).await;
        let groups: Vec<(u32, u64)> =
            told.heartbeats.last().unwrap().groups.iter().map(|g| (g.pg.0, g.count)).collect();
        assert_eq!(groups, [(1, 1), (3, 0)]);
    }

    #[tokio::test]
    async fn a_clean_stop_leaves_everything_on_the_disk() {
        let mut cluster = Cluster::start(1).await;
        let id = ids([5])[0];
        cluster.client(1).await.put(id, 100_000, false, &[]).await.unwrap();
        cluster.stop_node(1).await;
        cluster.disk(1).lose_power(3);
        cluster.start_node(1).await;
        assert_eq!(cluster.client(1).await.read(id, 0, 100_000).await.1, data(id, 100_000));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_synced_soon() {
        let cluster = Cluster::start(1).await;
        let id = ids([5])[0];
        cluster.client(1).await.put(id, 100_000, false, &[]).await.unwrap();
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        while cluster.disk(1).is_unsynced(&file_of(id)) {
            assert!(tokio::time::Instant::now() < until, "it is never synced");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn the_scrubber_finds_rot_that_nobody_reads() {
        let mut cluster = Cluster::start(1).await;
        for id in ids(1..=20) {
            cluster.client(1).await.put(id, 1000, true, &[]).await.unwrap();
        }
        cluster.stop_node(1).await;
        cluster.disk(1).rot(&file_of(ids([13])[0]), 999);
        let mut config = cluster.config(1);
        config.scrub_bytes_per_second = 1 << 30;
        cluster.start_node_with(config).await.unwrap();
        cluster.namenode.until(|told| told.bad == ids([13])).await;
        cluster
            .namenode
            .until(|told| told.heartbeats.last().is_some_and(|h| h.scrubbed.1 == 1 && h.chunks == 19))
            .await;
    }

    async fn refusal(cluster: &Cluster, config: DataNodeConfig, role: Role, id: &str) -> String {
        let transport = cluster.transport(role, id);
        let ready = oneshot::channel().0;
        let run = run_on(Arc::new(FaultyDisk::default()), config, transport, CancellationToken::new(), ready);
        format!("{:#}", run.await.expect_err("must be refused"))
    }

    #[tokio::test]
    async fn wrong_certificates_addresses_and_ports_in_use_are_refused() {
        let cluster = Cluster::start(1).await;
        let why = refusal(&cluster, cluster.config(2), Role::Client, "2").await;
        assert!(why.contains("role client"), "{why}");
        let why = refusal(&cluster, cluster.config(2), Role::DataNode, "3").await;
        assert!(why.contains("DataNode 3"), "{why}");
        let mut config = cluster.config(2);
        config.listen = cluster.hop(1).address.parse().unwrap();
        let why = refusal(&cluster, config, Role::DataNode, "2").await;
        assert!(why.contains("cannot listen") && why.contains("in use"), "{why}");
        let mut config = cluster.config(2);
        config.listen = "0.0.0.0:0".parse().unwrap();
        let why = refusal(&cluster, config, Role::DataNode, "2").await;
        assert!(why.contains("advertise"), "{why}");
        let mut config = cluster.config(2);
        config.dirs.clear();
        let why = refusal(&cluster, config, Role::DataNode, "2").await;
        assert!(why.contains("at least one data directory"), "{why}");
    }

    #[tokio::test]
    async fn real_directories_work_and_are_locked() {
        let cluster = Cluster::start(1).await;
        let dir = tempfile::tempdir().unwrap();
        let mut config = cluster.config(2);
        config.dirs = vec![dir.path().join("a/b"), dir.path().join("c")];
        let start = |config: DataNodeConfig| {
            let (stop, (ready, waiting)) = (CancellationToken::new(), oneshot::channel());
            let transport = cluster.transport(Role::DataNode, &config.node.to_string());
            (stop.clone(), waiting, tokio::spawn(run(config, transport, stop, ready)))
        };
        let (stop, waiting, running) = start(config.clone());
        waiting.await.unwrap();
        let why = format!("{:#}", start(config.clone()).2.await.unwrap().unwrap_err());
        assert!(why.contains("another process"), "{why}");
        stop.cancel();
        running.await.unwrap().unwrap();
        config.node = NodeId(3);
        let why = format!("{:#}", start(config).2.await.unwrap().unwrap_err());
        assert!(why.contains("belongs to DataNode 2"), "{why}");
    }
}
