//! The simulated network: connections between lives of machines, over links that can be cut in one direction or both.
//!
//! Like QUIC: streams keep their order and are independent of each other, what a cut link holds back arrives when it heals, a
//! connection whose peer is silent for [`IDLE_TIMEOUT`] is lost, datagrams may vanish. A machine whose process was killed answers
//! like a host with a closed port: its peers notice soon.

mod connection;
mod stream;
mod transport;

pub(crate) use transport::{SimTransport, ip_of};

use crate::machine::{Life, MachineId};
use connection::Half;
use quarry_net::identity::Identity;
use quarry_net::transport::Connection;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// A silent peer is given up after this time, as by the QUIC transport.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often connections are looked at: a closed port shows within this time.
const LOOK: Duration = Duration::from_secs(1);
/// Delay of one packet.
const LATENCY_US: std::ops::Range<u64> = 50..2_000;

/// A listening socket.
struct Socket {
    life: Arc<Life>,
    machine: MachineId,
    identity: Identity,
    incoming: mpsc::UnboundedSender<Arc<dyn Connection>>,
}

struct Net {
    random: StdRng,
    sockets: BTreeMap<SocketAddr, Socket>,
    /// Directions in which nothing passes.
    cut: BTreeSet<(MachineId, MachineId)>,
    /// Both halves of each connection.
    connections: Vec<(Arc<Half>, Arc<Half>)>,
    /// One of so many datagrams vanishes; 0: none.
    datagram_loss: u32,
    /// Packets of one in so many messages are lost and sent again, which takes long; 0: none.
    slow_packets: u32,
}

/// The network; clones are the same one.
#[derive(Clone)]
pub(crate) struct Network {
    net: Arc<Mutex<Net>>,
    /// Told when links heal.
    changed: Arc<Notify>,
    /// Runs what no process does.
    runtime: Handle,
}

impl Network {
    /// A network without machines. Must be made within the runtime of the simulation.
    pub(crate) fn new(seed: u64) -> Self {
        let net = Net {
            random: StdRng::seed_from_u64(seed),
            sockets: BTreeMap::new(),
            cut: BTreeSet::new(),
            connections: Vec::new(),
            datagram_loss: 0,
            slow_packets: 0,
        };
        let network =
            Self { net: Arc::new(Mutex::new(net)), changed: Arc::default(), runtime: Handle::current() };
        tokio::spawn(network.clone().look_after_connections());
        network
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing passes from one machine to the other any more.
    pub(crate) fn cut(&self, from: MachineId, to: MachineId) {
        self.net().cut.insert((from, to));
    }

    /// All links pass everything again.
    pub(crate) fn heal(&self) {
        self.net().cut.clear();
        self.changed.notify_waiters();
    }

    /// From now on one of so many datagrams is lost, and one of so many messages is late; 0 for none.
    pub(crate) fn set_quality(&self, datagram_loss: u32, slow_packets: u32) {
        let mut net = self.net();
        (net.datagram_loss, net.slow_packets) = (datagram_loss, slow_packets);
    }

    /// A number that depends on how much was sent before.
    pub(crate) fn draw(&self) -> u64 {
        self.net().random.random()
    }

    fn passes(&self, from: MachineId, to: MachineId) -> bool {
        !self.net().cut.contains(&(from, to))
    }

    /// When a packet that is sent now arrives.
    fn arrival(&self) -> Instant {
        let mut net = self.net();
        let mut micros = net.random.random_range(LATENCY_US);
        let slow_packets = net.slow_packets;
        if slow_packets > 0 && net.random.random_ratio(1, slow_packets) {
            micros *= 200;
        }
        Instant::now() + Duration::from_micros(micros)
    }

    fn loses_datagram(&self) -> bool {
        let mut net = self.net();
        let loss = net.datagram_loss;
        loss > 0 && net.random.random_ratio(1, loss)
    }

    /// Breaks connections whose peer is silent or gone.
    async fn look_after_connections(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let all: Vec<_> = self.net().connections.clone();
            for (a, b) in &all {
                a.look_at(b, &self);
                b.look_at(a, &self);
            }
            self.net().connections.retain(|(a, b)| !(a.is_over() && b.is_over()));
        }
    }
}
