//! One end of a simulated connection.

use super::stream::{Lane, Receiver, Sender, lock};
use super::{IDLE_TIMEOUT, Network};
use crate::machine::{Life, MachineId};
use async_trait::async_trait;
use bytes::Bytes;
use quarry_net::identity::Identity;
use quarry_net::transport::{Connection, Stream, TransportError};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Things on their way in one direction, in their order.
pub(super) struct Pipe<T> {
    pub(super) queue: Mutex<VecDeque<(Instant, T)>>,
    pub(super) changed: Notify,
}

impl<T> Default for Pipe<T> {
    fn default() -> Self {
        Self { queue: Mutex::default(), changed: Notify::new() }
    }
}

impl<T> Pipe<T> {
    pub(super) fn send(&self, arrival: Instant, item: T) {
        let mut queue = lock(&self.queue);
        let arrival = queue.back().map_or(arrival, |(before, _)| arrival.max(*before));
        queue.push_back((arrival, item));
        drop(queue);
        self.changed.notify_waiters();
    }

    /// The first thing, if it has arrived, or when it will.
    fn look(&self) -> Result<T, Option<Instant>> {
        let mut queue = lock(&self.queue);
        match queue.pop_front() {
            Some((arrival, item)) if arrival <= Instant::now() => Ok(item),
            Some((arrival, item)) => {
                queue.push_front((arrival, item));
                Err(Some(arrival))
            }
            None => Err(None),
        }
    }

    /// The next thing, once it arrived over a link that passes; an error when the connection is over.
    pub(super) async fn receive(&self, half: &Half) -> Result<T, TransportError> {
        loop {
            let (changed, healed, over) =
                (self.changed.notified(), half.network.changed.notified(), half.ended.notified());
            tokio::pin!(changed, healed, over);
            changed.as_mut().enable();
            healed.as_mut().enable();
            over.as_mut().enable();
            if let Some(error) = half.failure() {
                return Err(error);
            }
            let due = match half.network.passes(half.remote, half.local).then(|| self.look()) {
                Some(Ok(item)) => {
                    self.changed.notify_waiters();
                    return Ok(item);
                }
                Some(Err(due)) => due,
                None => None,
            };
            let arrived = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = over => {}
                () = arrived => {}
                () = changed => {}
                () = healed => {}
            }
        }
    }
}

/// Why a connection ended, and when its peer was heard last.
struct End {
    error: Option<TransportError>,
    heard: Instant,
}

/// One end of a connection.
pub(super) struct Half {
    pub(super) network: Network,
    local: MachineId,
    remote: MachineId,
    address: SocketAddr,
    peer: Identity,
    pub(super) life: Arc<Life>,
    /// Streams that the peer opened.
    streams: Pipe<Stream>,
    datagrams: Pipe<Bytes>,
    end: Mutex<End>,
    pub(super) ended: Notify,
    other: Mutex<Weak<Half>>,
}

/// What one end is told at its birth.
pub(super) struct Ends {
    pub(super) local: MachineId,
    pub(super) remote: MachineId,
    pub(super) address: SocketAddr,
    pub(super) peer: Identity,
    pub(super) life: Arc<Life>,
}

impl Half {
    /// Both ends of a new connection.
    pub(super) fn pair(network: &Network, ends: [Ends; 2]) -> [Arc<Self>; 2] {
        let [a, b] = ends.map(|ends| {
            Arc::new(Self {
                network: network.clone(),
                local: ends.local,
                remote: ends.remote,
                address: ends.address,
                peer: ends.peer,
                life: ends.life,
                streams: Pipe::default(),
                datagrams: Pipe::default(),
                end: Mutex::new(End { error: None, heard: Instant::now() }),
                ended: Notify::new(),
                other: Mutex::default(),
            })
        });
        *lock(&a.other) = Arc::downgrade(&b);
        *lock(&b.other) = Arc::downgrade(&a);
        network.net().connections.push((a.clone(), b.clone()));
        [a, b]
    }

