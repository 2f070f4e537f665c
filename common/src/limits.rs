//! Every limit that more than one part must agree on, with the reason for its size.

use std::time::Duration;

/// Bytes in a chunk, and in the window of a file that one slice list describes: 2 MiB.
pub const CHUNK_SIZE: u64 = 2 << 20;
/// Bytes that one CRC32C covers: large enough that checksums cost 0.006 % of space, small enough that a
/// random read fetches little more than it needs.
pub const BLOCK_SIZE: u64 = 64 << 10;
/// Blocks in a full chunk.
pub const BLOCKS_PER_CHUNK: usize = (CHUNK_SIZE / BLOCK_SIZE) as usize;

/// Longest name of a directory entry in bytes, as Linux has it.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link in bytes (`PATH_MAX` without its NUL).
pub const SYMLINK_MAX: usize = 4095;
/// Most hard links to one inode, as ext4 has it.
pub const LINK_MAX: u32 = 65_000;
/// Largest file: the kernel's own limit for a 64-bit offset.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;
/// Longest name of an extended attribute (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Largest value of one extended attribute (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// All names of an inode's attributes together (`XATTR_LIST_MAX`).
pub const XATTR_LIST_MAX: usize = 64 << 10;

/// Slices that a window may gather before its writer merges them into one new chunk, if that is worth what it writes; at half of
/// [`SLICES_MAX`] it does so in any case.
pub const SLICES_MERGE_AT: usize = 16;
/// Slices that a window may have at all: the NameNode refuses more, so a reply stays small.
pub const SLICES_MAX: usize = 256;
/// Windows whose slices one request may ask for (256 MiB of file).
pub const LAYOUT_WINDOWS_MAX: u32 = 128;
/// Slices and chunks that one commit may carry.
pub const COMMIT_SLICES_MAX: usize = 1024;
/// Entries in one page of a directory.
pub const READDIR_ENTRIES_MAX: u32 = 1024;

/// Slots of a session: mutating requests that one client may have unanswered.
pub const SESSION_SLOTS: u16 = 64;
/// A session without traffic for this long is ended and what it held is freed.
pub const SESSION_TTL: Duration = Duration::from_secs(15);
/// How often an idle client shows that it lives: three may be lost within a lease term.
pub const SESSION_RENEW: Duration = Duration::from_millis(1500);
/// How long a lease lasts after its last renewal, and so the longest that a dead client delays another.
pub const LEASE_TERM: Duration = Duration::from_secs(5);

/// Exclusive leases that one [`ResumeSession`](crate::wire::session::Request::ResumeSession) reclaims: 20 bytes each, so
/// that the request fits a frame beside open files and locks.
pub const RECLAIMS_MAX: usize = 16_384;
/// How long a holder that answers a recall by committing what it buffered may take for it. Each commit moves the end of
/// the lease by one term, up to this long after the recall.
pub const RECALL_MAX: Duration = Duration::from_secs(30);

/// DataNodes send a heartbeat this often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// No heartbeat for this long: suspect, not chosen for writes.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// No heartbeat for this long: dead, healing begins.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Largest frame of an RPC, header and body. A commit of `COMMIT_SLICES_MAX` slices fits.
pub const FRAME_MAX: usize = 1 << 20;
/// Most members of one placement group (`replica=all` on a cluster of this many DataNodes).
pub const PG_MEMBERS_MAX: usize = 64;
