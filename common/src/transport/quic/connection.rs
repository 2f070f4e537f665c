//! A connection and its streams.

use crate::identity::{Identity, identity_of};
use crate::transport::{Connection, RecvStream, SendStream, Stream, TransportError};
use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ConnectionError, ReadError, ReadExactError, SendDatagramError, VarInt, WriteError};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;

/// The only code that we send; the reason beside it is for people.
const CODE: VarInt = VarInt::from_u32(0);
/// QUIC carries TLS alerts as errors in this range (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

pub(super) struct QuicConnection {
    inner: quinn::Connection,
    peer: Identity,
    /// As it was asked for, for messages.
    address: String,
}

impl QuicConnection {
    /// Reads who the peer is. TLS has checked its certificate.
    pub(super) fn new(inner: quinn::Connection, address: &str) -> Result<Self, TransportError> {
        let untrusted = |reason: &str| TransportError::Untrusted {
            address: address.to_owned(),
            reason: reason.to_owned(),
        };
        let certificates = inner
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
            .ok_or_else(|| untrusted("it showed no certificate"))?;
        let first = certificates.first().ok_or_else(|| untrusted("it showed no certificate"))?;
        let peer = identity_of(first).map_err(|e| untrusted(&e))?;
        Ok(Self { inner, peer, address: address.to_owned() })
    }

    fn lost(&self, e: ConnectionError) -> TransportError {
        explain(e, &self.address)
    }
}

/// In words that help.
pub(super) fn explain(e: ConnectionError, address: &str) -> TransportError {
    let untrusted = |reason: String| TransportError::Untrusted { address: address.to_owned(), reason };
    match e {
        ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) => {
            untrusted(format!("it refused our certificate: {close}"))
        }
        ConnectionError::TransportError(e) if CRYPTO_ERRORS.contains(&u64::from(e.code)) => {
            untrusted(format!("its certificate was refused: {e}"))
        }
        ConnectionError::ApplicationClosed(close) => {
            TransportError::Lost(format!("{address} closed it: {}", String::from_utf8_lossy(&close.reason)))
        }
        ConnectionError::TimedOut => {
            TransportError::Unreachable { address: address.to_owned(), reason: "it does not answer".into() }
        }
        other => TransportError::Lost(format!("{address}: {other}")),
    }
}

#[async_trait]
impl Connection for QuicConnection {
    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    async fn open(&self) -> Result<Stream, TransportError> {
        let (send, recv) = self.inner.open_bi().await.map_err(|e| self.lost(e))?;
        Ok(stream(send, recv, &self.address))
    }

    async fn accept(&self) -> Result<Stream, TransportError> {
        let (send, recv) = self.inner.accept_bi().await.map_err(|e| self.lost(e))?;
        Ok(stream(send, recv, &self.address))
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), TransportError> {
        self.inner.send_datagram(data).map_err(|e| match e {
            SendDatagramError::ConnectionLost(e) => self.lost(e),
            other => TransportError::Malformed(other.to_string()),
        })
    }

    async fn recv_datagram(&self) -> Result<Bytes, TransportError> {
        self.inner.read_datagram().await.map_err(|e| self.lost(e))
    }

    fn close(&self, reason: &str) {
        self.inner.close(CODE, reason.as_bytes());
    }

    async fn closed(&self) -> TransportError {
        let e = self.inner.closed().await;
        self.lost(e)
    }

    fn is_closed(&self) -> bool {
        self.inner.close_reason().is_some()
    }
}

fn stream(send: quinn::SendStream, recv: quinn::RecvStream, address: &str) -> Stream {
    Stream {
        send: Box::new(QuicSend { inner: send, finished: false, address: address.to_owned() }),
        recv: Box::new(QuicRecv { inner: recv, address: address.to_owned() }),
    }
}

struct QuicSend {
    inner: quinn::SendStream,
    finished: bool,
    address: String,
}

#[async_trait]
impl SendStream for QuicSend {
    async fn write(&mut self, data: Bytes) -> Result<(), TransportError> {
        self.inner.write_chunk(data).await.map_err(|e| match e {
            WriteError::Stopped(_) => TransportError::Reset,
            WriteError::ConnectionLost(e) => explain(e, &self.address),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => TransportError::Lost(e.to_string()),
        })
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        self.finished = true;
        self.inner.finish().map_err(|e| TransportError::Lost(e.to_string()))
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        // quinn would finish it, and a part would look like the whole.
        if !self.finished {
            let _ = self.inner.reset(CODE);
        }
    }
}

struct QuicRecv {
    inner: quinn::RecvStream,
    address: String,
}

impl QuicRecv {
    fn read_error(&self, e: ReadError) -> TransportError {
        match e {
            ReadError::Reset(_) => TransportError::Reset,
            ReadError::ConnectionLost(e) => explain(e, &self.address),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                TransportError::Lost(e.to_string())
            }
        }
    }
}

#[async_trait]
impl RecvStream for QuicRecv {
    async fn read(&mut self, max: usize) -> Result<Option<Bytes>, TransportError> {
        let chunk = self.inner.read_chunk(max, true).await.map_err(|e| self.read_error(e))?;
        Ok(chunk.map(|c| c.bytes))
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        self.inner.read_exact(buffer).await.map_err(|e| match e {
            ReadExactError::FinishedEarly(_) => TransportError::EndOfStream,
            ReadExactError::ReadError(e) => self.read_error(e),
        })
    }
}
