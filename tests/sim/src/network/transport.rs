//! The transport of one life of a machine.

use super::connection::{Ends, Half, SimConnection};
use super::{Network, Socket};
use crate::machine::{Life, MachineId};
use async_trait::async_trait;
use quarry_net::identity::Identity;
use quarry_net::transport::{Connection, Expect, Listener, Transport, TransportError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, sleep_until};

/// How long a connection attempt waits for an answer, as in the QUIC transport.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a process connects and listens with.
pub(crate) struct SimTransport {
    network: Network,
    life: Arc<Life>,
    machine: MachineId,
    identity: Identity,
}

/// The address of a machine.
pub(crate) fn ip_of(machine: MachineId) -> IpAddr {
    let [_, _, high, low] = machine.0.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

impl SimTransport {
    /// For one life of a machine.
    pub(crate) fn new(
        network: &Network,
        life: &Arc<Life>,
        machine: MachineId,
        identity: Identity,
    ) -> Arc<Self> {
        Arc::new(Self { network: network.clone(), life: life.clone(), machine, identity })
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn connect(&self, address: &str, expect: &Expect) -> Result<Arc<dyn Connection>, TransportError> {
        let unreachable = |reason: &str| TransportError::Unreachable {
            address: address.to_owned(),
            reason: reason.to_owned(),
        };
        let to: SocketAddr = address.parse().map_err(|_| unreachable("no address"))?;
        sleep_until(self.network.arrival()).await;
        let found = self.network.net().sockets.get(&to).map(|socket| {
            (socket.life.clone(), socket.machine, socket.identity.clone(), socket.incoming.clone())
        });
        let Some((life, machine, identity, incoming)) = found else {
            return Err(unreachable("nothing listens there"));
        };
        let both = self.network.passes(self.machine, machine) && self.network.passes(machine, self.machine);
        if !both || !life.is_running() {
            if both && life.is_gone() {
                return Err(unreachable("nothing listens there"));
            }
            sleep(HANDSHAKE_TIMEOUT).await;
            return Err(unreachable("no answer in time"));
        }
        let expected = identity.role == expect.role && expect.id.as_ref().is_none_or(|id| *id == identity.id);
        if !expected || identity.cluster != self.identity.cluster {
            return Err(TransportError::Untrusted {
                address: address.to_owned(),
                reason: format!("it is {identity}"),
            });
        }
        let from = SocketAddr::new(ip_of(self.machine), 0);
        let [ours, theirs] = Half::pair(
            &self.network,
            [
                Ends {
                    local: self.machine,
                    remote: machine,
                    address: to,
                    peer: identity,
                    life: self.life.clone(),
                },
                Ends {
                    local: machine,
                    remote: self.machine,
                    address: from,
                    peer: self.identity.clone(),
                    life,
                },
            ],
        );
        incoming
            .send(Arc::new(SimConnection(theirs)))
            .map_err(|_| unreachable("nothing listens there any more"))?;
        sleep_until(self.network.arrival()).await;
        Ok(Arc::new(SimConnection(ours)))
    }

    async fn listen(&self, address: SocketAddr) -> Result<Box<dyn Listener>, TransportError> {
        let (sender, incoming) = mpsc::unbounded_channel();
        let socket = Socket {
            life: self.life.clone(),
            machine: self.machine,
            identity: self.identity.clone(),
            incoming: sender,
        };
        self.network.net().sockets.insert(address, socket);
        Ok(Box::new(SimListener { network: self.network.clone(), address, incoming: Mutex::new(incoming) }))
    }
}

struct SimListener {
    network: Network,
    address: SocketAddr,
    incoming: Mutex<mpsc::UnboundedReceiver<Arc<dyn Connection>>>,
}

#[async_trait]
impl Listener for SimListener {
    fn local_address(&self) -> SocketAddr {
        self.address
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.incoming.lock().await.recv().await
    }

    async fn close(&self) {
        self.network.net().sockets.remove(&self.address);
    }
}
