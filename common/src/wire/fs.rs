//! The file system's operations, client to NameNode.
//!
//! A [`Query`] reads and never touches the log. A [`Mutation`] goes through the log and is answered after it
//! is durable and applied; it carries a slot and a number, so that a retry gets the first answer again.

use super::bytestring::ByteString;
use crate::ids::{ChunkId, Ino, LeaseGeneration, NodeId, WindowIndex};
use serde::{Deserialize, Serialize};

/// A name in a directory: any bytes but `/` and NUL, 1 to 255 of them, neither `.` nor `..`.
pub type Name = ByteString;

/// A point in time: nanoseconds since 1970-01-01 UTC, negative before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i128);

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A UNIX-domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The word for it in output and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "character_device",
            Self::BlockDevice => "block_device",
        }
    }
}

/// An inode's attributes, as `stat` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky: `mode & 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names; a directory counts itself and its subdirectories as ext4 does.
    pub nlink: u32,
    /// Bytes; for a symlink the length of its target, for a directory 4096.
    pub size: u64,
    /// Bytes that slices occupy, holes and overwritten parts not counted.
    pub allocated: u64,
    /// Device number of a device file.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// Last change of data or attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Grows with every change of the data, the size or the attributes: equal versions mean equal contents.
    pub version: u64,
}

/// Who asks: owner of what is created. Access itself is checked by the kernel of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// A new inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewNode {
    /// A regular file. With `open` the session holds it open from the start.
    File {
        /// Whether the creating session opens it as well.
        open: bool,
    },
    /// A directory.
    Dir,
    /// A symbolic link to the target.
    Symlink(ByteString),
    /// A fifo, socket or device; `rdev` is 0 for the first two.
    Special {
        /// Which of the four special kinds.
        kind: FileKind,
        /// Device number.
        rdev: u32,
    },
}

/// A time in `utimensat`'s terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The NameNode's clock.
    Now,
    /// A given time.
    At(Timestamp),
}

/// The attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Truncate or extend.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the data.
    pub mtime: Option<SetTime>,
    /// Clear suid, and sgid where the group may execute, as a change by an unprivileged process does.
    pub kill_suidgid: bool,
    /// Clear sgid also of a directory and where the group may not execute, as a change by a process outside the group does.
    pub kill_sgid: bool,
}

/// How a rename treats an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it, as rename(2) does.
    Replace,
    /// RENAME_NOREPLACE: fail with [`Exists`](super::error::FsError::Exists).
    NoReplace,
    /// RENAME_EXCHANGE: swap both atomically.
    Exchange,
    /// RENAME_WHITEOUT: as [`Replace`](Self::Replace), and a character device 0:0 takes the place of the old name, by which overlayfs
    /// hides what lower layers have there.
    Whiteout,
}

/// How setxattr treats an existing attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetXattrMode {
    /// Create or replace.
    Either,
    /// XATTR_CREATE.
    Create,
    /// XATTR_REPLACE.
    Replace,
}

/// A piece of a window: `length` bytes at `position` come from `chunk` at `chunk_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// First byte within the window, 0 to 2 MiB - 1.
    pub position: u32,
    /// Bytes; `position + length <= CHUNK_SIZE`.
    pub length: u32,
    /// The chunk, or `None`: zeros that hide older slices (a punched hole).
    pub chunk: Option<ChunkId>,
    /// First byte within the chunk.
    pub chunk_offset: u32,
}

/// The data of one window: slices, the newest last. Later slices hide earlier ones; what no slice covers is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Which window of the file.
    pub index: WindowIndex,
    /// Grows with every change of the list; a merge names the version it read.
    pub version: u64,
    /// At most [`SLICES_MAX`](crate::limits::SLICES_MAX).
    pub slices: Vec<Slice>,
}

/// What the NameNode keeps of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkInfo {
    /// Its id.
    pub id: ChunkId,
    /// Bytes, 1 to 2 MiB.
    pub length: u32,
    /// SHA-256 of all of them.
    pub sha256: [u8; 32],
}

