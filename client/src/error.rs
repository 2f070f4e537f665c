//! Why there is no file system to use, and why a part of it does not answer another.

use quarry_common::ids::ChunkId;
use quarry_common::wire::error::FsError;
use quarry_host::config::ConfigError;
use quarry_net::transport::TransportError;
use std::fmt::Debug;

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting has a value that it cannot have.
    #[error("{setting} {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The NameNode cannot be reached, and the client was not told to wait for ever.
    #[error("the cluster is away: {0}")]
    Away(String),
    /// The NameNode is not to be trusted, or does not trust this client.
    #[error(transparent)]
    Untrusted(TransportError),
    /// The system does not give what a client needs.
    #[error("cannot start a thread: {0}")]
    Resources(String),
    /// The NameNode does not take this client.
    #[error("the NameNode refuses this client: {0}")]
    Refused(String),
}

/// Why a mutation was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MutateError {
    /// The operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A chunk of a commit is not held by all who must: put its data again as a new chunk.
    #[error("chunk {chunk} must be written again: {reason}")]
    RewriteChunk {
        /// Which.
        chunk: ChunkId,
        /// For the log.
        reason: String,
    },
    /// The lease under which the data were buffered is broken: they are never to be written.
    #[error("the lease under which this was buffered is broken")]
    Fenced,
    /// The window that a commit replaces is no longer the one that was read.
    #[error("the window changed meanwhile")]
    WindowChanged,
}

/// Why a chunk cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GetError {
    /// Every member says that it is not there: the layout that named it is old, read it again.
    #[error("no member has the chunk")]
    Gone,
    /// The operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// An answer that does not belong to its question.
pub(crate) fn unexpected(answer: &dyn Debug) -> FsError {
    tracing::error!(?answer, "the NameNode answers with something else");
    FsError::Io
}
