//! One run: a cluster comes up, clients work while faults happen, faults stop, everything is judged.

use crate::cluster::Cluster;
use crate::history::History;
use crate::machine::Machine;
use crate::register::{Content, Register};
use crate::workload::{Worker, make_files, read_all};
use crate::{Fault, Options, Outcome, Plant};
use quarry_tests::linear;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// In the end the cluster gets this long to answer every client.
const CONVERGENCE: Duration = Duration::from_secs(180);
/// After a client was in trouble, its leases are broken and what it sent has arrived within this time.
const AFTERMATH: Duration = Duration::from_secs(60);
const DATANODES: u32 = 3;

/// A run's state.
struct Run {
    random: StdRng,
    cluster: Cluster,
    history: History,
    files: usize,
    values: Arc<AtomicU64>,
    /// The number of each client machine's present life.
    numbers: Vec<usize>,
    lives: usize,
}

/// Runs one seed. Must be called in a runtime with one thread and paused time.
pub(crate) async fn run(seed: u64, options: &Options) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let clients = random.random_range(2..=options.clients_max);
    let mut run = Run {
        cluster: Cluster::new(seed, DATANODES, clients),
        history: History::default(),
        files: random.random_range(1..=3),
        values: Arc::default(),
        numbers: vec![0; clients as usize],
        lives: 0,
        random,
    };
    run.plant(options.plant);
    match run.set_up().await {
        Ok(()) => {
            run.work(options).await;
            run.stop_faults().await;
            run.judge();
        }
        Err(error) => run.history.violation(format!("the cluster did not come up: {error}")),
    }
    run.outcome()
}

impl Run {
    /// Makes the fault that a checker must find.
    fn plant(&self, plant: Option<Plant>) {
        match plant {
            None => {}
            Some(Plant::NameNodeDiskLies) => self.cluster.namenode.disk().lie_about_syncs(),
            Some(Plant::NameNodeClockIsFast) => self.cluster.namenode.set_boot_rate(20),
        }
    }

    async fn set_up(&mut self) -> Result<(), String> {
        self.cluster.start_servers();
        self.cluster.settle().await?;
        let (done, made) = oneshot::channel();
        let files = self.files;
        self.cluster.start_client(0).run(move |fs| async move {
            let result = make_files(&fs, files).await;
            fs.shutdown().await;
            let _ = done.send(result);
        });
        match timeout(CONVERGENCE, made).await {
            Ok(Ok(Ok(()))) => {}
            other => return Err(format!("the files cannot be made: {other:?}; {:?}", self.cluster.ended())),
        }
        self.cluster.clients[0].kill().await;
        (0..self.cluster.clients.len()).for_each(|index| self.start_client(index));
        Ok(())
    }