/// A chunk that a commit brings into the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewChunk {
    /// What it is.
    pub info: ChunkInfo,
    /// The members that acknowledged it. Must include every serving and syncing member at commit time.
    pub holders: Vec<NodeId>,
}

/// Slices of one window in a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCommit {
    /// Which window.
    pub index: WindowIndex,
    /// `Some(version)`: these slices replace the list that had this version (a merge or a whole-window
    /// rewrite of what was read); else they are put on top of it.
    pub replaces: Option<u64>,
    /// Oldest first.
    pub slices: Vec<Slice>,
}

/// Brings written data into a file: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The file.
    pub ino: Ino,
    /// Chunks that are new with this commit; slices may also name chunks that the file already has.
    pub chunks: Vec<NewChunk>,
    /// What changes, by window.
    pub windows: Vec<WindowCommit>,
    /// The file is at least this long afterwards.
    pub size_at_least: u64,
    /// When the last write happened, by the client's clock; `None` leaves mtime alone (a merge).
    pub mtime: Option<Timestamp>,
    /// Clear suid and sgid as [`SetAttr::kill_suidgid`].
    pub kill_suidgid: bool,
    /// The exclusive lease under which the program's call returned before this commit; `None`: the call waits for the
    /// commit (write-through). [`Fenced`](super::error::ServiceError::Fenced) if that lease is broken.
    pub lease: Option<LeaseGeneration>,
}

/// What fallocate(2) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallocateMode {
    /// Extend the size if needed. Space is not reserved.
    Allocate,
    /// Check the limits only: `FALLOC_FL_KEEP_SIZE`.
    KeepSize,
    /// Zeros without a change of size.
    PunchHole,
    /// Zeros, extending the size if needed.
    ZeroRange,
    /// Zeros without a change of size: `FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE`.
    ZeroRangeKeepSize,
}

/// A request that only reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The inode behind a name. Answer: [`QueryReply::Attr`].
    Lookup {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// Answer: [`QueryReply::Attr`].
    Attr {
        /// Inode.
        ino: Ino,
    },
    /// The directory that holds a directory (`..`). Answer: [`QueryReply::Attr`].
    Parent {
        /// Directory.
        ino: Ino,
    },
    /// One page of a directory, without `.` and `..`. Answer: [`QueryReply::Entries`].
    ReadDir {
        /// Directory.
        ino: Ino,
        /// Continue after the entry with this cookie; 0 starts.
        after: u64,
        /// At most this many entries.
        limit: u32,
        /// With attributes.
        plus: bool,
    },
    /// Answer: [`QueryReply::Bytes`].
    ReadLink {
        /// Symbolic link.
        ino: Ino,
    },
    /// Answer: [`QueryReply::Bytes`].
    GetXattr {
        /// Inode.
        ino: Ino,
        /// Full name with its namespace.
        name: Name,
    },
    /// Names, each with a NUL after it. Answer: [`QueryReply::Bytes`].
    ListXattr {
        /// Inode.
        ino: Ino,
    },
    /// Slices of the windows from `first` on that have any. Answer: [`QueryReply::Layout`].
    Layout {
        /// File.
        ino: Ino,
        /// First window.
        first: WindowIndex,
        /// Number of windows to cover, at most [`LAYOUT_WINDOWS_MAX`](crate::limits::LAYOUT_WINDOWS_MAX).
        count: u32,
    },
    /// The first window at or after `from` that has slices (for SEEK_DATA in a very sparse file).
    /// Answer: [`QueryReply::Layout`] with at most one window. One without slices says that the search must go on behind
    /// it.
    NextWindow {
        /// File.
        ino: Ino,
        /// Where to begin.
        from: WindowIndex,
    },
    /// What is known of chunks. Answer: [`QueryReply::Chunks`], absent ones left out.
    Chunks {
        /// At most [`COMMIT_SLICES_MAX`](crate::limits::COMMIT_SLICES_MAX).
        ids: Vec<ChunkId>,
    },
    /// Capacity and usage. Answer: [`QueryReply::StatFs`].
    StatFs,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// Position: stays the same while the entry lives, grows in order of creation, never 0.
    pub cookie: u64,
    /// Inode.
    pub ino: Ino,
    /// What the inode is.
    pub kind: FileKind,
    /// Its name.
    pub name: Name,
    /// Attributes, if asked for.
    pub attr: Option<Attr>,
}

