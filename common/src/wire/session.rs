//! The conversation of a client with the NameNode: one connection, one long stream.
//!
//! Requests are pipelined. Answers and pushes travel back on the same ordered stream, so a recall can never
//! overtake the answer that granted the lease. The crate `quarry-net` has the frames (`rpc`).

use super::bytestring::ByteString;
use super::changes::ChangeEvent;
use super::cluster::{Administer, ClusterStatus, FsckOptions, FsckProgress, NamespaceStamp, Placement};
use super::error::ServiceError;
use super::fs::{Attr, Mutation, MutationReply, Query, QueryReply};
use crate::ids::{ChunkId, Ino, LeaseGeneration, NodeId, PgId, SessionId};
use serde::{Deserialize, Serialize};

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens a session on this connection. Answer: [`Reply::Session`].
    OpenSession(ClientInfo),
    /// Continues a session on a new connection, within its lifetime, by the same certificate. The lists
    /// restore what the NameNode keeps only in memory. Recalls of reclaimed leases that the client did not acknowledge are
    /// pushed again. Answer: [`Reply::Session`] or `SessionExpired`.
    ResumeSession {
        /// Which session.
        session: SessionId,
        /// Inodes that the client has open.
        open: Vec<Ino>,
        /// Locks that the client holds.
        locks: Vec<(Ino, Lock)>,
        /// Exclusive leases that the client wants back, those with buffered changes first, at most
        /// [`RECLAIMS_MAX`](crate::limits::RECLAIMS_MAX). The client gives up every other lease.
        leases: Vec<LeaseId>,
    },
    /// Ends the session: locks and open-unlinked files are freed at once. Answer: [`Reply::Done`].
    CloseSession,
    /// Shows that the client lives; any other request does as well. Answer: [`Reply::Renewed`].
    Renew {
        /// [`Losses::number`] of the losses that the client has taken note of on this connection, 0 before the first: what
        /// they name is dropped, and no commit under it is under way.
        acknowledged: u64,
    },
    /// Answer: [`Reply::Query`].
    Query(Query),
    /// Answer: [`Reply::Mutation`]. A slot carries one mutation at a time, `sequence` grows by one with each;
    /// the same slot and sequence again is a retry and gets the first answer.
    Mutate {
        /// 0 to [`SESSION_SLOTS`](crate::limits::SESSION_SLOTS) - 1.
        slot: u16,
        /// 1 for the slot's first mutation.
        sequence: u64,
        /// What to change.
        mutation: Mutation,
    },
    /// What became of a mutation of a session of this client that has ended. Answer: [`Reply::Fate`], or `BadRequest`
    /// while that session lives: its own slot answers.
    Fate {
        /// The session that ended.
        session: SessionId,
        /// Its slot.
        slot: u16,
        /// The mutation's number in the slot.
        sequence: u64,
    },
    /// The session has the inode open (at least once): it outlives its last name until `Close`.
    /// Answer: [`Reply::Attr`], or `Stale` when it is gone.
    Open {
        /// Inode.
        ino: Ino,
    },
    /// The session has these inodes no longer open. Answer: [`Reply::Done`].
    Close {
        /// Inodes.
        inos: Vec<Ino>,
    },
    /// Sets or frees a byte-range lock. Answer: [`Reply::Done`], or the errors `WouldBlock` (`wait` not set,
    /// or the deadline passed) and `Deadlock`.
    SetLock {
        /// File.
        ino: Ino,
        /// The lock; kind `Unlock` frees the range.
        lock: Lock,
        /// Wait until it is free: the NameNode answers within [`LOCK_WAIT_MAX_MS`], the client asks again.
        wait: bool,
    },
    /// The first lock that conflicts. Answer: [`Reply::Lock`].
    TestLock {
        /// File.
        ino: Ino,
        /// The lock that one would like to have.
        lock: Lock,
    },
    /// Ends the waiting of this owner on this file: its `SetLock` is answered `Interrupted`.
    /// Answer: [`Reply::Done`].
    CancelLock {
        /// File.
        ino: Ino,
        /// Owner within the session.
        owner: u64,
    },
    /// Ids for chunks of a file, in groups of its replication policy whose members are all healthy where such
    /// a group exists. Answer: [`Reply::Grants`], or `NoSpace`.
    AllocChunks {
        /// File; its policy decides.
        ino: Ino,
        /// How many ids are wanted; fewer may come, at least one.
        count: u32,
        /// Nodes that failed this client lately: groups without them are preferred.
        avoid: Vec<NodeId>,
    },
    /// The table of nodes and placement groups. Answer: [`Reply::Placement`].
    Placement,
    /// Answer: [`Reply::Status`].
    ClusterStatus,
    /// Changes how the cluster is run. Answer: [`Reply::Done`] or [`Reply::Refused`].
    Administer(Administer),
    /// All metadata as they were at one moment, page by page in the order of their keys. Answer: [`Reply::Metadata`].
    Metadata {
        /// A snapshot that an earlier page named; 0 makes a new one.
        snapshot: u64,
        /// The last key of the page before; empty for the first page.
        after: ByteString,
    },
    /// Starts an online check of metadata against data, or joins the running one. Answer: [`Reply::Fsck`].
    FsckStart(FsckOptions),
    /// How far the check with this number is. Answer: [`Reply::Fsck`].
    FsckPoll {
        /// From [`FsckProgress::run`].
        run: u64,
    },
    /// The client dropped what it cached under these leases. Answer: none is waited for ([`Reply::Done`]).
    RecallDone {
        /// [`Push::Recall`]'s number, and whether the client has the inode open.
        recalls: Vec<(u64, bool)>,
    },
    /// The client no longer caches these inodes; the flag says that it has one open. Answer: [`Reply::Done`].
    ReturnLeases {
        /// Inodes.
        inos: Vec<(Ino, bool)>,
    },
    /// The lease on the inode is recalled, and the client is still bringing in what it buffered: the lease goes on, but not for
    /// ever. Answer: [`Reply::Done`].
    BringingIn {
        /// File.
        ino: Ino,
    },
    /// The client wants to keep changes of the file's data: all other leases on it are recalled first.
    /// Answer: [`Reply::Attr`], with an exclusive lease unless others are about to use the file.
    Lease {
        /// File.
        ino: Ino,
    },
    /// What changed in the namespace behind a position of the feed. When there is nothing yet, the NameNode waits for
    /// it, at most [`CHANGES_WAIT_MAX_MS`](super::changes::CHANGES_WAIT_MAX_MS).
    /// Answer: [`Reply::Changes`] or [`Reply::ChangesGone`].
    Changes {
        /// Go on behind this position; `None`: nothing but the present position is wanted, at once.
        after: Option<u64>,
        /// Only what happens to this inode, or below it if it is a directory.
        below: Ino,
        /// At most so many events, and at most [`CHANGES_MAX`](super::changes::CHANGES_MAX).
        max: u32,
    },
}

