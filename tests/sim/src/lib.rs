//! A whole cluster in one process, from a seed.
//!
//! The production NameNode, DataNodes and clients run as tasks of one thread with paused time, over a simulated network and
//! simulated disks. One seed gives one history. `docs/simulation.md` says how it works and what it cannot see.

mod cluster;
mod ending;
mod entropy;
mod faults;
mod history;
mod lock_worker;
mod locks;
mod machine;
mod network;
mod register;
mod scenario;
mod tree;
mod tree_worker;
mod workload;

use std::cell::Cell;
use std::time::Duration;

/// A deliberate fault, which a checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The NameNode's disk answers syncs at once and makes nothing durable.
    NameNodeDiskLies,
    /// The NameNode's clock is twenty times too fast: it breaks leases on which clients still rely, and ends sessions that live.
    NameNodeClockIsFast,
    /// The clients' clocks are ten times too slow: they rely on leases that ended.
    ClientClocksAreSlow,
    /// DataNodes remove files, and the files stay.
    RemovalsAreIgnored,
    /// Chunks that nobody brought into a file never count as garbage.
    GarbageNeverAges,
    /// A bit of a replica flips at the end.
    ReplicaRots,
    /// A replica is gone at the end, and nobody removed it.
    ReplicaVanishes,
    /// A client does not reach the NameNode any more, although the faults are over.
    LinkStaysCut,
    /// The NameNode stays stopped, although the faults are over.
    NameNodeStaysStopped,
}

impl Plant {
    /// Every deliberate fault.
    pub const ALL: [Self; 9] = [
        Self::NameNodeDiskLies,
        Self::NameNodeClockIsFast,
        Self::ClientClocksAreSlow,
        Self::RemovalsAreIgnored,
        Self::GarbageNeverAges,
        Self::ReplicaRots,
        Self::ReplicaVanishes,
        Self::LinkStaysCut,
        Self::NameNodeStaysStopped,
    ];
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A client is killed and a new one starts.
    ClientCrash,
    /// A client is stopped for a while.
    ClientPause,
    /// Nothing passes between a client and the NameNode, in one direction or both.
    ClientCut,
    /// The NameNode is killed and starts again.
    NameNodeCrash,
    /// The NameNode's machine loses power.
    NameNodePowerLoss,
    /// The NameNode is stopped for a while.
    NameNodePause,
    /// A DataNode is killed and starts again.
    DataNodeCrash,
    /// A DataNode's machine loses power: always the same one of a run, since what was not synced may be lost with two.
    DataNodePowerLoss,
    /// A DataNode is stopped for a while.
    DataNodePause,
    /// Nothing passes between a DataNode and the NameNode, in one direction or both.
    DataNodeCut,
    /// Nothing passes between a client and a DataNode, in one direction or both.
    ClientDataNodeCut,
    /// Reads, writes or syncs of a DataNode's disk fail.
    DiskErrors,
    /// A DataNode's disk is full.
    DiskFull,
    /// A DataNode's disk does not answer for a while.
    DiskHangs,
    /// The wall clock of a machine jumps.
    ClockJump,
    /// A new DataNode joins.
    NodeAdded,
    /// A DataNode is drained, if enough others are there.
    NodeDrained,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::ClientCrash,
        Self::ClientPause,
        Self::ClientCut,
        Self::NameNodeCrash,
        Self::NameNodePowerLoss,
        Self::NameNodePause,
        Self::DataNodeCrash,
        Self::DataNodePowerLoss,
        Self::DataNodePause,
        Self::DataNodeCut,
        Self::ClientDataNodeCut,
        Self::DiskErrors,
        Self::DiskFull,
        Self::DiskHangs,
        Self::ClockJump,
        Self::NodeAdded,
        Self::NodeDrained,
    ];
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The content of files.
    Data,
    /// Names and attributes.
    Tree,
    /// Locks.
    Locks,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 3] = [Self::Data, Self::Tree, Self::Locks];
}

/// What can be chosen about a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most clients.
    pub clients_max: u32,
    /// Faults, one after the other.
    pub faults: u32,
    /// The kinds of faults that may happen; each run has about half of them.
    pub kinds: Vec<Fault>,
    /// What clients may do; each run has some of it.
    pub work: Vec<Workload>,
    /// A deliberate fault.
    pub plant: Option<Plant>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients_max: 3,
            faults: 5,
            kinds: Fault::ALL.to_vec(),
            work: Workload::ALL.to_vec(),
            plant: None,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The same for two runs of one seed.
    pub hash: u64,
    /// What must not be, and was; empty for a good run.
    pub violations: Vec<String>,
    /// Values that were written.
    pub operations: u64,
    /// Simulated time.
    pub time: Duration,
    /// Everything that happened, a line each, in simulated time.
    pub history: Vec<String>,
}

thread_local! {
    /// Panics of tasks of the run on this thread.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Runs one seed.
///
/// # Panics
/// When the machine cannot start a thread.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let options = options.clone();
    // A new thread: the keys of hash maps belong to threads and must come from the seed.
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).spawn(move || {
        entropy::seed_thread(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let mut outcome = runtime.block_on(scenario::run(seed, &options));
        runtime.shutdown_timeout(Duration::ZERO);
        if PANICS.get() > 0 {
            outcome.violations.push(format!("{} tasks panicked", PANICS.get()));
        }
        outcome
    });
    thread.expect("a thread can be started").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The smallest options, by a greedy search, under which a seed fails in the same way: fewer faults, kinds of faults, workloads and
/// clients.
pub fn shrink(seed: u64, options: &Options) -> Options {
    // The words before the colon say what is violated.
    let what = |options: &Options| {
        let violations = run(seed, options).violations;
        violations.first().and_then(|violation| violation.split(':').next()).map(str::to_owned)
    };
    let wanted = what(options);
    let mut smallest = options.clone();
    while let Some(smaller) = smaller_options(&smallest).into_iter().find(|smaller| what(smaller) == wanted) {
        smallest = smaller;
    }
    smallest
}

fn smaller_options(options: &Options) -> Vec<Options> {
    let mut all: Vec<Options> =
        (0..options.faults).map(|faults| Options { faults, ..options.clone() }).collect();
    for at in 0..options.kinds.len() {
        let mut fewer = options.clone();
        fewer.kinds.remove(at);
        all.push(fewer);
    }
    for at in 0..options.work.len() {
        let mut less = options.clone();
        less.work.remove(at);
        all.push(less);
    }
    all.extend((2..options.clients_max).map(|clients_max| Options { clients_max, ..options.clone() }));
    all
}

/// From now on a panic of a task is a violation of the run on whose thread it happens. Once for a program.
pub fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.set(PANICS.get() + 1);
        before(panic);
    }));
}
