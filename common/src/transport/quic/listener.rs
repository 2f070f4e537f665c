//! Taking connections.

use super::HANDSHAKE_TIMEOUT;
use super::connection::{QuicConnection, explain};
use crate::transport::{Connection, Listener, TransportError};
use async_trait::async_trait;
use quinn::VarInt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc};

/// Handshakes at work at the same time; each costs a signature.
const HANDSHAKES_MAX: usize = 32;
/// Connections that are ready and were not taken yet.
const READY_MAX: usize = 64;
/// Peers get this long to hear that we go.
const FAREWELL: Duration = Duration::from_millis(500);

pub(super) struct QuicListener {
    endpoint: quinn::Endpoint,
    ready: Mutex<mpsc::Receiver<QuicConnection>>,
}

impl QuicListener {
    pub(super) fn new(endpoint: quinn::Endpoint, cluster: String) -> Self {
        let (done, ready) = mpsc::channel(READY_MAX);
        tokio::spawn(accept(endpoint.clone(), cluster.into(), done));
        Self { endpoint, ready: Mutex::new(ready) }
    }
}

/// Shakes hands with several peers at once, so that a slow one holds nobody up.
async fn accept(endpoint: quinn::Endpoint, cluster: Arc<str>, done: mpsc::Sender<QuicConnection>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (cluster, done) = (cluster.clone(), done.clone());
        tokio::spawn(async move {
            let _place = place;
            let from = incoming.remote_address();
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(incoming, &cluster)).await {
                Ok(Ok(connection)) => drop(done.send(connection).await),
                Ok(Err(reason)) => tracing::warn!(%from, %reason, "refused a connection"),
                Err(_) => tracing::debug!(%from, "a handshake was not finished in time"),
            }
        });
    }
}

async fn shake_hands(incoming: quinn::Incoming, cluster: &str) -> Result<QuicConnection, TransportError> {
    let from = incoming.remote_address().to_string();
    let connection = incoming.await.map_err(|e| explain(e, &from))?;
    let connection = QuicConnection::new(connection, &from)?;
    if connection.peer().cluster != cluster {
        connection.close("you are of another cluster");
        let reason = format!("{} is of another cluster", connection.peer());
        return Err(TransportError::Untrusted { address: from, reason });
    }
    Ok(connection)
}

#[async_trait]
impl Listener for QuicListener {
    fn local_address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("a bound socket has an address")
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        let connection = self.ready.lock().await.recv().await?;
        Some(Arc::new(connection))
    }

    async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"shutting down");
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }
}
