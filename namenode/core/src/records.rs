//! The values of the tables.

use crate::command::LogicalTime;
use quarry_common::ids::{Ino, LeaseGeneration, NamespaceId, NodeId, PgId, WindowIndex};
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::cluster::{NamespaceStamp, NodeMode, Replication};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Attr, FileKind, MutationReply, Name, Slice, Timestamp};
use quarry_common::wire::session::ClientInfo;
use serde::{Deserialize, Serialize};

/// The version of all records and keys together; a store of another version is refused.
pub(crate) const FORMAT: u32 = 1;

/// What there is once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of keys and records.
    pub format: u32,
    /// Last log index whose commands are all in.
    pub applied: u64,
    /// Cluster name; empty before `Format`.
    pub cluster: String,
    /// The file system's identity; 0 before `Format`.
    pub namespace: NamespaceId,
    /// See [`NamespaceStamp::generation`].
    pub generation: u64,
    /// Policy where no directory says otherwise.
    pub default_replication: Replication,
    /// Members below which a group takes no chunks; `None`: what the policy says
    /// ([`membership::min_replicas`](crate::membership::min_replicas)).
    pub min_replicas: Option<u8>,
    /// DataNodes that are not being drained.
    pub nodes: u32,
    /// The smallest number that a new placement group may have; DataNodes may hold chunks of smaller ones that are unknown
    /// here, since a backup was restored.
    pub next_pg: PgId,
    /// The next new inode's number.
    pub next_ino: Ino,
    /// The logical clock at the last command.
    pub clock: LogicalTime,
    /// Runs of NameNodes on this state so far.
    pub runs: u64,
    /// The next session's number.
    pub next_session: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Ended sessions whose slots are kept.
    pub ended_sessions: u64,
    /// Grows with every change of nodes or groups.
    pub placement_version: u64,
    /// Counters.
    pub usage: Usage,
}

impl Meta {
    /// Which file system, and how far it is.
    pub fn stamp(&self) -> NamespaceStamp {
        NamespaceStamp { namespace: self.namespace, generation: self.generation, position: self.applied }
    }
}

/// What the namespace holds. Orphans count until they are reaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes of all kinds.
    pub inodes: u64,
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Sizes of all regular files, modulo 2^64: three sparse files can exceed it.
    pub bytes: u64,
    /// Bytes of regular files that are no holes.
    pub allocated: u64,
    /// Chunks that files refer to.
    pub chunks: u64,
    /// Bytes of these chunks, each counted once.
    pub chunk_bytes: u64,
    /// Chunks in the delete queue.
    pub deleting: u64,
    /// Inodes without a name.
    pub orphans: u64,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// `mode & 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; a directory counts itself and its subdirectories. 0: an orphan.
    pub nlink: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Grows with every change.
    pub version: u64,
    /// Bytes of the names of extended attributes, each with a NUL: the answer to listxattr.
    pub xattr_list_bytes: u32,
    /// There is an access ACL that says more than the mode.
    pub access_acl: bool,
    /// There is a default ACL.
    pub default_acl: bool,
    /// What depends on the kind.
    pub content: Content,
}

/// What depends on an inode's kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A regular file.
    File(FileContent),
    /// A directory.
    Dir(DirContent),
    /// A symbolic link and its target.
    Symlink(ByteString),
    /// A fifo, socket or device.
    Special {
        /// Which.
        kind: FileKind,
        /// Device number.
        rdev: u32,
    },
}

/// A regular file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// The number under which the file's windows are kept: its own, or a later one if a large truncation left the
    /// old windows to an orphan.
    pub data: Ino,
    /// Bytes.
    pub size: u64,
    /// Bytes that are no holes.
    pub allocated: u64,
    /// Numbers the changes of windows: a window's version is the value at its last change.
    pub layout: u64,
    /// Policy for new chunks; `None`: the cluster's default.
    pub replication: Option<Replication>,
    /// Windows that are zeros already and still to be freed.
    pub erased: Option<Erased>,
}

