//! The taking side: handshakes run beside each other, bounded in number and time, and connections are bounded for each certificate.

use super::connection::QuicConnection;
use super::error::{BUSY, CLOSED, UNTRUSTED};
use super::half_open::HalfOpen;
use super::tls;
use super::{Current, HANDSHAKE_TIMEOUT};
use crate::identity::{Credentials, Identity, Role};
use crate::transport::{Connection, Listener};
use async_trait::async_trait;
use quarry_common::wire::WIRE_VERSION;
use quarry_host::log_limit::LogLimit;
use quinn::{ConnectionError, Endpoint, Incoming};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

/// A handshake gets no more time than this while many are under way: two round trips around the world and a lost packet.
const HANDSHAKE_TIMEOUT_LOADED: Duration = Duration::from_secs(1);
/// Connections that one certificate may have here. Several mounts and many tools of one host share a certificate.
pub(super) const CONNECTIONS_OF_ONE: usize = 128;
/// Connections that wait to be accepted.
const READY_MAX: usize = 64;
/// How long `close` waits for the peers to have heard of it.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct QuicListener {
    endpoint: Endpoint,
    local: SocketAddr,
    ready: tokio::sync::Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
    tasks: [JoinHandle<()>; 2],
}

impl QuicListener {
    pub(super) fn start(
        endpoint: Endpoint,
        own: Identity,
        current: watch::Receiver<Arc<Current>>,
    ) -> io::Result<Self> {
        let local = endpoint.local_addr()?;
        let (sender, receiver) = mpsc::channel(READY_MAX);
        let reception = Arc::new(Reception::new(own));
        let tasks = [
            tokio::spawn(take_all(endpoint.clone(), reception.clone(), sender)),
            tokio::spawn(follow(endpoint.clone(), reception, current)),
        ];
        Ok(Self { endpoint, local, ready: tokio::sync::Mutex::new(receiver), tasks })
    }
}

#[async_trait]
impl Listener for QuicListener {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.ready.lock().await.recv().await
    }

    async fn close(&self) {
        self.endpoint.close(CLOSED, b"shutting down");
        let _ = timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }
}

