//! A verified connection and its streams.

use super::congestion::let_farewell_pass;
use super::error::{CLOSED, DROPPED, of_connection};
use super::listener::Place;
use super::liveness::Watch;
use crate::identity::Identity;
use crate::transport::{Connection, RecvStream, SendStream, Stream, TransportError};
use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ReadError, ReadExactError, SendDatagramError, WriteError};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::task::AbortHandle;

/// Bytes of a reason that a peer is told.
const REASON_MAX: usize = 500;

/// A connection to a peer whose identity is verified.
pub(super) struct QuicConnection {
    peer: Identity,
    handle: Arc<Handle>,
}

/// What the connection and its streams share. With the last of them the connection is closed.
struct Handle {
    inner: quinn::Connection,
    /// Why we closed it ourselves: quinn keeps only that we did.
    closed_by_us: Arc<OnceLock<String>>,
    /// The task that watches the peer's process, on the dialling side.
    watch: OnceLock<AbortHandle>,
    /// Its certificate's count of connections, on the taking side.
    place: OnceLock<Place>,
}

impl Handle {
    fn lost(&self, error: &quinn::ConnectionError) -> TransportError {
        match (error, self.closed_by_us.get()) {
            (quinn::ConnectionError::LocallyClosed, Some(why)) => TransportError::Lost(why.clone()),
            _ => of_connection(error),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
        let_farewell_pass(&self.inner);
        self.inner.close(CLOSED, b"no longer needed");
    }
}

impl QuicConnection {
    pub(super) fn new(inner: quinn::Connection, peer: Identity) -> Self {
        let handle =
            Handle { inner, closed_by_us: Arc::default(), watch: OnceLock::new(), place: OnceLock::new() };
        Self { peer, handle: Arc::new(handle) }
    }

    /// Keeps the connection counted for as long as it or one of its streams is used.
    pub(super) fn hold(&self, place: Place) {
        let _ = self.handle.place.set(place);
    }

    /// Ends the connection as soon as the peer's host says that the process is gone.
    pub(super) fn watch(&self, watch: Watch) {
        let (inner, why) = (self.handle.inner.clone(), self.handle.closed_by_us.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = watch.refused() => {
                    let _ = why.set("the peer's process is gone".to_owned());
                    inner.close(CLOSED, b"");
                }
                _ = inner.closed() => {}
            }
        });
        let _ = self.handle.watch.set(task.abort_handle());
    }

    fn stream(&self, (send, recv): (quinn::SendStream, quinn::RecvStream)) -> Stream {
        Stream {
            send: Box::new(QuicSend { inner: send, finished: false, handle: self.handle.clone() }),
            recv: Box::new(QuicRecv { inner: recv, handle: self.handle.clone() }),
        }
    }
}

#[async_trait]
impl Connection for QuicConnection {
    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn remote_address(&self) -> SocketAddr {
        self.handle.inner.remote_address()
    }

    async fn open(&self) -> Result<Stream, TransportError> {
        self.handle.inner.open_bi().await.map(|s| self.stream(s)).map_err(|e| self.handle.lost(&e))
    }

    async fn accept(&self) -> Result<Stream, TransportError> {
        self.handle.inner.accept_bi().await.map(|s| self.stream(s)).map_err(|e| self.handle.lost(&e))
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), TransportError> {
        self.handle.inner.send_datagram(data).map_err(|e| match e {
            SendDatagramError::ConnectionLost(e) => self.handle.lost(&e),
            other => TransportError::Malformed(other.to_string()),
        })
    }

    async fn recv_datagram(&self) -> Result<Bytes, TransportError> {
        self.handle.inner.read_datagram().await.map_err(|e| self.handle.lost(&e))
    }

    fn close(&self, reason: &str) {
        let _ = self.handle.closed_by_us.set(reason.to_owned());
        let_farewell_pass(&self.handle.inner);
        self.handle.inner.close(CLOSED, &reason.as_bytes()[..reason.len().min(REASON_MAX)]);
    }

    async fn closed(&self) -> TransportError {
        let error = self.handle.inner.closed().await;
        self.handle.lost(&error)
    }

    fn is_closed(&self) -> bool {
        self.handle.inner.close_reason().is_some()
    }
}

struct QuicSend {
    inner: quinn::SendStream,
    finished: bool,
    handle: Arc<Handle>,
}

#[async_trait]
impl SendStream for QuicSend {
    async fn write(&mut self, data: Bytes) -> Result<(), TransportError> {
        self.inner.write_chunk(data).await.map_err(|e| match e {
            WriteError::Stopped(_) => TransportError::Reset,
            WriteError::ConnectionLost(e) => self.handle.lost(&e),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                TransportError::Lost("the stream is finished already".to_owned())
            }
        })
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        self.finished = true;
        self.inner.finish().map_err(|_| TransportError::Reset)
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        if !self.finished {
            // quinn would finish it, which looks to the peer like the end of a whole.
            let _ = self.inner.reset(DROPPED);
        }
    }
}

struct QuicRecv {
    inner: quinn::RecvStream,
    handle: Arc<Handle>,
}

impl QuicRecv {
    fn failed(&self, error: &ReadError) -> TransportError {
        match error {
            ReadError::Reset(_) => TransportError::Reset,
            ReadError::ConnectionLost(e) => self.handle.lost(e),
            ReadError::ClosedStream => TransportError::EndOfStream,
            ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                TransportError::Lost(error.to_string())
            }
        }
    }
}

#[async_trait]
impl RecvStream for QuicRecv {
    async fn read(&mut self, max: usize) -> Result<Option<Bytes>, TransportError> {
        match self.inner.read_chunk(max, true).await {
            Ok(chunk) => Ok(chunk.map(|c| c.bytes)),
            Err(e) => Err(self.failed(&e)),
        }
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        self.inner.read_exact(buffer).await.map_err(|e| match e {
            ReadExactError::FinishedEarly(_) => TransportError::EndOfStream,
            ReadExactError::ReadError(e) => self.failed(&e),
        })
    }
}
