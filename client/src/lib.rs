//! The client library: a mounted file system without the kernel.
//!
//! [`FileSystem`] is a session with the NameNode and everything above it; the FUSE mount, the command line and the
//! tests use nothing else.
//!
//! - `session`: the control connection, exactly-once mutations in slots, reconnects, expiry.
//! - `transfer`: chunks to and from DataNodes.
//! - `file`: open files: buffers, layouts, caches, prefetch.
//! - `cache`: the namespace as far as leases protect it.
//! - `fs`: the facade.

mod backoff;
mod cache;
mod config;
mod error;
mod file;
mod fs;
mod meta;
mod server_clock;
mod session;
#[cfg(test)]
mod testing;
mod traits;
mod transfer;

pub use cache::{Forgotten, Invalidator};
pub use config::ClientConfig;
pub use error::ClientError;
pub use file::{OpenFile, OpenMode, Piece};
pub use fs::{
    Changes, ChangesError, Credentials, DirPage, Entry, FileSystem, Listing, NewFile, PagesRead, Unwritten,
};
pub use transfer::ReplicaFault;