    pub(super) fn failure(&self) -> Option<TransportError> {
        lock(&self.end).error.clone()
    }

    pub(super) fn is_over(&self) -> bool {
        self.failure().is_some() || self.life.is_gone()
    }

    fn fail(&self, error: TransportError) {
        lock(&self.end).error.get_or_insert(error);
        self.ended.notify_waiters();
    }

    /// Notices that the peer is gone or silent.
    pub(super) fn look_at(&self, peer: &Self, network: &Network) {
        if self.failure().is_some() {
            return;
        }
        let hears = network.passes(self.remote, self.local);
        let reaches = network.passes(self.local, self.remote);
        if hears && reaches && peer.life.is_gone() {
            return self.fail(TransportError::Lost("nothing listens at the peer's address any more".into()));
        }
        if hears && let Some(error) = peer.failure() {
            return self.fail(TransportError::Lost(format!("closed by the peer: {error}")));
        }
        let silence = {
            let mut end = lock(&self.end);
            if hears && peer.life.is_running() {
                end.heard = Instant::now();
            }
            end.heard.elapsed()
        };
        if silence >= IDLE_TIMEOUT {
            self.fail(TransportError::Lost("timed out".into()));
        }
    }

    fn peer_half(&self) -> Option<Arc<Self>> {
        lock(&self.other).upgrade()
    }

    /// Whether what is sent now leaves the machine and finds its way.
    fn reaches_peer(&self) -> bool {
        !self.life.is_gone() && self.network.passes(self.local, self.remote)
    }
}

/// What a process holds of a connection.
pub(super) struct SimConnection(pub(super) Arc<Half>);

#[async_trait]
impl Connection for SimConnection {
    fn peer(&self) -> &Identity {
        &self.0.peer
    }

    fn remote_address(&self) -> SocketAddr {
        self.0.address
    }

    async fn open(&self) -> Result<Stream, TransportError> {
        if let Some(error) = self.0.failure() {
            return Err(error);
        }
        let Some(peer) = self.0.peer_half() else {
            return Err(TransportError::Lost("the peer is gone".into()));
        };
        let (there, back) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
        let ends = |send: &Arc<Lane>, recv: &Arc<Lane>, half: &Arc<Half>| Stream {
            send: Box::new(Sender::new(send.clone(), half.clone())),
            recv: Box::new(Receiver::new(recv.clone(), half.clone())),
        };
        peer.streams.send(self.0.network.arrival(), ends(&back, &there, &peer));
        Ok(ends(&there, &back, &self.0))
    }

    async fn accept(&self) -> Result<Stream, TransportError> {
        self.0.streams.receive(&self.0).await
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), TransportError> {
        if let Some(error) = self.0.failure() {
            return Err(error);
        }
        let network = &self.0.network;
        if self.0.reaches_peer()
            && !network.loses_datagram()
            && let Some(peer) = self.0.peer_half()
        {
            peer.datagrams.send(network.arrival(), data);
        }
        Ok(())
    }

    async fn recv_datagram(&self) -> Result<Bytes, TransportError> {
        self.0.datagrams.receive(&self.0).await
    }

    fn close(&self, reason: &str) {
        let half = &self.0;
        if half.failure().is_some() {
            return;
        }
        half.fail(TransportError::Lost(format!("closed: {reason}")));
        // A process that was killed says nothing; what a cut link holds back shows when it heals, or by silence.
        if half.reaches_peer()
            && let Some(peer) = half.peer_half()
        {
            let (arrival, reason) = (half.network.arrival(), reason.to_owned());
            half.network.runtime.spawn(async move {
                sleep_until(arrival).await;
                peer.fail(TransportError::Lost(format!("closed by the peer: {reason}")));
            });
        }
    }

    async fn closed(&self) -> TransportError {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if let Some(error) = self.0.failure() {
                return error;
            }
            ended.await;
        }
    }

    fn is_closed(&self) -> bool {
        self.0.failure().is_some()
    }
}
