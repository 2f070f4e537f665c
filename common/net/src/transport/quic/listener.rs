//! The taking side: handshakes run beside each other, bounded in number and time.

use super::HANDSHAKE_TIMEOUT;
use super::connection::QuicConnection;
use super::error::{CLOSED, UNTRUSTED};
use super::tls;
use crate::identity::Identity;
use crate::transport::{Connection, Listener};
use async_trait::async_trait;
use quarry_common::wire::WIRE_VERSION;
use quinn::{ConnectionError, Endpoint, Incoming};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Handshakes at a time: each costs a signature and its check, so more would not be faster.
const HANDSHAKES_MAX: usize = 64;
/// From so many on, a stranger must first show that it receives at the address that it sends from.
const HANDSHAKES_UNCHECKED: usize = 16;
/// Connections that wait to be accepted.
const READY_MAX: usize = 64;
/// How long `close` waits for the peers to have heard of it.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct QuicListener {
    endpoint: Endpoint,
    local: SocketAddr,
    ready: Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
    task: JoinHandle<()>,
}

impl QuicListener {
    pub(super) fn start(endpoint: Endpoint, own: Identity) -> io::Result<Self> {
        let local = endpoint.local_addr()?;
        let (sender, receiver) = mpsc::channel(READY_MAX);
        let task = tokio::spawn(take_all(endpoint.clone(), own, sender));
        Ok(Self { endpoint, local, ready: Mutex::new(receiver), task })
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
        self.task.abort();
    }
}

async fn take_all(endpoint: Endpoint, own: Identity, ready: mpsc::Sender<Arc<dyn Connection>>) {
    let own = Arc::new(own);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        if HANDSHAKES_MAX - handshakes.available_permits() >= HANDSHAKES_UNCHECKED && incoming.may_retry() {
            // Fails only for those that may not retry.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (own, ready) = (own.clone(), ready.clone());
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            match timeout(HANDSHAKE_TIMEOUT, greet(incoming, &own)).await {
                Ok(Ok(connection)) => {
                    tracing::debug!(%remote, peer = %connection.peer(), "connected");
                    // The permit is held until the connection is taken, which bounds those that wait.
                    let _ = ready.send(Arc::new(connection)).await;
                }
                Ok(Err(reason)) => tracing::warn!(%remote, reason, "refused a connection"),
                Err(_) => tracing::warn!(%remote, "a handshake took too long"),
            }
            drop(permit);
        });
    }
}

/// The handshake, and what TLS does not check.
async fn greet(incoming: Incoming, own: &Identity) -> Result<QuicConnection, String> {
    let connection = incoming.accept().map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())?;
    let refuse = |why: String| {
        connection.close(UNTRUSTED, why.as_bytes());
        why
    };
    let peer = tls::peer(&connection).map_err(refuse)?;
    if peer.cluster != own.cluster {
        return Err(refuse(format!("you belong to cluster `{}`, not to `{}`", peer.cluster, own.cluster)));
    }
    let mut stream = connection.open_uni().await.map_err(|e| e.to_string())?;
    stream.write_all(&WIRE_VERSION.to_le_bytes()).await.map_err(|e| e.to_string())?;
    stream.finish().map_err(|e| e.to_string())?;
    Ok(QuicConnection::new(connection, peer))
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
