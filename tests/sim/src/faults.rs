//! What goes wrong during a run.

use crate::Fault;
use crate::history::{History, Object};
use crate::locks::Locking;
use crate::machine::{Life, Machine};
use crate::register::Register;
use crate::scenario::{CONVERGENCE, Run};
use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::Administer;
use quarry_host::disk::faulty::Calls;
use rand::Rng;
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// After a client was in trouble, its leases are broken and what it sent has arrived within this time.
const AFTERMATH: Duration = Duration::from_secs(60);
/// Where DataNodes keep their chunks.
pub(crate) const DATA: &str = "/data";
/// A full disk has so many bytes: less than a run writes.
const FULL_BYTES: u64 = 200_000;
/// An ordinary one has so many.
const DISK_BYTES: u64 = 1 << 40;
/// The wall clock may be wrong by so much.
const WALL_ERROR_MS: i64 = 24 * 3600 * 1000;
/// DataNodes that stay when another is drained: as many as there are copies.
const STAY: usize = 3;

impl Run {
    /// What a client had not synced may be lost from now on, until some time after, and so may its locks.
    pub(crate) fn trouble(&self, number: usize, time: Duration) {
        self.trouble_with_data(number, time);
        let trouble = Locking::Trouble(number);
        let (history, ticket) =
            (self.history.clone(), self.history.call(Object::Lock(0), number, trouble.clone()));
        tokio::spawn(async move {
            sleep(time + AFTERMATH).await;
            history.returned(ticket, trouble);
        });
    }

    /// What a client had not synced may be lost.
    fn trouble_with_data(&self, number: usize, time: Duration) {
        let (history, files) = (self.history.clone(), self.files);
        let now = move |history: &History, operation: fn(usize) -> Register| {
            for file in 0..files {
                let ticket = history.call(Object::File(file), number, operation(number));
                history.returned(ticket, operation(number));
            }
        };
        now(&history, Register::TroubleBegins);
        tokio::spawn(async move {
            sleep(time + AFTERMATH).await;
            now(&history, Register::TroubleEnds);
        });
    }

    /// Every client may fail to bring in what it has not synced.
    fn trouble_with_all_data(&self, time: Duration) {
        self.numbers.iter().for_each(|number| self.trouble_with_data(*number, time));
    }

    fn trouble_for_all(&self, time: Duration) {
        self.numbers.iter().for_each(|number| self.trouble(*number, time));
    }

