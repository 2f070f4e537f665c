//! The feed of changes.

use super::FileSystem;
use crate::error::unexpected;
use quarry_common::ids::Ino;
use quarry_common::wire::changes::ChangeEvent;
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Reply, Request};

/// A piece of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// In the order in which they happened; none if nothing did for some seconds.
    pub events: Vec<ChangeEvent>,
    /// The position behind which to go on.
    pub next: u64,
}

/// Why the feed cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// The NameNode no longer knows all that happened behind the position.
    #[error(
        "events after position {after} were missed: the feed goes back to position {oldest} only; go on from there"
    )]
    Missed {
        /// The position that was asked for.
        after: u64,
        /// The first from which one can go on.
        oldest: u64,
    },
    /// The position is not one of this cluster: nothing has happened there yet.
    #[error("there is no position {after} yet: the feed is at position {newest}")]
    Ahead {
        /// The position that was asked for.
        after: u64,
        /// Where the feed is.
        newest: u64,
    },
    /// The operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl FileSystem {
    /// What happens, whichever client does it, to an inode and, if it is a directory, to everything below it, behind the
    /// position `after`; at most `max` events. Waits some seconds for the next event if there is none. Without a
    /// position the answer has no events and says, at once, what the position is now.
    ///
    /// # Errors
    /// When events were missed, and those of the NameNode.
    pub async fn changes(&self, below: Ino, after: Option<u64>, max: u32) -> Result<Changes, ChangesError> {
        match self.0.session.ask(Request::Changes { after, below, max }).await? {
            Reply::Changes { events, next } => Ok(Changes { events, next }),
            Reply::ChangesGone { oldest, newest } => {
                let after = after.unwrap_or_default();
                Err(if after < oldest {
                    ChangesError::Missed { after, oldest }
                } else {
                    ChangesError::Ahead { after, newest }
                })
            }
            other => Err(unexpected(&other).into()),
        }
    }
}
