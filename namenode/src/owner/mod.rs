//! The owner of the state: one thread, one loop.
//!
//! ```text
//!   loop: take what is there (committed entries, then time, then events), do each at once, then settle:
//!         put commands into the log, publish what changed, let go on what waited for that
//! ```
//!
//! Nothing here waits and nothing is locked: whatever takes long is a worker's, which comes back with an event.

mod administer;
mod checkpoints;
mod chunk_ids;
mod commands;
mod feed;
mod garbage;
mod grants;
mod groups;
mod lock_waits;
mod metrics;
mod mutation;
mod node_requests;
mod nodes;
mod open;
mod open_table;
mod orphans;
mod proposer;
mod query;
mod recalls;
mod registrations;
mod registry;
mod requests;
mod sessions;
mod status;
mod watchers;

pub(crate) use garbage::{AuditGroup, Deletions, Referenced, Suspect};
pub(crate) use groups::{Eviction, Heal};
pub(crate) use nodes::millis;

use crate::board::Board;
use crate::config::NameNodeConfig;
use crate::events::{ClientReplier, Event};
use crate::workers::{FsckDesk, SnapshotDesk};
use bytes::Bytes;
use chunk_ids::ChunkIds;
use feed::Feed;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use grants::Waits;
use lock_waits::Locks;
use nodes::Nodes;
use open_table::OpenTable;
use proposer::Proposer;
use quarry_common::ids::{ChunkId, Ino, NodeId};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::{Push, Reply, Response};
use quarry_host::{clock, random};
use quarry_log::{Committed, Log, LogError};
use quarry_namenode_core::{LogicalTime, State, StateError};
use rand::Rng;
use recalls::Leasing;
use registry::Registry;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use watchers::Watchers;

/// Events of one turn of the loop: their commands go into the log together.
const TURN_EVENTS_MAX: usize = 512;
/// Committed entries that wait to be applied; the log waits when there are more.
pub(crate) const COMMITTED_MAX: usize = 64;
/// A pause between two ticks longer than so many of them was not time in which others could be heard.
const PAUSE_TICKS: u32 = 4;

/// Why the NameNode must stop: what it has in memory can no longer be trusted, or nothing can be made durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    /// The state could not be read.
    #[error("the metadata store: {0}")]
    State(#[from] StateError),
    /// An entry of the log does not decode.
    #[error("entry {index} of the log: {reason}")]
    Entry {
        /// Which.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// A DataNode has been told more than this NameNode knows.
    #[error(
        "this NameNode's folder is an old copy: DataNode {node} has gone on without it, for {why}. Bring the newest folder \
         back. If it is lost, restore the newest backup into an empty folder with `quarry meta restore`"
    )]
    OldCopy {
        /// Which DataNode.
        node: NodeId,
        /// What it has that this NameNode lacks.
        why: String,
    },
    /// The log has stopped.
    #[error("the log: {0}")]
    Log(#[from] LogError),
}

/// Where the owner takes its work from.
pub(crate) struct Inputs {
    /// From the network and the workers.
    pub(crate) events: mpsc::Receiver<Event>,
    /// From the log.
    pub(crate) committed: mpsc::Receiver<Committed>,
    /// Ends the loop.
    pub(crate) stop: CancellationToken,
}

/// What the owner shares with the rest of the process.
pub(crate) struct Surroundings {
    pub(crate) config: Arc<NameNodeConfig>,
    pub(crate) log: Arc<Log>,
    /// Where this NameNode listens.
    pub(crate) address: SocketAddr,
    /// What the workers say of themselves.
    pub(crate) board: Arc<Board>,
    /// Where checks of the file system are asked for.
    pub(crate) fsck: Arc<FsckDesk>,
    /// Where the metadata are asked for.
    pub(crate) snapshots: Arc<SnapshotDesk>,
    /// Tells how far the log has been applied.
    pub(crate) delivered: watch::Sender<u64>,
}

type Proposal = BoxFuture<'static, (u64, Result<u64, LogError>)>;

