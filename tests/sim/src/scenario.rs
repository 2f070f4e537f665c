//! One run: a cluster comes up, clients work while faults happen, faults stop, everything is judged.

use crate::cluster::Cluster;
use crate::history::History;
use crate::lock_worker::LockWorker;
use crate::tree_worker::{Dirs, TreeWorker, make_dirs};
use crate::workload::{Worker, make_files};
use crate::{Options, Outcome, Plant, Workload};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// In the end the cluster gets this long to answer every client.
pub(crate) const CONVERGENCE: Duration = Duration::from_secs(180);
/// DataNodes at the start, and those that may join.
const DATANODES: usize = 3;
const SPARES: usize = 2;
/// A clock of running time is wrong by less than so many millionths: half of what leases allow for.
const BOOT_ERROR_PPM: i64 = 20_000;

/// A run's state.
pub(crate) struct Run {
    pub(crate) random: StdRng,
    pub(crate) cluster: Cluster,
    pub(crate) history: History,
    pub(crate) files: usize,
    /// Whether clients work on the content of the files.
    data: bool,
    /// The directories, if clients work on names and attributes.
    pub(crate) dirs: Option<Dirs>,
    /// The file that clients lock, if they do.
    locked: Option<Ino>,
    pub(crate) values: Arc<AtomicU64>,
    /// The number of each client machine's present life.
    pub(crate) numbers: Vec<usize>,
    pub(crate) lives: usize,
    /// DataNodes that were started.
    pub(crate) started: usize,
    /// Those of them that are drained.
    pub(crate) drained: Vec<usize>,
    /// DataNodes whose disk had errors.
    pub(crate) sick: BTreeSet<usize>,
}

/// Runs one seed. Must be called in a runtime with one thread and paused time.
pub(crate) async fn run(seed: u64, options: &Options) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let clients = random.random_range(2..=options.clients_max);
    let mut run = Run {
        cluster: Cluster::new(seed, (DATANODES + SPARES) as u32, clients),
        history: History::default(),
        files: random.random_range(1..=3),
        data: random.random_bool(0.75),
        dirs: random.random_bool(0.5).then_some([Ino::ROOT; 2]),
        locked: random.random_bool(0.3).then_some(Ino::ROOT),
        values: Arc::default(),
        numbers: vec![0; clients as usize],
        lives: 0,
        started: DATANODES,
        drained: Vec::new(),
        sick: BTreeSet::new(),
        random,
    };
    run.data |= run.dirs.is_none();
    run.data &= options.work.contains(&Workload::Data);
    run.dirs = run.dirs.filter(|_| options.work.contains(&Workload::Tree));
    run.locked = run.locked.filter(|_| options.work.contains(&Workload::Locks));
    for machine in run.cluster.machines() {
        machine.set_boot_error(run.random.random_range(-BOOT_ERROR_PPM..BOOT_ERROR_PPM));
    }
    run.plant(options.plant);
    match run.set_up().await {
        Ok(()) => {
            run.work(options).await;
            run.stop_faults(options.plant).await;
            run.converge(options.plant).await;
            run.judge();
        }
        Err(error) => run.history.violation(format!("the cluster did not come up: {error}")),
    }
    run.outcome()
}

impl Run {
    /// Makes the fault that a checker must find.
    fn plant(&mut self, plant: Option<Plant>) {
        let cluster = &mut self.cluster;
        match plant {
            Some(Plant::NameNodeDiskLies) => cluster.namenode.disk().lie_about_syncs(),
            Some(Plant::NameNodeClockIsFast) => cluster.namenode.set_boot_error(19_000_000),
            Some(Plant::ClientClocksAreSlow) => {
                cluster.clients.iter().for_each(|client| client.set_boot_error(-900_000));
            }
            Some(Plant::RemovalsAreIgnored) => {
                cluster.datanodes.iter().for_each(|node| node.disk().ignore_removals());
            }
            Some(Plant::GarbageNeverAges) => cluster.garbage_age = Duration::from_secs(1_000_000),
            None
            | Some(
                Plant::ReplicaRots
                | Plant::ReplicaVanishes
                | Plant::LinkStaysCut
                | Plant::NameNodeStaysStopped,
            ) => {}
        }
    }

    async fn set_up(&mut self) -> Result<(), String> {
        self.cluster.start_servers(DATANODES);
        self.cluster.settle().await?;
        let (done, made) = oneshot::channel();
        let files = self.files;
        self.cluster.start_client(0).run(move |fs| async move {
            let made = async {
                let first = make_files(&fs, files).await?;
                Ok::<_, FsError>((first, make_dirs(&fs).await?))
            };
            let result = made.await;
            fs.shutdown().await;
            let _ = done.send(result);
        });
        match timeout(CONVERGENCE, made).await {
            Ok(Ok(Ok((first, dirs)))) => {
                self.dirs = self.dirs.map(|_| dirs);
                self.locked = self.locked.map(|_| first);
            }
            other => return Err(format!("the files cannot be made: {other:?}; {:?}", self.cluster.ended())),
        }
        self.cluster.clients[0].kill().await;
        (0..self.cluster.clients.len()).for_each(|index| self.start_client(index));
        Ok(())
    }

    pub(crate) fn start_client(&mut self, index: usize) {
        self.lives += 1;
        let number = self.lives;
        self.numbers[index] = number;
        self.history.note(&format!("client {number} starts on {}", self.cluster.clients[index].name()));
        let (history, values, files) = (self.history.clone(), self.values.clone(), self.files);
        let (data, dirs, locked) = (self.data, self.dirs, self.locked);
        self.cluster.start_client(index).run(move |fs| async move {
            let data = data.then(|| {
                Worker { fs: fs.clone(), number, history: history.clone(), files, values: values.clone() }
                    .run()
            });
            let tree = dirs.map(|dirs| {
                TreeWorker { fs: fs.clone(), number, history: history.clone(), dirs, values }.run()
            });
            let locks = locked.map(|ino| LockWorker { fs, number, history, ino }.run());
            tokio::join!(maybe(data), maybe(tree), maybe(locks));
        });
    }

    async fn work(&mut self, options: &Options) {
        let mut kinds = options.kinds.clone();
        kinds.retain(|_| self.random.random_bool(0.5));
        let quality = [0, 3, 10];
        let (loss, slow) =
            (*quality.choose(&mut self.random).unwrap_or(&0), 40 * self.random.random_range(0..3));
        self.cluster.network.set_quality(loss, slow);
        self.history.note(&format!("faults: {kinds:?}, datagram loss {loss}, slow packets {slow}"));
        for _ in 0..options.faults {
            sleep(self.millis(200..6_000)).await;
            if let Some(fault) = kinds.choose(&mut self.random) {
                self.inflict(*fault).await;
            }
        }
    }

    pub(crate) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    fn outcome(mut self) -> Outcome {
        let lines = self.history.lines();
        let mut hash = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        lines.iter().for_each(|line| hash.update(line.as_bytes()));
        // Whatever took another way shows in the number of steps of a disk or of draws from a source.
        for machine in self.cluster.machines() {
            hash.update(&machine.disk().steps().to_le_bytes());
        }
        hash.update(&self.cluster.network.draw().to_le_bytes());
        hash.update(&self.random.random::<u64>().to_le_bytes());
        Outcome {
            hash: hash.finalize(),
            violations: self.history.violations(),
            time: self.history.time(),
            operations: self.values.load(Ordering::Relaxed),
            history: lines,
        }
    }
}

async fn maybe(work: Option<impl Future<Output = ()>>) {
    if let Some(work) = work {
        work.await;
    }
}
