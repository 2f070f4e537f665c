//! The change feed: what happened to the namespace, in the order in which it happened.

use super::bytestring::ByteString;
use crate::ids::Ino;
use serde::{Deserialize, Serialize};

/// The longest that the NameNode keeps a request for changes waiting: a client that watches shows by the next one that
/// it still does.
pub const CHANGES_WAIT_MAX_MS: u64 = 5_000;
/// Events that one answer holds at most.
pub const CHANGES_MAX: u32 = 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// A name was made: for a new inode, or as a hard link.
    Create,
    /// Data or size changed: a write that reached the cluster, a truncation, an allocation, a copy.
    Change,
    /// Mode, owner, times or an extended attribute changed.
    Attributes,
    /// A name moved, and took the place of what had the new name.
    Rename,
    /// Two names changed places.
    Exchange,
    /// A name was removed.
    Delete,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEvent {
    /// Where it is in the feed: grows from event to event, and is the same whoever asks. The log index of the command's
    /// entry times 1,024, plus the command's place in the entry.
    pub position: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// To which inode; of an exchange, the one that had `path` before.
    pub ino: Ino,
    /// From the root, as it was when it happened: `/dir/name`. Where the NameNode does not know the name of an inode,
    /// the path begins with that inode: `inode:57` or `inode:57/name`.
    pub path: ByteString,
    /// Of a rename or an exchange, the other name.
    pub to: Option<ByteString>,
}
