//! Pipelined requests over one long stream.
//!
//! A frame is a 4-byte little-endian length, then a postcard header `(kind, id)`, then the postcard body. Answers
//! come in any order; answers and pushes leave in exactly the order in which the server handed them over.
//! The first frame of each side is a hello with [`WIRE_VERSION`](crate::wire::WIRE_VERSION).

use crate::identity::Identity;
use crate::transport::{Connection, TransportError};
use crate::wire::error::ServiceError;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

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