/// Bytes of keys and values in one [`MetadataPage`], unless a single record has more: half a frame.
pub const METADATA_PAGE_MAX: usize = crate::limits::FRAME_MAX / 2;

/// Some records of the metadata, as the NameNode's database has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataPage {
    /// Where to ask for the next page. A snapshot is let go after its last page, or a minute without a request.
    pub snapshot: u64,
    /// Which file system, and how far it was.
    pub stamp: NamespaceStamp,
    /// Keys and values, in ascending order of the keys.
    pub records: Vec<(ByteString, ByteString)>,
    /// There are no more.
    pub end: bool,
}

/// The longest that the NameNode lets a waiting `SetLock` wait before it answers `WouldBlock`.
pub const LOCK_WAIT_MAX_MS: u64 = 10_000;

/// Who a session belongs to, for `quarry status` and the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// What it is for: a mount point, `gateway`, `cli`.
    pub purpose: String,
}

/// The kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None: frees the range.
    Unlock,
}

/// Which call a lock belongs to. Locks of different families do not exclude each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockFamily {
    /// `fcntl(2)`.
    #[default]
    Record,
    /// `flock(2)`.
    Flock,
}

/// A byte-range lock. `flock` is one over the whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// The owner within the session, as the kernel numbers them.
    pub owner: u64,
    /// Shown to others by `F_GETLK`.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX` or `i64::MAX` to the end.
    pub end: u64,
    /// Kind.
    pub kind: LockKind,
    /// Family. An owner has locks of one family only.
    pub family: LockFamily,
}

