//! The life of a NameNode process.

use crate::board::Board;
use crate::config::NameNodeConfig;
use crate::events::{Event, Handle};
use crate::home::Home;
use crate::kv::RedbBase;
use crate::observe;
use crate::owner::{COMMITTED_MAX, Fatal, Inputs, Owner, Surroundings};
use crate::workers::{self, Checkpointer, Desks, Tools};
use crate::{connections, workers::save};
use anyhow::{Context, anyhow, bail};
use quarry_datanode_client::DataNodeClient;
use quarry_host::thread::{self, Running as Thread};
use quarry_host::{clock, disk, task};
use quarry_log::{Committed, Log, LogConfig};
use quarry_namenode_core::{Base, Body, Outcome, State};
use quarry_net::transport::{Listener, Transport};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Time for the answers to those who watch to leave, when the process ends.
const WATCHERS_PAUSE: Duration = Duration::from_millis(100);

/// Runs a NameNode until `shutdown` is cancelled, or until it can no longer be trusted.
///
/// `ready` gets the address where it listens, once it serves.
///
/// # Errors
/// When the directory, the address, the log or the database cannot be used, and when the log or the state fails.
pub async fn run(
    config: NameNodeConfig,
    transport: Arc<dyn Transport>,
    shutdown: CancellationToken,
    ready: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let home = Home::open(&*disk::current(), &config.dir, &config.cluster, config.node)?;
    let listener: Arc<dyn Listener> = transport
        .listen(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?
        .into();
    let running = start(&config, &home, listener.local_address()).await?;
    let result = serve(&config, &transport, &listener, &running, &shutdown, ready).await;
    listener.close().await;
    // Why the owner ended says more than what that did to others.
    running.stop().await.and(result)
}

/// The owner's thread and what it works with.
struct Running {
    owner: Handle,
    base: Arc<RedbBase>,
    log: Arc<Log>,
    board: Arc<Board>,
    desks: Desks,
    delivered: watch::Receiver<u64>,
    stop: CancellationToken,
    owner_thread: Thread<Result<Owner, Fatal>>,
}

/// Opens database and log, and starts the owner.
async fn start(config: &Arc<NameNodeConfig>, home: &Home, address: SocketAddr) -> anyhow::Result<Running> {
    let path = home.database();
    let (base, state) = task::spawn_blocking(move || open_state(&path)).await??;
    let (sink, committed) = mpsc::channel(COMMITTED_MAX);
    let log_config =
        LogConfig { segment_bytes: config.log_segment_bytes, ..LogConfig::new(home.log(), config.node) };
    let log = Log::open(log_config, state.applied(), sink).await.context("cannot open the log")?;
    let log = Arc::new(log);
    let (owner, events) = Handle::new();
    let (delivered_tx, delivered) = watch::channel(state.applied());
    let (board, desks) = (Arc::new(Board::default()), Desks::default());
    let around = Surroundings {
        config: config.clone(),
        log: log.clone(),
        address,
        board: board.clone(),
        fsck: desks.fsck.clone(),
        snapshots: desks.snapshots.clone(),
        delivered: delivered_tx,
    };
    let stop = CancellationToken::new();
    let owner_thread = spawn_owner(around, state, events, committed, stop.clone())?;
    Ok(Running { owner, base, log, board, desks, delivered, stop, owner_thread })
}

fn open_state(path: &std::path::Path) -> anyhow::Result<(Arc<RedbBase>, State)> {
    let base = Arc::new(
        RedbBase::open(&*disk::current(), path).with_context(|| format!("cannot open {}", path.display()))?,
    );
    let below: Arc<dyn Base> = base.clone();
    let state = State::open(below).with_context(|| format!("cannot use {}", path.display()))?;
    Ok((base, state))
}

fn spawn_owner(
    around: Surroundings,
    state: State,
    events: mpsc::Receiver<Event>,
    committed: mpsc::Receiver<Committed>,
    stop: CancellationToken,
) -> anyhow::Result<Thread<Result<Owner, Fatal>>> {
    let owner = async move { Owner::new(around, state).run(Inputs { events, committed, stop }).await };
    thread::run("namenode-owner", owner).context("cannot start the owner's thread")
}

/// From the end of the start to the beginning of the stop.
async fn serve(
    config: &Arc<NameNodeConfig>,
    transport: &Arc<dyn Transport>,
    listener: &Arc<dyn Listener>,
    running: &Running,
    shutdown: &CancellationToken,
    ready: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    let tools = Tools {
        owner: running.owner.clone(),
        config: config.clone(),
        datanodes: Arc::new(DataNodeClient::new(transport.clone())),
        checkpointer: Arc::new(Checkpointer::new(
            running.owner.clone(),
            running.base.clone(),
            running.log.clone(),
        )),
        board: running.board.clone(),
    };
    tokio::select! {
        caught_up = catch_up(config, running) => caught_up?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let stop = running.stop.child_token();
    let mut workers = workers::start(&tools, running.desks.clone(), &stop);
    let gauges = task::spawn(observe::keep_gauges(running.owner.clone()));
    let accepting = task::spawn(connections::accept(listener.clone(), running.owner.clone()));
    tracing::info!(address = %listener.local_address(), cluster = %config.cluster, "NameNode serves");
    // Whoever started us may not care.
    let _ = ready.send(listener.local_address());
    let result = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = running.log.failed() => Err(anyhow!("the log failed: {error}")),
        () = running.owner.closed() => Ok(()),
        worker = workers.panicked() => Err(anyhow!("the worker `{worker}` panicked, and no other one does its work")),
    };
    stop.cancel();
    workers.wait().await;
    accepting.abort();
    gauges.abort();
    // Their connections are closed next, which waits for no answer to be sent.
    if let Ok(true) = running.owner.ask(|owner| Ok(owner.dismiss_watchers())).await {
        tokio::time::sleep(WATCHERS_PAUSE).await;
    }
    result
}

/// Waits until the log is applied as far as it goes, and checks that the file system is our cluster's.
async fn catch_up(config: &NameNodeConfig, running: &Running) -> anyhow::Result<()> {
    let recovered = running.log.recovered();
    let mut delivered = running.delivered.clone();
    let begun = clock::now();
    if delivered.wait_for(|d| *d >= recovered).await.is_err() {
        bail!("the log was not applied to its end");
    }
    tracing::info!(upto = recovered, ms = clock::since(begun).as_millis() as u64, "log applied");
    let cluster = running.owner.ask(|owner| Ok(owner.cluster())).await?;
    if cluster != config.cluster {
        bail!("{} belongs to cluster `{cluster}`, not `{}`", config.dir.display(), config.cluster);
    }
    let run = match running.owner.propose(Body::BeginRun).await? {
        Ok(Outcome::Run(run)) => run,
        Ok(other) => bail!("cannot begin to serve: {other:?}"),
        Err(refused) => bail!("cannot begin to serve: {refused}"),
    };
    running.owner.ask(move |owner| owner.caught_up_with_log(run)).await?;
    Ok(())
}

impl Running {
    /// Ends the owner, and saves what it has, so that the next start has nothing to apply.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended =
            self.owner_thread.ended().await.map_err(|_| anyhow!("the owner of the state panicked"))?;
        let result = match ended {
            Ok(mut owner) => {
                if let Some((overlay, applied)) = owner.freeze()
                    && let Err(error) = save(&self.base, overlay).await
                {
                    tracing::error!(%error, applied, "no last checkpoint; the next start applies the log");
                }
                Ok(())
            }
            Err(fatal) => Err(anyhow::Error::new(fatal).context("the NameNode cannot go on")),
        };
        match Arc::try_unwrap(self.log) {
            Ok(log) => log.shutdown().await,
            Err(_) => tracing::debug!("the log is still in use, and ends with the process"),
        }
        result
    }
}
