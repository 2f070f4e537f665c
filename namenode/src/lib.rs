//! The NameNode: keeps the namespace of a Quarry cluster.
//!
//! The state machine itself is `quarry-namenode-core`, pure and without I/O; this crate is what surrounds it.
//!
//! ```text
//!   clients, DataNodes                      workers: membership, healing, deleter, auditor, floors,
//!      │ QUIC                                        reaper, checkpoint, fsck
//!   connections ── events ──> owner (one thread) <── questions, commands ──┘        │ dial
//!                          │ State, sessions, locks, open files                 v
//!                          │ entries          ^ committed entries           DataNodes
//!                          v                  │
//!                         log (raft, one fsync for many commands)   kv (checkpoints in redb)
//! ```
//!
//! - [`run`] is the life of the process: directory, log, database, then the owner, the workers and the network.
//! - `owner` has the state and everything volatile, and does one thing after the other.
//! - `workers` do what takes long, and come back to the owner with questions and commands.

mod authority;
pub mod backup;
mod board;
mod config;
mod connections;
mod entry;
mod events;
mod format;
mod home;
mod kv;
mod observe;
mod owner;
mod run;
mod workers;

pub use config::NameNodeConfig;
pub use format::{format, load, restore};
pub use home::is_formatted;
pub use run::run;