/// A run of chunk ids of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkGrant {
    /// The group.
    pub pg: PgId,
    /// The first id.
    pub first: ChunkId,
    /// How many consecutive ids.
    pub count: u32,
}

/// How a lease lets its holder cache an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseMode {
    /// Attributes, extended attributes, data, and of a directory its entries and absent names.
    Shared,
    /// The same, and changes of data, size and times may wait in the holder.
    Exclusive,
}

/// The right to cache an inode for [`LEASE_TERM`](crate::limits::LEASE_TERM) after the holder sent the last
/// request that was answered. Names the lease as the session has it, which may be stronger than the request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// Inode.
    pub ino: Ino,
    /// How.
    pub mode: LeaseMode,
    /// Stays the same while the lease lasts; a shared lease that becomes exclusive gets a new one.
    pub generation: LeaseGeneration,
}

/// Names one lease of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId {
    /// Inode.
    pub ino: Ino,
    /// Generation.
    pub generation: LeaseGeneration,
}

/// What a session has lost and has not [acknowledged](Request::Renew) yet. The client drops what it cached and buffered
/// under these leases. An answer renews all leases that no losses named before it on the same connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Grows with each loss of the session; 0: none so far.
    pub number: u64,
    /// Broken leases, at most [`LOSSES_MAX`] of each mode.
    pub leases: Vec<LeaseId>,
    /// Every exclusive lease of the session with a smaller generation is broken as well.
    pub below: LeaseGeneration,
    /// Every shared lease of the session with a smaller generation is broken as well.
    pub shared_below: LeaseGeneration,
    /// Files on which locks could not be restored by a resumption.
    pub locks: Vec<Ino>,
}

/// Broken leases of one mode that a session may have unacknowledged. Beyond that all of this mode are broken.
pub const LOSSES_MAX: usize = 1024;

/// What became of a mutation whose session has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It was carried out, with this answer.
    Answered(Box<Result<MutationReply, ServiceError>>),
    /// It was not carried out and never will be: it may be sent again in the new session.
    Never,
    /// The NameNode no longer knows.
    Unknown,
}

/// The answer to a request: what was asked for, and leases granted with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Answer or error.
    pub result: Result<Reply, ServiceError>,
    /// Leases that hold for what the answer says.
    pub leases: Vec<LeaseGrant>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reply {
    Done,
    /// What was wanted is not done, for this reason.
    Refused(String),
    Session {
        session: SessionId,
        cluster: String,
        default_replication: super::cluster::Replication,
        losses: Losses,
    },
    Renewed(Losses),
    Fate(Fate),
    Query(QueryReply),
    Mutation(MutationReply),
    Attr(Attr),
    Lock(Option<Lock>),
    Grants(Vec<ChunkGrant>),
    Placement(Placement),
    Status(Box<ClusterStatus>),
    Fsck(FsckProgress),
    Metadata(MetadataPage),
    /// Events in order, none if the wait was over, and the position behind which to go on.
    Changes {
        events: Vec<ChangeEvent>,
        next: u64,
    },
    /// The feed does not have what is behind the position that was asked for: one can go on behind `oldest`, `newest`,
    /// and what lies between.
    ChangesGone {
        oldest: u64,
        newest: u64,
    },
}

/// What the NameNode says without being asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Push {
    /// Give back the lease on this inode, or keep a shared one if `keep` says so; answer with `RecallDone`.
    Recall {
        /// Numbers the recalls of a session.
        number: u64,
        /// Inode.
        ino: Ino,
        /// What may stay.
        keep: Option<LeaseMode>,
    },
    /// Leases of the session are broken. Comes before every later answer on this connection.
    Lost(Losses),
    /// The table of placement groups changed: ask for it before the next write.
    PlacementChanged {
        /// Its new version.
        version: u64,
    },
    /// The inode has lost its last name, and lives on because this client refers to it: it should be closed as soon as nothing
    /// but a memory of it is left.
    Nameless(Ino),
}
