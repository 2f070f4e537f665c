//! Pipelined requests over one long stream.
//!
//! A frame is a 4-byte little-endian length, then a postcard header `(kind, id)`, then the postcard body. Answers
//! come in any order; answers and pushes leave in exactly the order in which the server handed them over.
//! The first frame of each side is a hello with [`WIRE_VERSION`].

mod client;
mod server;

pub use client::{Observer, RpcClient, RpcError};
pub use server::{Peer, Pusher, Replier, Service, serve};

use crate::frame;
use crate::transport::{RecvStream, TransportError, check_version};
use bytes::Bytes;
use quarry_common::limits::{FRAME_MAX, NAME_MAX, SLICES_MAX, XATTR_VALUE_MAX};
use quarry_common::wire::WIRE_VERSION;
use quarry_common::wire::error::ServiceError;
use quarry_host::trace::{self, Operation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

    /// What a request takes of its server. Both sides ask this, so that an honest client never makes the server stop reading.
    fn weight(_request: &Self::Request) -> Weight {
        Weight::Answer(0)
    }
}

/// What a request takes of its server, from its arrival until its answer has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Answered at once and in a few bytes, in a lane of its own: it never waits behind others.
    Urgent,
    /// Memory for an answer of about so many bytes at most.
    Answer(usize),
}

/// Bytes of answers for which one unit stands.
const UNIT: usize = 32 << 10;
/// Units that one conversation may hold, 16 MiB of answers. Requests that wait for a lock count as one each, so it is far more
/// than a client has threads.
const UNITS_MAX: usize = 512;
/// Urgent requests of one conversation: a renewal, and answers to recalls that come in at the same moment.
const URGENT_MAX: usize = 64;

/// An entry of a listing: the longest name and the attributes.
const ENTRY_BYTES: usize = NAME_MAX + 128;

impl Weight {
    /// How many units it takes.
    fn units(self) -> u32 {
        match self {
            Self::Urgent => 1,
            Self::Answer(bytes) => bytes.div_ceil(UNIT).clamp(1, FRAME_MAX / UNIT) as u32,
        }
    }
}

/// The units of one conversation; both sides count them, each for itself.
struct Lanes {
    ordinary: Arc<Semaphore>,
    urgent: Arc<Semaphore>,
}

impl Lanes {
    fn new() -> Self {
        Self { ordinary: Arc::new(Semaphore::new(UNITS_MAX)), urgent: Arc::new(Semaphore::new(URGENT_MAX)) }
    }

    /// Waits until the request may be under way.
    async fn enter(&self, weight: Weight) -> OwnedSemaphorePermit {
        let lane = match weight {
            Weight::Urgent => &self.urgent,
            Weight::Answer(_) => &self.ordinary,
        };
        lane.clone().acquire_many_owned(weight.units()).await.expect("the semaphore is never closed")
    }
}

/// Client and NameNode.
pub struct SessionProtocol;

impl Protocol for SessionProtocol {
    const NAME: &'static str = "session";
    type Request = quarry_common::wire::session::Request;
    type Response = quarry_common::wire::session::Response;
    type Push = quarry_common::wire::session::Push;

    fn weight(request: &Self::Request) -> Weight {
        use quarry_common::wire::fs::{Query, Slice};
        use quarry_common::wire::session::Request;
        match request {
            Request::Renew { .. } | Request::RecallDone { .. } => Weight::Urgent,
            Request::Query(Query::ReadDir { limit, .. }) => Weight::Answer(*limit as usize * ENTRY_BYTES),
            Request::Query(Query::Layout { count, .. }) => {
                Weight::Answer(*count as usize * SLICES_MAX * size_of::<Slice>())
            }
            Request::Placement
            | Request::ClusterStatus
            | Request::FsckStart(_)
            | Request::FsckPoll { .. } => Weight::Answer(FRAME_MAX),
            Request::Query(Query::GetXattr { .. } | Query::ListXattr { .. } | Query::Chunks { .. }) => {
                Weight::Answer(XATTR_VALUE_MAX)
            }
            // Waits for events, which are few at a time.
            Request::Changes { .. } => Weight::Answer(2 * UNIT),
            _ => Weight::Answer(0),
        }
    }
}

/// DataNode and NameNode.
pub struct NodeProtocol;

impl Protocol for NodeProtocol {
    const NAME: &'static str = "node";
    type Request = quarry_common::wire::cluster::NodeRequest;
    type Response = Result<quarry_common::wire::cluster::NodeReply, ServiceError>;
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

    /// Receives it. Later versions may say more after these fields, which is skipped, so that both sides can
    /// always say which versions do not fit.
    async fn receive(stream: &mut dyn RecvStream) -> Result<Self, TransportError> {
        let body = frame::read_body(stream).await?;
        match postcard::take_from_bytes(&body) {
            Ok((hello, _)) => Ok(hello),
            Err(e) => Err(TransportError::Malformed(format!("no hello: {e}"))),
        }
    }

    /// Whether the peer fits.
    fn check<P: Protocol>(&self) -> Result<(), TransportError> {
        check_version(self.version)?;
        if self.protocol != P::NAME {
            return Err(TransportError::Incompatible(format!(
                "it speaks protocol `{}`, this side `{}`: one of the two has another role than the other thinks",
                self.protocol,
                P::NAME
            )));
        }
        Ok(())
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

/// Bits of a request's id that count; the others are the number of the operation for which it is asked.
const COUNT_BITS: u32 = u64::BITS - trace::BITS;

/// The id of a request. The count begins anew after 16 million requests, long after the first of them was answered: far fewer
/// may be unanswered.
fn request_id(operation: Operation, count: u64) -> u64 {
    (operation.number() << COUNT_BITS) | (count & ((1 << COUNT_BITS) - 1))
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
fn gather(first: Bytes, mut next: impl FnMut() -> Option<Bytes>) -> Bytes {
    let Some(second) = next() else { return first };
    let mut all = Vec::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while all.len() < GATHER
        && let Some(frame) = next()
    {
        all.extend_from_slice(&frame);
    }
    all.into()
}

#[cfg(test)]
mod tests;
