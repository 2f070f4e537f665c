//! Why a DataNode did not do what it was asked for.

use quarry_common::wire::error::{FsError, ServiceError};
use quarry_net::transport::TransportError;
use std::time::Duration;

/// The outcome of a request that failed, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node does not have the chunk: another replica may.
    #[error("it does not have the chunk")]
    Missing,
    /// The replica, or what arrived of it, does not match its checksum: another replica may be good.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The node never does this, for whoever asks: a retry is useless.
    #[error("it refuses: {0}")]
    Refused(String),
    /// The node has no room for the chunk.
    #[error("it has no room")]
    NoSpace,
    /// The node does not do it now.
    #[error(transparent)]
    Away(#[from] Away),
}

/// Why a node does not do something now, though it may later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// There is no connection, or it broke.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The deadline passed.
    #[error("no answer in {} s", .0.as_secs_f32())]
    Late(Duration),
    /// The node answers that it cannot.
    #[error("{0}")]
    Unavailable(String),
    /// The answer does not fit the request, so the node is defective.
    #[error("its answer does not fit the request")]
    Unfit,
    /// The source of the bytes to send ended before their announced length.
    #[error("the chunk did not arrive")]
    SourceEnded,
}

impl From<TransportError> for CallError {
    fn from(error: TransportError) -> Self {
        Self::Away(error.into())
    }
}

impl From<ServiceError> for CallError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::ChunkNotFound => Self::Missing,
            ServiceError::Corrupt(what) => Self::Corrupt(what),
            ServiceError::Fs(FsError::NoSpace) => Self::NoSpace,
            ServiceError::BadRequest(_) | ServiceError::Unauthorised(_) => Self::Refused(error.to_string()),
            other => Self::Away(Away::Unavailable(other.to_string())),
        }
    }
}
