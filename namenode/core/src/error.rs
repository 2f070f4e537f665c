//! Two kinds of failure: of one operation, and of the state itself.

use crate::base::BaseError;
use quarry_common::wire::error::{FsError, ServiceError};

/// The state cannot go on: the process must stop, for it would answer from a wrong state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The base could not be read.
    #[error("read the metadata store: {0}")]
    Base(#[from] BaseError),
    /// A record does not decode, or records contradict each other.
    #[error("metadata are corrupt: {0}")]
    Corrupt(String),
}

/// Why an operation did not happen.
#[derive(Debug)]
pub(crate) enum OpError {
    /// Told to the client; nothing has changed.
    Service(ServiceError),
    /// Not now: what an earlier operation left to be done in steps must be done first. The client asks again, with the same
    /// number.
    Busy(&'static str),
    /// Ends the process.
    State(StateError),
}

impl From<FsError> for OpError {
    fn from(e: FsError) -> Self {
        Self::Service(ServiceError::Fs(e))
    }
}

impl From<ServiceError> for OpError {
    fn from(e: ServiceError) -> Self {
        Self::Service(e)
    }
}

impl From<StateError> for OpError {
    fn from(e: StateError) -> Self {
        Self::State(e)
    }
}

/// Separates the client's error from the state's.
pub(crate) fn split<T>(result: Result<T, OpError>) -> Result<Result<T, ServiceError>, StateError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(OpError::Service(e)) => Ok(Err(e)),
        Err(OpError::Busy(why)) => Ok(Err(ServiceError::Unavailable(why.to_owned()))),
        Err(OpError::State(e)) => Err(e),
    }
}
