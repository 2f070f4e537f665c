//! Connections between parts: mutual TLS, streams and datagrams.
//!
//! The traits are what the rest of Quarry sees; [`quic`] is the real network. A simulation brings its own.

pub mod quic;

use crate::identity::{Identity, Role};
use async_trait::async_trait;
use bytes::Bytes;
use quarry_common::wire::WIRE_VERSION;
use std::net::SocketAddr;
use std::sync::Arc;

/// Why a connection or a stream failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The address cannot be resolved or bound, or nobody answers there.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// As given.
        address: String,
        /// Why.
        reason: String,
    },
    /// The peer's certificate, cluster or role is not the expected one, or it refused ours.
    #[error("{address} is not to be trusted, or does not trust us: {reason}")]
    Untrusted {
        /// As given.
        address: String,
        /// Why.
        reason: String,
    },
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer gave up this stream before its end.
    #[error("the peer reset the stream")]
    Reset,
    /// The stream ended in the middle of what was expected.
    #[error("the stream ended early")]
    EndOfStream,
    /// The peer speaks another version, or about other things.
    #[error("the peer does not fit: {0}")]
    Incompatible(String),
    /// What arrived is no valid frame.
    #[error("malformed frame: {0}")]
    Malformed(String),
}

/// Whether a peer of this version can be talked to: no two versions can, as postcard does not describe itself.
pub(crate) fn check_version(theirs: u16) -> Result<(), TransportError> {
    if theirs == WIRE_VERSION {
        return Ok(());
    }
    let older = if theirs > WIRE_VERSION { "this side" } else { "the peer" };
    Err(TransportError::Incompatible(format!(
        "it speaks wire version {theirs}, this side {WIRE_VERSION}: update {older}"
    )))
}

/// Whom a connection must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The peer's role.
    pub role: Role,
    /// The peer's id, where it matters (a chunk must go to the node that the group names).
    pub id: Option<String>,
}

/// Makes and takes connections, with one identity.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Who we are.
    fn identity(&self) -> &Identity;
    /// Connects to `host:port`.
    async fn connect(&self, address: &str, expect: &Expect) -> Result<Arc<dyn Connection>, TransportError>;
    /// Listens. Only peers with a valid certificate of the cluster ever come out of it.
    async fn listen(&self, address: SocketAddr) -> Result<Box<dyn Listener>, TransportError>;
}

/// Takes connections.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// Where it listens, with the real port.
    fn local_address(&self) -> SocketAddr;
    /// The next peer; `None` once closed.
    async fn accept(&self) -> Option<Arc<dyn Connection>>;
    /// Takes no more, and tells those connected that it goes.
    async fn close(&self);
}

/// A connection to a peer whose identity is verified.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// Who the peer is.
    fn peer(&self) -> &Identity;
    /// Where the peer is.
    fn remote_address(&self) -> SocketAddr;
    /// Opens a bidirectional stream.
    async fn open(&self) -> Result<Stream, TransportError>;
    /// The next stream that the peer opened.
    async fn accept(&self) -> Result<Stream, TransportError>;
    /// Sends a datagram of at most 1,150 bytes; it may get lost.
    fn send_datagram(&self, data: Bytes) -> Result<(), TransportError>;
    /// The next datagram.
    async fn recv_datagram(&self) -> Result<Bytes, TransportError>;
    /// Closes at once, with a reason for the peer's log.
    fn close(&self, reason: &str);
    /// Waits until the connection is gone, and says why.
    async fn closed(&self) -> TransportError;
    /// Whether it is gone already.
    fn is_closed(&self) -> bool;
}

/// Both directions of a stream.
pub struct Stream {
    /// Ours.
    pub send: Box<dyn SendStream>,
    /// The peer's.
    pub recv: Box<dyn RecvStream>,
}

/// The sending half. Dropped before [`finish`](SendStream::finish), it resets the stream, so that the peer
/// never takes a part for the whole.
#[async_trait]
pub trait SendStream: Send + Sync {
    /// Sends all of it; returns when it is handed to the transport's window.
    async fn write(&mut self, data: Bytes) -> Result<(), TransportError>;
    /// Ends the stream cleanly. Nothing may be written afterwards.
    fn finish(&mut self) -> Result<(), TransportError>;
}

/// The receiving half. Dropped early, it tells the peer to stop sending.
#[async_trait]
pub trait RecvStream: Send + Sync {
    /// The next bytes, between 1 and `max`; `None` at the clean end.
    async fn read(&mut self, max: usize) -> Result<Option<Bytes>, TransportError>;
    /// Fills the buffer, or fails with [`TransportError::EndOfStream`].
    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), TransportError>;
}