    fn start_client(&mut self, index: usize) {
        self.lives += 1;
        let number = self.lives;
        self.numbers[index] = number;
        self.history.note(&format!("client {number} starts on {}", self.cluster.clients[index].name()));
        let (history, files, values) = (self.history.clone(), self.files, self.values.clone());
        self.cluster.start_client(index).run(move |fs| Worker { fs, number, history, files, values }.run());
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

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    /// What a client had not synced may be lost from now on, until some time after.
    fn trouble(&self, number: usize, time: Duration) {
        for file in 0..self.files {
            let ticket = self.history.call(file, number, Register::Trouble(number));
            let history = self.history.clone();
            tokio::spawn(async move {
                sleep(time + AFTERMATH).await;
                history.returned(ticket, Register::Trouble(number));
            });
        }
    }

    async fn inflict(&mut self, fault: Fault) {
        self.history.note(&format!("{fault:?}"));
        let client = self.random.random_range(0..self.cluster.clients.len());
        let datanode = self.random.random_range(0..self.cluster.datanodes.len());
        let number = self.numbers[client];
        let (short, long) = (self.millis(0..4_000), self.millis(500..40_000));
        match fault {
            Fault::ClientCrash => {
                self.trouble(number, short);
                self.cluster.clients[client].kill().await;
                sleep(short).await;
                self.start_client(client);
            }
            Fault::ClientPause => {
                self.trouble(number, long);
                let life = self.cluster.clients[client].life();
                life.iter().for_each(|life| life.pause());
                sleep(long).await;
                life.iter().for_each(|life| life.resume());
            }
            Fault::ClientCut => {
                self.trouble(number, long);
                let machine = self.cluster.clients[client].clone();
                let namenode = self.cluster.namenode.clone();
                self.cut(&machine, &namenode, long).await;
            }
            Fault::NameNodeCrash | Fault::NameNodePowerLoss => {
                if fault == Fault::NameNodeCrash {
                    self.cluster.namenode.kill().await;
                } else {
                    self.cluster.namenode.lose_power().await;
                }
                // While it is away, and until leases are claimed again, every client may lose what it buffered.
                self.numbers.clone().into_iter().for_each(|number| self.trouble(number, short));
                sleep(short).await;
                self.cluster.start_namenode();
            }
            Fault::DataNodeCrash => {
                self.cluster.datanodes[datanode].kill().await;
                sleep(long).await;
                self.cluster.start_datanode(datanode);
            }
            Fault::DataNodeCut => {
                let machine = self.cluster.datanodes[datanode].clone();
                let namenode = self.cluster.namenode.clone();
                self.cut(&machine, &namenode, long).await;
            }
        }
        self.history.note(&format!("{fault:?} is over"));
    }

    /// Cuts the link between two machines, in one direction or both.
    async fn cut(&mut self, a: &Arc<Machine>, b: &Arc<Machine>, time: Duration) {
        let ways = self.random.random_range(1..4);
        let network = &self.cluster.network;
        if ways & 1 != 0 {
            network.cut(a.id, b.id);
        }
        if ways & 2 != 0 {
            network.cut(b.id, a.id);
        }
        sleep(time).await;
        network.heal();
    }

    /// From here on everything works: a new client must be able to read every file.
    async fn stop_faults(&mut self) {
        self.cluster.network.heal();
        self.cluster.network.set_quality(0, 0);
        self.history.note("faults are over");
        sleep(self.millis(100..3_000)).await;
        let index = self.random.random_range(0..self.cluster.clients.len());
        self.trouble(self.numbers[index], Duration::ZERO);
        self.cluster.clients[index].kill().await;
        self.lives += 1;
        let (number, files, history) = (self.lives, self.files, self.history.clone());
        let (done, read) = oneshot::channel();
        self.cluster.start_client(index).run(move |fs| async move {
            read_all(&fs, number, files, &history).await;
            let _ = done.send(());
        });
        if timeout(CONVERGENCE, read).await.is_err() {
            self.history.violation("the cluster does not answer after all faults are over".to_owned());
        }
    }

    fn judge(&self) {
        for ended in self.cluster.ended() {
            self.history.violation(ended);
        }
        for (file, operations) in self.history.operations() {
            if let Err(why) = linear::check(Content::new(0), &operations) {
                self.history.violation(format!("file {file}: {why}"));
            }
        }
    }

    fn outcome(mut self) -> Outcome {
        let lines = self.history.lines();
        let mut hash = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        lines.iter().for_each(|line| hash.update(line.as_bytes()));
        // Whatever took another way shows in the number of steps of a disk or of draws from a source.
        let machines = [&self.cluster.namenode];
        for machine in machines.into_iter().chain(&self.cluster.datanodes) {
            hash.update(&machine.disk().steps().to_le_bytes());
        }
        hash.update(&self.cluster.network.draw().to_le_bytes());
        hash.update(&self.random.random::<u64>().to_le_bytes());
        Outcome {
            hash: hash.finalize(),
            violations: self.history.violations(),
            operations: self.values.load(Ordering::Relaxed),
            history: lines,
        }
    }
}
