//! The NameNode's replicated log: opaque entries, durable and in one order before they are applied.
//!
//! [`Log`] embeds [openraft] with one voter over segment files of its own. It knows nothing of what it carries:
//! bytes go in through [`Log::propose`], and come out, committed, as [`Committed`] through the channel that was given to
//! [`Log::open`], in the order of their indices and exactly once in each run.
//!
//! ```text
//!   propose ──> raft ──> queue ──> writer thread: one write and one fdatasync for all that waits
//!                 ^                   |                          |
//!                 +──── flushed ──────+                  keeper thread: prepares the next segment,
//!                 |                                      drops purged ones
//!                 +──> state machine adapter ──> channel of committed entries (waits when it is full)
//! ```
//!
//! The bytes on disk are drawn in `docs/disk-format.md` and where they are made; the rules that make them safe:
//!
//! - A *frame* is what one fdatasync covers. It starts on a page of its own, so that no acknowledged page is ever
//!   written again.
//! - Frame *n + 1* is written only after the sync of frame *n* has returned. Whoever finds a sound frame behind a damaged
//!   one therefore knows that acknowledged bytes are damaged, and refuses the log. A damaged frame with none behind it was
//!   never acknowledged (or not sealed yet, see [`LogConfig::seal_after`]) and is cut.
//! - Whatever write or sync fails stops the log for good: the page cache may have dropped what it could not write.

mod config;
mod directory;
mod error;
mod format;
mod index;
mod keeper;
mod log;
mod machine;
mod meta;
mod network;
mod queue;
mod raft_types;
mod recovery;
mod runtime;
mod segment;
mod shared;
mod storage;
mod writer;

#[cfg(test)]
mod tests;

pub use config::{LogConfig, SEGMENT_BYTES};
pub use error::LogError;
pub use log::{Committed, Log};
