//! Pipelined requests over one long stream.
//!
//! A frame is a 4-byte little-endian length, then a postcard header `(kind, id)`, then the postcard body. Answers
//! come in any order; answers and pushes leave in exactly the order in which the server handed them over.
//! The first frame of each side is a hello with [`WIRE_VERSION`](crate::wire::WIRE_VERSION).

mod client;
mod server;

pub use client::{Observer, RpcClient, RpcError};
pub use server::{Peer, Pusher, Replier, Service, serve};

use crate::frame;
use crate::transport::TransportError;
use crate::wire::WIRE_VERSION;
use crate::wire::error::ServiceError;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// One conversation: what is asked, answered and pushed.
pub trait Protocol: Send + Sync + 'static {
    /// In the hello, so that a client that reached the wrong service is told so.
    const NAME: &'static str;
    /// Asked.
    type Request: Serialize + DeserializeOwned + Send + Debug + 'static;
    /// Answered.
    type Response: Serialize + DeserializeOwned + Send + Debug + 'static;
    /// Said without being asked.
    type Push: Serialize + DeserializeOwned + Send + Debug + 'static;
}

/// Client and NameNode.
pub struct SessionProtocol;

impl Protocol for SessionProtocol {
    const NAME: &'static str = "session";
    type Request = crate::wire::session::Request;
    type Response = crate::wire::session::Response;
    type Push = crate::wire::session::Push;
}

/// DataNode and NameNode.
pub struct NodeProtocol;

impl Protocol for NodeProtocol {
    const NAME: &'static str = "node";
    type Request = crate::wire::cluster::NodeRequest;
    type Response = Result<crate::wire::cluster::NodeReply, ServiceError>;
    type Push = ();
}

/// The first frame of each side.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    version: u16,
    protocol: String,
}

impl Hello {
    fn of<P: Protocol>() -> Self {
        Self { version: WIRE_VERSION, protocol: P::NAME.to_owned() }
    }

    /// What is wrong with it, if anything, in words for the other side's log.
    fn objection<P: Protocol>(&self) -> Option<String> {
        if self.version != WIRE_VERSION {
            let (newer, older) = if self.version > WIRE_VERSION { ("you", "me") } else { ("me", "you") };
            return Some(format!(
                "wire version {} is not {WIRE_VERSION}: {newer} are newer than {older}, update the older one",
                self.version
            ));
        }
        (self.protocol != P::NAME)
            .then(|| format!("protocol `{}` is not for this role, which speaks `{}`", self.protocol, P::NAME))
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Request,
    Response,
    Push,
}

/// Before the body of every frame after the hello. Pushes have id 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    kind: Kind,
    id: u64,
}

/// A frame with header and body.
fn encode<T: Serialize>(kind: Kind, id: u64, body: &T) -> Result<Bytes, TransportError> {
    let malformed = |e: postcard::Error| TransportError::Malformed(e.to_string());
    let buffer = postcard::to_extend(&Header { kind, id }, vec![0; 4]).map_err(malformed)?;
    frame::finish(postcard::to_extend(body, buffer).map_err(malformed)?)
}

/// A frame's header, and the bytes of its body.
fn split(frame: &[u8]) -> Result<(Header, &[u8]), TransportError> {
    postcard::take_from_bytes(frame).map_err(|e| TransportError::Malformed(e.to_string()))
}

/// Bytes that the sending side gathers before it hands them to the stream.
const GATHER: usize = 64 << 10;

/// Adds whatever else waits in the queue to a first frame, so that many small frames cost one write.
fn gather(first: Bytes, queue: &mut tokio::sync::mpsc::Receiver<Bytes>) -> Bytes {
    let Ok(second) = queue.try_recv() else { return first };
    let mut all = Vec::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while all.len() < GATHER
        && let Ok(next) = queue.try_recv()
    {
        all.extend_from_slice(&next);
    }
    all.into()
}

#[cfg(test)]
mod tests;