/// The state, and everything that is volatile.
pub(crate) struct Owner {
    around: Surroundings,
    pub(crate) state: State,
    started: Instant,
    /// The same moment by the clock that suspends do not stop.
    booted: Duration,
    /// The time of this turn.
    now: Instant,
    last_tick: Instant,
    /// The logical time when this run began to serve.
    serving_since: (LogicalTime, Instant),
    commands: Commands,
    clients: Clients,
    grants: Grants,
    /// What happened, for watchers.
    feed: Feed,
    watchers: Watchers,
    topology: Topology,
    orphans: Orphans,
}

/// Commands on their way through the log.
struct Commands {
    proposer: Proposer,
    /// One future for each entry that [`Proposer`] counts as in flight.
    in_log: FuturesUnordered<Proposal>,
}

/// What is volatile of clients. Every session of the state is in the registry; open files, locks and leases belong to
/// sessions of the registry only.
struct Clients {
    registry: Registry,
    opens: OpenTable,
    locks: Locks,
    leasing: Leasing,
    /// Some sessions from before the start have not been heard yet.
    in_grace: bool,
}

/// Chunk ids that are set aside in the state and not yet handed out, and the requests that wait for more.
#[derive(Default)]
struct Grants {
    ids: ChunkIds,
    waits: Waits,
}

/// Nodes and groups, as the state has them unless `changed`.
struct Topology {
    nodes: Nodes,
    /// Nodes or groups changed in the state.
    changed: bool,
    /// Nodes or groups may be others than clients were told.
    publish_due: bool,
    /// Replicas that are said to be bad.
    suspected: BTreeSet<(ChunkId, NodeId)>,
}

/// Inodes without a name that are about to be freed.
struct Orphans {
    /// Their removal is on its way: they can no longer be opened.
    reaping: BTreeSet<Ino>,
    /// There may be orphans that no session has open.
    due: bool,
}

impl Owner {
    /// Over a state that may lag behind the log.
    pub(crate) fn new(around: Surroundings, state: State) -> Self {
        let now = clock::now();
        let config = &around.config;
        let nodes = Nodes::new(now, config.suspect_after, config.dead_after);
        let clock = state.meta().clock;
        Self {
            commands: Commands {
                // Tells this run of the process from all others.
                proposer: Proposer::new(random::rng().random()),
                in_log: FuturesUnordered::new(),
            },
            feed: Feed::new(state.applied()),
            watchers: Watchers::default(),
            around,
            state,
            started: now,
            booted: clock::boot(),
            now,
            last_tick: now,
            serving_since: (clock, now),
            clients: Clients {
                registry: Registry::default(),
                opens: OpenTable::default(),
                locks: Locks::new(),
                leasing: Leasing::new(0, 0, []),
                in_grace: false,
            },
            grants: Grants::default(),
            topology: Topology { nodes, changed: true, publish_due: true, suspected: BTreeSet::new() },
            orphans: Orphans { reaping: BTreeSet::new(), due: true },
        }
    }

    /// Works until it is told to stop, and returns with everything that is committed applied.
    ///
    /// # Errors
    /// The process must end.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Result<Self, Fatal> {
        let mut tick = tokio::time::interval(self.around.config.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut events = Vec::with_capacity(TURN_EVENTS_MAX);
        loop {
            tokio::select! {
                biased;
                Some(committed) = inputs.committed.recv() => {
                    self.now = self.read_clock();
                    self.committed(&committed)?;
                    while let Ok(committed) = inputs.committed.try_recv() {
                        self.committed(&committed)?;
                    }
                }
                Some((tag, result)) = self.commands.in_log.next(), if !self.commands.in_log.is_empty() => {
                    self.now = self.read_clock();
                    self.proposed(tag, result)?;
                }
                _ = tick.tick() => {
                    self.now = self.read_clock();
                    self.tick()?;
                }
                n = inputs.events.recv_many(&mut events, TURN_EVENTS_MAX) => {
                    if n == 0 {
                        return Ok(self);
                    }
                    self.now = self.read_clock();
                    for event in events.drain(..) {
                        self.event(event)?;
                    }
                }
                () = inputs.stop.cancelled() => return Ok(self),
            }
            self.settle()?;
        }
    }

