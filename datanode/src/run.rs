//! A DataNode from its start to its end.

use crate::background;
use crate::blocking::Blocking;
use crate::config::DataNodeConfig;
use crate::disk::{Disk, RealDisk};
use crate::namenode::{Introduction, NameNode};
use crate::peers::Peers;
use crate::server::Server;
use crate::store::{Options, Owner, Store};
use anyhow::{Context, bail, ensure};
use quarry_common::identity::{Identity, Role};
use quarry_common::transport::Transport;
use quarry_common::wire::cluster::RegisterNode;
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
    run_on(Arc::new(RealDisk), config, transport, shutdown, ready).await
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
    let namenode = NameNode::new();
    let peers = Peers::new(transport.clone());
    let server =
        Server::new(config.node, store.clone(), blocking.clone(), peers, namenode.clone(), shutdown.clone());

    let mut tasks = JoinSet::new();
    {
        let store = store.clone();
        tasks.spawn(async move { namenode.converse(&introduction, transport.as_ref(), &store).await });
    }
    tasks.spawn(background::sync(store.clone(), blocking.clone()));
    tasks.spawn(background::watch_space(store.clone(), blocking.clone()));
    tasks.spawn(background::scrub(store.clone(), blocking.clone(), config.scrub_bytes_per_second));
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
    let new_id = rand::rng().random();
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
