//! Connections to DataNodes, made when they are needed, at most one to each.

use crate::timing::{CONNECT, REDIAL_AFTER};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use quarry_common::wire::data::Endpoint;
use quarry_host::task;
use quarry_net::identity::Role;
use quarry_net::transport::{Connection, Expect, Transport, TransportError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{Instant, timeout};

/// Nodes that are remembered, more than a cluster has. Beyond it, those without a connection are forgotten.
const PEERS_MAX: usize = 4096;

type Dialled = Result<Arc<dyn Connection>, TransportError>;
/// One attempt to connect. Whoever needs the node waits for the same attempt.
type Attempt = Shared<BoxFuture<'static, Dialled>>;

/// What is known of one node at one address.
enum Peer {
    Dialling(Attempt),
    Connected(Arc<dyn Connection>),
    Failed(Instant, TransportError),
}

/// A connection, and whether it was made for this request: an older one may lead to a process that is gone.
pub(crate) struct Found {
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) fresh: bool,
}

/// The connections. No lock is held while connecting, so a node that does not answer delays only the requests to it.
pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    /// By node *and* address: a wrong address of a node does not displace the right one.
    peers: Mutex<HashMap<Endpoint, Peer>>,
}

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, peers: Mutex::default() }
    }

    /// A connection to the node, whose certificate has proven that it is this one.
    ///
    /// # Errors
    /// When it cannot be reached, or could not be a moment ago.
    pub(crate) async fn connect(&self, to: &Endpoint) -> Result<Found, TransportError> {
        let attempt = {
            let mut peers = self.peers();
            match peers.get(to) {
                Some(Peer::Connected(connection)) if !connection.is_closed() => {
                    return Ok(Found { connection: connection.clone(), fresh: false });
                }
                Some(Peer::Failed(at, error)) if at.elapsed() < REDIAL_AFTER => return Err(error.clone()),
                Some(Peer::Dialling(attempt)) => attempt.clone(),
                _ => {
                    make_room(&mut peers);
                    let attempt = self.dial(to);
                    peers.insert(to.clone(), Peer::Dialling(attempt.clone()));
                    attempt
                }
            }
        };
        let outcome = attempt.clone().await;
        self.settle(to, &attempt, &outcome);
        outcome.map(|connection| Found { connection, fresh: true })
    }

    /// Drops a connection that turned out to be of no use, so that the next request connects anew.
    pub(crate) fn forget(&self, to: &Endpoint, useless: &Arc<dyn Connection>) {
        let mut peers = self.peers();
        if matches!(peers.get(to), Some(Peer::Connected(known)) if Arc::ptr_eq(known, useless)) {
            peers.remove(to);
        }
    }

    fn dial(&self, to: &Endpoint) -> Attempt {
        let (transport, address) = (self.transport.clone(), to.address.clone());
        let expect = Expect { role: Role::DataNode, id: Some(to.node.to_string()) };
        let dial = async move {
            let connecting = transport.connect(&address, &expect);
            timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
                Err(TransportError::Unreachable { address, reason: "it does not answer".into() })
            })
        };
        // A task of its own: the attempt goes on when the request that began it is given up.
        let task = task::spawn(dial);
        async move { task.await.unwrap_or_else(|e| Err(TransportError::Lost(e.to_string()))) }
            .boxed()
            .shared()
    }

    /// Notes the outcome of an attempt, unless a request that waited for the same one already has.
    fn settle(&self, to: &Endpoint, attempt: &Attempt, outcome: &Dialled) {
        let mut peers = self.peers();
        if !matches!(peers.get(to), Some(Peer::Dialling(now)) if now.ptr_eq(attempt)) {
            return;
        }
        let peer = match outcome {
            Ok(connection) => Peer::Connected(connection.clone()),
            Err(error) => Peer::Failed(Instant::now(), error.clone()),
        };
        peers.insert(to.clone(), peer);
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<Endpoint, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(peers: &mut HashMap<Endpoint, Peer>) {
    if peers.len() >= PEERS_MAX {
        peers.retain(|_, peer| match peer {
            Peer::Connected(connection) => !connection.is_closed(),
            Peer::Dialling(_) => true,
            Peer::Failed(..) => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use quarry_common::ids::NodeId;
    use quarry_net::identity::Identity;
    use quarry_net::transport::{Listener, Stream};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::task::yield_now;

    /// Connects at once, never (address `silent`), or not at all (`absent`).
    struct FakeTransport {
        identity: Identity,
        dials: AtomicUsize,
    }

    struct FakeConnection {
        identity: Identity,
        closed: AtomicBool,
    }

    #[async_trait]
    impl Transport for FakeTransport {
        fn identity(&self) -> &Identity {
            &self.identity
        }
        async fn connect(&self, address: &str, _: &Expect) -> Dialled {
            self.dials.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
            match address {
                "silent" => std::future::pending().await,
                "absent" => {
                    Err(TransportError::Unreachable { address: address.into(), reason: "absent".into() })
                }
                _ => {
                    let closed = AtomicBool::new(false);
                    Ok(Arc::new(FakeConnection { identity: self.identity.clone(), closed }))
                }
            }
        }
        async fn listen(&self, _: SocketAddr) -> Result<Box<dyn Listener>, TransportError> {
            unreachable!("a client does not listen")
        }
    }

    #[async_trait]
    impl Connection for FakeConnection {
        fn peer(&self) -> &Identity {
            &self.identity
        }
        fn remote_address(&self) -> SocketAddr {
            ([127, 0, 0, 1], 1).into()
        }
        async fn open(&self) -> Result<Stream, TransportError> {
            Err(TransportError::Reset)
        }
        async fn accept(&self) -> Result<Stream, TransportError> {
            Err(TransportError::Reset)
        }
        fn send_datagram(&self, _: Bytes) -> Result<(), TransportError> {
            Err(TransportError::Reset)
        }
        async fn recv_datagram(&self) -> Result<Bytes, TransportError> {
            Err(TransportError::Reset)
        }
        fn close(&self, _: &str) {
            self.closed.store(true, Ordering::Relaxed);
        }
        async fn closed(&self) -> TransportError {
            std::future::pending().await
        }
        fn is_closed(&self) -> bool {
            self.closed.load(Ordering::Relaxed)
        }
    }

    fn pool() -> (Arc<FakeTransport>, Pool) {
        let identity = Identity { cluster: "test".into(), role: Role::Client, id: "1".into() };
        let transport = Arc::new(FakeTransport { identity, dials: AtomicUsize::new(0) });
        (transport.clone(), Pool::new(transport))
    }

    fn at(node: u32, address: &str) -> Endpoint {
        Endpoint { node: NodeId(node), address: address.into() }
    }

    #[tokio::test]
    async fn requests_share_one_attempt_and_then_one_connection() {
        let (transport, pool) = pool();
        let to = at(1, "a");
        let (one, two) = tokio::join!(pool.connect(&to), pool.connect(&to));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.fresh && two.fresh && Arc::ptr_eq(&one.connection, &two.connection));
        let three = pool.connect(&to).await.unwrap();
        assert!(!three.fresh && Arc::ptr_eq(&one.connection, &three.connection));
        assert_eq!(transport.dials.load(Ordering::Relaxed), 1);
        one.connection.close("over");
        assert!(pool.connect(&to).await.unwrap().fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_delays_nobody_else_not_even_requests_to_the_same_node() {
        let (_, pool) = pool();
        let (hole, good) = (at(1, "silent"), at(1, "a"));
        let waiting = pool.connect(&hole);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        let began = Instant::now();
        pool.connect(&good).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(waiting.await.is_err());
        assert!(began.elapsed() >= CONNECT);
        assert!(!pool.connect(&good).await.unwrap().fresh, "the right address is still known");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_all_fail_together_for_a_while() {
        let (transport, pool) = pool();
        let to = at(1, "absent");
        for _ in 0..3 {
            assert!(pool.connect(&to).await.is_err());
        }
        assert_eq!(transport.dials.load(Ordering::Relaxed), 1);
        tokio::time::advance(REDIAL_AFTER).await;
        assert!(pool.connect(&to).await.is_err());
        assert_eq!(transport.dials.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_goes_on_without_the_request_that_began_it() {
        let (transport, pool) = pool();
        let to = at(1, "a");
        {
            let given_up = pool.connect(&to);
            tokio::pin!(given_up);
            assert!(futures::poll!(&mut given_up).is_pending());
        }
        pool.connect(&to).await.unwrap();
        assert_eq!(transport.dials.load(Ordering::Relaxed), 1);
    }
}