/// `statfs` in bytes of user data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatFs {
    /// Bytes of user data that the cluster can hold at the default replication.
    pub capacity: u64,
    /// Of these, free.
    pub free: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum QueryReply {
    Attr(Attr),
    Entries {
        entries: Vec<DirEntry>,
        /// No entry follows.
        end: bool,
        /// The largest cookie that the directory has ever given to an entry: what is added later has a larger one.
        newest: u64,
    },
    Bytes(ByteString),
    Layout {
        attr: Attr,
        windows: Vec<Window>,
    },
    Chunks(Vec<ChunkInfo>),
    StatFs(StatFs),
}

/// A request that changes the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutation {
    /// Makes an inode and its name. Fails with `Exists` if the name is taken. Answer: [`MutationReply::Attr`].
    Create {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
        /// What to make.
        node: NewNode,
        /// Mode before umask and default ACL.
        mode: u16,
        /// The caller's umask; a default ACL of the parent takes its place.
        umask: u16,
        /// Owner of the new inode; a sgid parent gives its group.
        caller: Caller,
    },
    /// Another name for an inode that is no directory. Answer: [`MutationReply::Attr`].
    Link {
        /// Inode.
        ino: Ino,
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// Removes a name of anything but a directory. Answer: [`MutationReply::Removed`].
    Unlink {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// Removes an empty directory. Answer: [`MutationReply::Removed`].
    Rmdir {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// Answer: [`MutationReply::Renamed`].
    Rename {
        /// Old directory.
        from: Ino,
        /// Old name.
        from_name: Name,
        /// New directory.
        to: Ino,
        /// New name.
        to_name: Name,
        /// What of an existing target.
        mode: RenameMode,
    },
    /// Answer: [`MutationReply::Attr`].
    SetAttr {
        /// Inode.
        ino: Ino,
        /// What to change.
        set: SetAttr,
        /// For chmod with an ACL: the caller is in the file's group or privileged, so sgid may stay.
        keep_sgid: bool,
    },
    /// Answer: [`MutationReply::Attr`].
    SetXattr {
        /// Inode.
        ino: Ino,
        /// Full name with its namespace.
        name: Name,
        /// Value.
        value: ByteString,
        /// What of an existing attribute.
        mode: SetXattrMode,
    },
    /// Answer: [`MutationReply::Attr`].
    RemoveXattr {
        /// Inode.
        ino: Ino,
        /// Full name with its namespace.
        name: Name,
    },
    /// Answer: [`MutationReply::Committed`].
    Commit(Commit),
    /// Answer: [`MutationReply::Attr`].
    Fallocate {
        /// File.
        ino: Ino,
        /// What to do.
        mode: FallocateMode,
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        length: u64,
        /// Clear suid and sgid.
        kill_suidgid: bool,
    },
    /// Copies by reference; the ranges must not overlap within one file. Stops at the end of the source.
    /// Answer: [`MutationReply::Copied`].
    CopyRange {
        /// Source.
        from: Ino,
        /// First byte of the source.
        from_offset: u64,
        /// Target.
        to: Ino,
        /// First byte of the target.
        to_offset: u64,
        /// Bytes; the NameNode may do less and says how many.
        length: u64,
        /// Clear suid and sgid of the target.
        kill_suidgid: bool,
    },
}

/// The answer to a [`Mutation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum MutationReply {
    Attr(Attr),
    /// The inode whose name went, and its attributes; `nlink` is 0 when this was the last name.
    Removed(Attr),
    /// The moved inode, and the one that it replaced or changed places with.
    Renamed {
        moved: Attr,
        other: Option<Attr>,
    },
    /// New attributes and, in the commit's order, the new version and slice count of each window.
    Committed {
        attr: Attr,
        windows: Vec<(WindowIndex, u64, u32)>,
    },
    Copied {
        bytes: u64,
        attr: Attr,
    },
}
