//! Errors that cross the wire.

use serde::{Deserialize, Serialize};

/// Why a file-system operation failed, in POSIX's terms. `mount` maps each to one errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum FsError {
    /// ENOENT
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST
    #[error("file exists")]
    Exists,
    /// ENOTDIR
    #[error("not a directory")]
    NotDir,
    /// EISDIR
    #[error("is a directory")]
    IsDir,
    /// ENOTEMPTY
    #[error("directory not empty")]
    NotEmpty,
    /// EACCES
    #[error("permission denied")]
    Access,
    /// EPERM
    #[error("operation not permitted")]
    NotPermitted,
    /// EINVAL
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG
    #[error("file name too long")]
    NameTooLong,
    /// EMLINK
    #[error("too many links")]
    TooManyLinks,
    /// EFBIG
    #[error("file too large")]
    FileTooLarge,
    /// ENOSPC
    #[error("no space left in the cluster")]
    NoSpace,
    /// ENODATA: no such extended attribute
    #[error("no such attribute")]
    NoAttribute,
    /// E2BIG: value or list of attributes too large
    #[error("attribute too large")]
    AttributeTooLarge,
    /// ERANGE: the caller's buffer is too small
    #[error("buffer too small")]
    Range,
    /// ENXIO: no data or hole past the offset
    #[error("no data or hole past this offset")]
    NoSuchOffset,
    /// EAGAIN: a conflicting lock is held
    #[error("lock is held by another")]
    WouldBlock,
    /// EDEADLK
    #[error("waiting for this lock would be a deadlock")]
    Deadlock,
    /// ENOLCK: too many locks
    #[error("no locks available")]
    NoLocks,
    /// EINTR
    #[error("interrupted")]
    Interrupted,
    /// ESTALE: the inode, or the session that had it open, is gone
    #[error("stale file handle")]
    Stale,
    /// EBADF
    #[error("bad file handle")]
    BadHandle,
    /// EOPNOTSUPP
    #[error("operation not supported")]
    NotSupported,
    /// EROFS
    #[error("read-only file system")]
    ReadOnly,
    /// ETIMEDOUT: a soft mount waited as long as it was told to
    #[error("the cluster did not answer in time")]
    TimedOut,
    /// EIO: data is lost or corrupt, or a server broke a rule; the log says which
    #[error("input/output error")]
    Io,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ServiceError {
    /// The operation itself failed; retrying gives the same answer.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The peer's certificate has a role that may not do this.
    #[error("not authorised: {0}")]
    Unauthorised(String),
    /// The request breaks a rule of the protocol; retrying is useless.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// This NameNode does not lead; ask the one at the address, if known.
    #[error("not the leader")]
    NotLeader {
        /// Where the leader listens, when this node knows.
        leader: Option<String>,
    },
    /// The session ended; what it held is freed. Open a new one.
    #[error("the session has expired")]
    SessionExpired,
    /// The lease under which the change was buffered is broken: another session may have read or changed the inode
    /// since. The change is never to be tried again under another lease.
    #[error("the lease under which this was buffered is broken")]
    Fenced,
    /// The sequence number is neither the slot's next nor its last one. The request was not carried out and uses no
    /// number up.
    #[error("slot {slot} is at {last}")]
    SlotMismatch {
        /// The slot.
        slot: u16,
        /// The sequence number of its last mutation.
        last: u64,
    },
    /// Not every serving member of the group acknowledged the chunk, or the grant of its id ran out:
    /// write the data again as a new chunk.
    #[error("chunk {chunk} must be written again: {reason}")]
    RewriteChunk {
        /// The refused chunk.
        chunk: crate::ids::ChunkId,
        /// For the log.
        reason: String,
    },
    /// The window changed since its slices were read: read them again and repeat the merge.
    #[error("the window changed meanwhile")]
    WindowChanged,
    /// The node does not have the chunk.
    #[error("chunk not found")]
    ChunkNotFound,
    /// The bytes do not match their checksum. The text says what and where.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Temporary: starting, shutting down, overloaded, healing. Retry after a pause.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
