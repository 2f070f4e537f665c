//! The NameNode's state machine: pure, deterministic, without I/O, clock or randomness.
//!
//! [`State`] holds the namespace, the file data's layout, sessions, chunk references and the tables of nodes and
//! placement groups. Its inputs and outputs, in the order of a NameNode's life:
//!
//! 1. [`State::open`] over what the last checkpoint made durable (a [`Base`]);
//! 2. [`State::apply`] for each [`Command`] of the log, in its order: an [`Outcome`] for whoever asked, and
//!    [`Effect`]s for the shell around the state;
//! 3. [`State::query`] and the read helpers, at any time between;
//! 4. [`State::freeze`] gives what changed since the last checkpoint, [`State::thaw`] takes the base that has it.
//!
//! The same commands give the same bytes, wherever checkpoints fall between them.

mod base;
mod chunks;
mod command;
mod error;
pub mod fsck;
mod health;
pub mod invariants;
pub mod leases;
pub mod locks;
pub mod membership;
pub mod namespace;
mod ops;
pub mod placement;
mod records;
mod restore;
mod state;
mod store;
mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(debug_assertions)]
mod touched;
mod tx;

pub use base::{Base, BaseError, MemoryBase, Overlay, Pair};
pub use command::{Body, Command, Effect, Fence, GroupChange, LogicalTime, Outcome};
pub use error::StateError;
pub use health::{Health, NodeView, Timing};
pub use records::{
    ChunkRecord, Content, Cursor, Dentry, DirContent, Erased, FileContent, Inode, Meta, NodeRecord,
    SessionRecord, Usage, WindowRecord,
};
pub use restore::new_generation;
pub use state::State;
