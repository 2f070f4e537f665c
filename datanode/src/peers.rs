//! Connections to other DataNodes, one for each node, made when they are needed.

use quarry_common::ids::NodeId;
use quarry_common::wire::data::ChainHop;
use quarry_net::identity::Role;
use quarry_net::transport::{Connection, Expect, Transport, TransportError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// A node that does not take a connection in this time is as good as dead for a writer that waits.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// After a failure all others are told the same for this long, instead of each waiting for its own time-out.
const FAILURE_HOLD: Duration = Duration::from_secs(1);
/// Nodes that are remembered. Addresses come from clients, so there must be a limit.
const PEERS_MAX: usize = 1024;

/// What is known of one node.
#[derive(Default)]
enum Peer {
    #[default]
    Unknown,
    Connected {
        address: String,
        connection: Arc<dyn Connection>,
    },
    Failed {
        address: String,
        at: Instant,
        error: TransportError,
    },
}

/// The lock is held while connecting: who comes second waits for the same connection.
type Slot = Arc<tokio::sync::Mutex<Peer>>;

/// A connection, and whether it was made just now: an old one may lead to a process that is gone.
pub(crate) struct Found {
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) fresh: bool,
}

/// The pool.
pub(crate) struct Peers {
    transport: Arc<dyn Transport>,
    slots: Mutex<HashMap<NodeId, Slot>>,
}

impl Peers {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, slots: Mutex::default() }
    }

    /// A connection to the node, whose certificate has proven that it is this one.
    ///
    /// # Errors
    /// When it cannot be reached, or could not be a moment ago.
    pub(crate) async fn connect(&self, hop: &ChainHop) -> Result<Found, TransportError> {
        let slot = self.slot(hop.node);
        let mut peer = slot.lock().await;
        match &*peer {
            Peer::Connected { address, connection } if *address == hop.address && !connection.is_closed() => {
                return Ok(Found { connection: connection.clone(), fresh: false });
            }
            Peer::Failed { address, at, error } if *address == hop.address && at.elapsed() < FAILURE_HOLD => {
                return Err(error.clone());
            }
            _ => {}
        }
        let expect = Expect { role: Role::DataNode, id: Some(hop.node.to_string()) };
        let connecting = self.transport.connect(&hop.address, &expect);
        let outcome = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
            let reason = "it does not answer".to_owned();
            Err(TransportError::Unreachable { address: hop.address.clone(), reason })
        });
        let address = hop.address.clone();
        match outcome {
            Ok(connection) => {
                *peer = Peer::Connected { address, connection: connection.clone() };
                Ok(Found { connection, fresh: true })
            }
            Err(error) => {
                *peer = Peer::Failed { address, at: Instant::now(), error: error.clone() };
                Err(error)
            }
        }
    }

    /// Drops a connection that turned out to be of no use, so that the next one connects anew.
    pub(crate) async fn forget(&self, node: NodeId, useless: &Arc<dyn Connection>) {
        let slot = self.slot(node);
        let mut peer = slot.lock().await;
        if matches!(&*peer, Peer::Connected { connection, .. } if Arc::ptr_eq(connection, useless)) {
            *peer = Peer::Unknown;
        }
    }

    fn slot(&self, node: NodeId) -> Slot {
        let mut slots = self.slots();
        if slots.len() >= PEERS_MAX && !slots.contains_key(&node) {
            // Those that nobody waits for and that have no living connection.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot.try_lock().is_ok_and(|peer| {
                        matches!(&*peer, Peer::Connected { connection, .. } if !connection.is_closed())
                    })
            });
            if slots.len() >= PEERS_MAX {
                // Not remembered: this request connects for itself alone.
                return Slot::default();
            }
        }
        slots.entry(node).or_default().clone()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<NodeId, Slot>> {
        self.slots.lock().expect("no thread panics while it holds the lock")
    }
}