    /// Makes a fault happen, and ends it.
    pub(crate) async fn inflict(&mut self, fault: Fault) {
        let client = self.random.random_range(0..self.cluster.clients.len());
        let datanode = self.random.random_range(0..self.started);
        let number = self.numbers[client];
        let (short, long) = (self.millis(0..4_000), self.millis(500..40_000));
        let on = match fault {
            Fault::ClientCrash | Fault::ClientPause | Fault::ClientCut => format!(" of client {number}"),
            Fault::ClientDataNodeCut => format!(" between client {number} and DataNode {}", datanode + 1),
            Fault::NameNodeCrash | Fault::NameNodePowerLoss | Fault::NameNodePause => String::new(),
            Fault::ClockJump | Fault::NodeAdded | Fault::DataNodePowerLoss => String::new(),
            _ => format!(" of DataNode {}", datanode + 1),
        };
        self.history.note(&format!("{fault:?}{on}"));
        let namenode = self.cluster.namenode.clone();
        match fault {
            Fault::ClientCrash => {
                self.trouble(number, short);
                self.cluster.clients[client].kill().await;
                sleep(short).await;
                self.start_client(client);
            }
            Fault::ClientPause => {
                self.trouble(number, long);
                pause(self.cluster.clients[client].life(), long).await;
            }
            Fault::ClientCut => {
                self.trouble(number, long);
                let machine = self.cluster.clients[client].clone();
                self.cut(&machine, &namenode, long).await;
            }
            Fault::NameNodeCrash | Fault::NameNodePowerLoss => {
                if fault == Fault::NameNodeCrash {
                    namenode.kill().await;
                } else {
                    namenode.lose_power().await;
                }
                // While it is away, and until leases are claimed again, every client may lose what it buffered.
                self.trouble_for_all(short);
                sleep(short).await;
                self.cluster.start_namenode();
            }
            Fault::NameNodePause => {
                self.trouble_for_all(long);
                pause(namenode.life(), long).await;
            }
            Fault::DataNodeCrash => {
                self.cluster.datanodes[datanode].kill().await;
                sleep(long).await;
                self.cluster.start_datanode(datanode);
            }
            Fault::DataNodePowerLoss => {
                self.cluster.datanodes[0].lose_power().await;
                sleep(long).await;
                self.cluster.start_datanode(0);
            }
            Fault::DataNodePause => {
                self.trouble_with_all_data(long);
                pause(self.cluster.datanodes[datanode].life(), long).await;
            }
            Fault::DataNodeCut => {
                let machine = self.cluster.datanodes[datanode].clone();
                self.cut(&machine, &namenode, long).await;
            }
            Fault::ClientDataNodeCut => {
                // What it cannot bring in before another wants it is lost.
                self.trouble_with_data(number, long);
                let (a, b) = (self.cluster.clients[client].clone(), self.cluster.datanodes[datanode].clone());
                self.cut(&a, &b, long).await;
            }
            Fault::DiskErrors => {
                self.trouble_with_all_data(long);
                let calls = [Calls::Reads, Calls::Writes, Calls::Syncs];
                let calls = calls[self.random.random_range(0..calls.len())];
                self.history.note(&format!("{calls:?} fail"));
                let disk = self.cluster.datanodes[datanode].disk().clone();
                disk.fail(Path::new(DATA), calls, Errno::IO);
                sleep(long).await;
                disk.heal();
                self.sick.insert(datanode);
            }
            Fault::DiskFull => {
                self.trouble_with_all_data(long);
                let disk = self.cluster.datanodes[datanode].disk().clone();
                disk.size(Path::new(DATA), FULL_BYTES);
                sleep(long).await;
                disk.size(Path::new(DATA), DISK_BYTES);
            }
            Fault::DiskHangs => {
                self.trouble_with_all_data(long);
                self.cluster.datanodes[datanode].hang(long);
                sleep(long).await;
            }
            Fault::ClockJump => self.jump_a_clock(),
            Fault::NodeAdded => self.add_node(),
            Fault::NodeDrained => self.drain(datanode).await,
        }
        self.history.note(&format!("{fault:?} is over"));
    }

    fn jump_a_clock(&mut self) {
        let Self { cluster, random, .. } = self;
        let machines: Vec<_> = cluster.machines().collect();
        let machine = machines[random.random_range(0..machines.len())];
        let ms = random.random_range(-WALL_ERROR_MS..WALL_ERROR_MS);
        machine.set_wall_error(ms);
        self.history.note(&format!("the wall clock of {} is {ms} ms wrong", machine.name()));
    }

    fn add_node(&mut self) {
        if self.started < self.cluster.datanodes.len() {
            self.cluster.start_datanode(self.started);
            self.started += 1;
            self.history.note(&format!("DataNode {} joins", self.started));
        }
    }

    async fn drain(&mut self, datanode: usize) {
        if self.started - self.drained.len() <= STAY || self.drained.contains(&datanode) {
            return self.history.note("no node can be missed");
        }
        self.drained.push(datanode);
        let (done, told) = oneshot::channel();
        self.cluster.start_admin().run(move |fs| async move {
            let told = fs.administer(Administer::Drain(NodeId(datanode as u32 + 1))).await;
            fs.shutdown().await;
            let _ = done.send(told);
        });
        let told = timeout(CONVERGENCE, told).await;
        self.history.note(&format!("the administrator drains DataNode {}: {told:?}", datanode + 1));
        self.cluster.admin.kill().await;
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
}

async fn pause(life: Option<Arc<Life>>, time: Duration) {
    life.iter().for_each(|life| life.pause());
    sleep(time).await;
    life.iter().for_each(|life| life.resume());
}