/// A range of windows that one operation has made zeros: too many to be freed by it. They are freed in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The first.
    pub from: WindowIndex,
    /// Behind the last.
    pub end: WindowIndex,
    /// [`FileContent::layout`] after the operation: a window of a later version was written since.
    pub version: u64,
}

impl FileContent {
    /// Whether a stored window is zeros all the same.
    pub(crate) fn has_erased(&self, index: WindowIndex, version: u64) -> bool {
        self.erased.is_some_and(|e| (e.from..e.end).contains(&index) && version <= e.version)
    }
}

/// A directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirContent {
    /// The directory that holds it; the root is its own.
    pub parent: Ino,
    /// Entries, without `.` and `..`.
    pub entries: u64,
    /// The cookie of the next new entry.
    pub next_cookie: u64,
    /// Policy that new files and subdirectories inherit; `None`: the cluster's default.
    pub replication: Option<Replication>,
}

impl Inode {
    /// What it is.
    pub fn kind(&self) -> FileKind {
        match &self.content {
            Content::File(_) => FileKind::File,
            Content::Dir(_) => FileKind::Dir,
            Content::Symlink(_) => FileKind::Symlink,
            Content::Special { kind, .. } => *kind,
        }
    }

    /// As `stat` shows it.
    pub fn attr(&self, ino: Ino) -> Attr {
        let (size, allocated, rdev) = match &self.content {
            Content::File(file) => (file.size, file.allocated, 0),
            Content::Dir(_) => (DIR_SIZE, 0, 0),
            Content::Symlink(target) => (target.len() as u64, 0, 0),
            Content::Special { rdev, .. } => (0, 0, *rdev),
        };
        Attr {
            ino,
            kind: self.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size,
            allocated,
            rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            version: self.version,
        }
    }

    /// The policy of a file or directory, if it has one of its own.
    pub fn replication(&self) -> Option<Replication> {
        match &self.content {
            Content::File(file) => file.replication,
            Content::Dir(dir) => dir.replication,
            Content::Symlink(_) | Content::Special { .. } => None,
        }
    }
}

/// The size that `stat` shows for a directory.
const DIR_SIZE: u64 = 4096;

/// An entry of a directory, in the table ordered by cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dentry {
    /// Inode.
    pub ino: Ino,
    /// What the inode is.
    pub kind: FileKind,
    /// Name.
    pub name: Name,
}

/// Where a name's entry is, in the table ordered by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameEntry {
    pub(crate) cookie: u64,
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
}

/// The data of a window that is not all hole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// [`FileContent::layout`] at the last change.
    pub version: u64,
    /// Newest last; none is hidden altogether.
    pub slices: Vec<Slice>,
}

/// A chunk that files refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Bytes.
    pub length: u32,
    /// SHA-256 of all of them.
    pub sha256: [u8; 32],
    /// Slices that name it, at least 1.
    pub refs: u64,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Id of the certificate that opened it.
    pub owner: String,
    /// For people.
    pub info: ClientInfo,
    /// When it began.
    pub since: Timestamp,
    /// Every lease of the session with a smaller generation is broken.
    pub fenced_below: LeaseGeneration,
    /// Its floor when the session began: leases below are of its client's earlier sessions, and no loss of this one.
    pub began_at: LeaseGeneration,
    /// Rows of the session in the table of fences.
    pub fences: u32,
}

/// A session that ended without its client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndedRecord {
    /// Id of the certificate that opened it.
    pub(crate) owner: String,
}

/// The last mutation of a session's slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotRecord {
    pub(crate) sequence: u64,
    pub(crate) reply: Result<MutationReply, ServiceError>,
}

/// A DataNode that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number.
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
    /// Failure domain; empty if unknown.
    pub rack: String,
    /// Changes when it lost its data directories.
    pub store_id: u128,
    /// What an administrator has decided.
    pub mode: NodeMode,
}

/// The chunk numbers of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The next sequence to hand out.
    pub next: u64,
    /// A smaller sequence cannot be brought in any more.
    pub floor: u64,
}