    fn event(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Client { connection, introduction, request, reply } => {
                self.client(connection, introduction, request, reply)?;
            }
            Event::Gone { connection } => self.disconnected(connection),
            Event::Node { node, connection, request, reply } => {
                self.node(node, connection, request, reply)?
            }
            Event::NodeGone { node, connection } => self.topology.nodes.registrations.gone(node, connection),
            Event::Heartbeat { node, connection, heartbeat } => {
                if self.topology.nodes.registrations.speaks_for(node, connection) {
                    self.topology.nodes.heard(node, heartbeat, self.now);
                }
            }
            Event::Ask(question) => question(self)?,
            Event::Propose { body, done } => self.propose_for(body, done),
        }
        Ok(())
    }

    /// What is due by time.
    fn tick(&mut self) -> Result<(), Fatal> {
        let pause = self.now.saturating_duration_since(self.last_tick);
        self.last_tick = self.now;
        self.topology.publish_due = true;
        if pause >= self.around.config.tick * PAUSE_TICKS {
            tracing::warn!(?pause, "this NameNode stood still; silence meanwhile is held against nobody");
            self.clients.registry.forgive(pause);
            self.clients.leasing.table.forgive(millis(pause));
            self.topology.nodes.forgive(pause);
        }
        self.tick_leases()?;
        self.expire_sessions();
        self.time_out_lock_waits();
        self.time_out_grants();
        self.time_out_watchers();
        self.mark_ids()
    }

    /// What holds after each turn: nodes and groups are published as they are, commands are on their way.
    fn settle(&mut self) -> Result<(), Fatal> {
        if self.topology.changed {
            self.topology.changed = false;
            self.topology.publish_due = true;
            self.topology.nodes.reload(&self.state)?;
        }
        if self.topology.publish_due {
            self.topology.nodes.excuse(clock::wall());
        }
        if std::mem::take(&mut self.topology.publish_due)
            && let Some(version) = self.topology.nodes.publish(self.now)
        {
            for pusher in self.clients.registry.pushers() {
                pusher.push(Push::PlacementChanged { version });
            }
        }
        if self.clients.in_grace && self.clients.registry.recovering() == 0 {
            self.clients.in_grace = false;
            self.orphans.due = true;
            tracing::info!("all sessions from before the start are known again");
            self.end_lock_grace();
        }
        self.serve_lease_queue()?;
        self.answer_watchers();
        while let Some((tag, entry)) = self.commands.proposer.next_entry(clock::wall(), self.clock()) {
            self.send_to_log(tag, entry);
        }
        Ok(())
    }

    fn send_to_log(&mut self, tag: u64, entry: Bytes) {
        let log = self.around.log.clone();
        self.commands.in_log.push(Box::pin(async move { (tag, log.propose(entry).await) }));
    }

    /// The logical time: where the state had it when this run began to serve, and what has passed since.
    fn clock(&self) -> LogicalTime {
        let (at, began) = self.serving_since;
        LogicalTime(at.0 + millis(self.now.saturating_duration_since(began)))
    }

    /// The time of a turn: goes on while the machine is suspended, as it does for clients and their leases.
    fn read_clock(&self) -> Instant {
        self.started + clock::boot().saturating_sub(self.booted)
    }

    /// How long this NameNode has been up.
    fn uptime(&self) -> Duration {
        self.now.saturating_duration_since(self.started)
    }
}

/// Answers without leases.
fn respond(reply: ClientReplier, result: Result<Reply, ServiceError>) {
    reply.send(Response { result, leases: Vec::new() });
}

/// An answer that says why there is none.
pub(crate) fn refusal(error: ServiceError) -> Response {
    Response { result: Err(error), leases: Vec::new() }
}
