//! What can go wrong with chunks and their directories.

use quarry_common::ids::ChunkId;
use quarry_common::wire::error::{FsError, ServiceError};
use std::io;
use std::path::PathBuf;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The directory is not ours to use.
    #[error("the data directory {} cannot be used: {why}", dir.display())]
    Refused { dir: PathBuf, why: String },
    /// The configuration makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a request for a chunk failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("chunk {0} is not here")]
    NotFound(ChunkId),
    #[error("no room: {0}")]
    NoSpace(String),
    /// The file was moved to quarantine, so that nobody reads it again.
    #[error("chunk {id} is rotten: {why}")]
    Rotten { id: ChunkId, why: String },
    #[error("chunk {0} is there with other content")]
    Conflict(ChunkId),
    /// A chunk file of a newer program.
    #[error("chunk {id}: {why}")]
    Newer { id: ChunkId, why: String },
    /// The directory or the file; a retry may go to another directory.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound(_) => Self::ChunkNotFound,
            StoreError::NoSpace(_) => Self::Fs(FsError::NoSpace),
            StoreError::Rotten { .. } => Self::Corrupt(text),
            StoreError::Conflict(_) => Self::BadRequest(text),
            StoreError::Newer { .. } | StoreError::Io { .. } => Self::Unavailable(text),
        }
    }
}