impl Drop for QuicListener {
    fn drop(&mut self) {
        self.endpoint.set_server_config(None);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What the handshakes of a listener share.
struct Reception {
    own: Identity,
    half_open: Mutex<Table>,
    /// Connections by the id of their certificate.
    connected: Mutex<HashMap<(Role, String), Vec<Connected>>>,
    refusals: LogLimit,
}

/// A connection, with the serial number of its certificate.
struct Connected {
    serial: Option<Vec<u8>>,
    connection: quinn::Connection,
}

/// Handshakes under way, and how to end them.
#[derive(Default)]
struct Table {
    half_open: HalfOpen,
    tasks: HashMap<u64, AbortHandle>,
}

async fn take_all(endpoint: Endpoint, reception: Arc<Reception>, ready: mpsc::Sender<Arc<dyn Connection>>) {
    while let Some(incoming) = endpoint.accept().await {
        let is_loaded = reception.table().half_open.is_loaded();
        if is_loaded && incoming.may_retry() && !incoming.remote_address_validated() {
            // Fails only for those that may not retry.
            let _ = incoming.retry();
            continue;
        }
        let time = if is_loaded { HANDSHAKE_TIMEOUT_LOADED } else { HANDSHAKE_TIMEOUT };
        reception.clone().begin(incoming, time, ready.clone());
    }
}

/// Takes new credentials into use as they come.
async fn follow(endpoint: Endpoint, reception: Arc<Reception>, mut current: watch::Receiver<Arc<Current>>) {
    while current.changed().await.is_ok() {
        let new = current.borrow_and_update().clone();
        endpoint.set_server_config(Some(new.tls.server.clone()));
        reception.close_revoked(&new.credentials);
    }
}

impl Reception {
    fn new(own: Identity) -> Self {
        Self { own, half_open: Mutex::default(), connected: Mutex::default(), refusals: LogLimit::default() }
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<(Role, String), Vec<Connected>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_revoked(&self, credentials: &Credentials) {
        for ((role, id), connections) in self.connected().iter() {
            for Connected { serial, connection } in connections {
                if serial.as_ref().is_some_and(|serial| credentials.revokes(serial)) {
                    tracing::warn!(%role, id, "closing a connection: its certificate is revoked");
                    connection.close(UNTRUSTED, b"your certificate is revoked");
                }
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.half_open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a handshake on a task of its own.
    fn begin(self: Arc<Self>, incoming: Incoming, time: Duration, ready: mpsc::Sender<Arc<dyn Connection>>) {
        let remote = incoming.remote_address();
        let mut table = self.table();
        let (number, evicted) = table.half_open.admit(remote.ip());
        if let Some(task) = evicted.and_then(|number| table.tasks.remove(&number)) {
            task.abort();
            self.refused(remote, "a handshake gave way to newer ones");
        }
        // The entry is there before the task can end, since the table is locked.
        let reception = self.clone();
        let task = tokio::spawn(async move {
            let greeted = timeout(time, greet(incoming, &reception)).await;
            reception.over(number);
            match greeted {
                Ok(Ok(connection)) => {
                    tracing::debug!(%remote, peer = %connection.peer(), "connected");
                    let _ = ready.send(Arc::new(connection)).await;
                }
                Ok(Err(reason)) => reception.refused(remote, &reason),
                Err(_) => reception.refused(remote, "a handshake took too long"),
            }
        });
        table.tasks.insert(number, task.abort_handle());
    }

    fn over(&self, number: u64) {
        let mut table = self.table();
        table.half_open.remove(number);
        table.tasks.remove(&number);
    }

    fn refused(&self, remote: SocketAddr, reason: &str) {
        if let Some(left_out) = self.refusals.admit(Instant::now()) {
            tracing::warn!(%remote, reason, left_out, "refused a connection");
        }
    }

    /// Counts a connection of a certificate until the returned value is dropped; `None` when it has too many.
    fn place_of(self: &Arc<Self>, peer: &Identity, connection: &quinn::Connection) -> Option<Place> {
        let of = (peer.role, peer.id.clone());
        let mut connected = self.connected();
        let of_one = connected.entry(of.clone()).or_default();
        if of_one.len() >= CONNECTIONS_OF_ONE {
            return None;
        }
        of_one.push(Connected { serial: tls::serial(connection), connection: connection.clone() });
        Some(Place { of, id: connection.stable_id(), reception: self.clone() })
    }
}

/// One connection of a certificate.
pub(super) struct Place {
    of: (Role, String),
    id: usize,
    reception: Arc<Reception>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.reception.connected();
        if let Some(of_one) = connected.get_mut(&self.of) {
            of_one.retain(|c| c.connection.stable_id() != self.id);
            if of_one.is_empty() {
                connected.remove(&self.of);
            }
        }
    }
}

/// The handshake, and what TLS does not check.
async fn greet(incoming: Incoming, reception: &Arc<Reception>) -> Result<QuicConnection, String> {
    let own = &reception.own;
    let connection = incoming.accept().map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())?;
    let refuse = |why: String| {
        connection.close(UNTRUSTED, why.as_bytes());
        why
    };
    let peer = tls::peer(&connection).map_err(refuse)?;
    if peer.cluster != own.cluster {
        return Err(refuse(format!("you belong to cluster `{}`, not to `{}`", peer.cluster, own.cluster)));
    }
    let place = reception.place_of(&peer, &connection).ok_or_else(|| {
        let why = format!("{} {} has {CONNECTIONS_OF_ONE} connections here already", peer.role, peer.id);
        connection.close(BUSY, why.as_bytes());
        why
    })?;
    let mut stream = connection.open_uni().await.map_err(|e| e.to_string())?;
    stream.write_all(&WIRE_VERSION.to_le_bytes()).await.map_err(|e| e.to_string())?;
    stream.finish().map_err(|e| e.to_string())?;
    let connection = QuicConnection::new(connection, peer);
    connection.hold(place);
    Ok(connection)
}

/// Waits until the server has accepted us, on the client's side, and takes the version that it speaks.
pub(super) async fn await_welcome(connection: &quinn::Connection) -> Result<u16, ConnectionError> {
    let mut stream = connection.accept_uni().await?;
    let mut version = [0; size_of::<u16>()];
    match stream.read_exact(&mut version).await {
        Ok(()) => Ok(u16::from_le_bytes(version)),
        Err(_) => {
            connection.close(CLOSED, b"no welcome");
            Err(connection.closed().await)
        }
    }
}
