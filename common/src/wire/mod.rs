//! Everything that crosses the network, by conversation.
//!
//! - [`fs`]: client to NameNode, the file system's operations.
//! - [`session`]: client to NameNode, sessions and what the NameNode pushes to them.
//! - [`changes`]: within it, the feed of changes.
//! - [`cluster`]: DataNode to NameNode and operator to NameNode: nodes, placement groups, health.
//! - [`data`]: client or DataNode to DataNode, chunks.
//!
//! All are postcard; `docs/wire-format.md` describes the frames around them. A change of any type here is a
//! change of [`WIRE_VERSION`].

pub mod bytestring;
pub mod changes;
pub mod cluster;
pub mod data;
pub mod error;
pub mod fs;
pub mod session;

/// Sent in the first frame of every connection; a peer of another version is refused with a clear error.
pub const WIRE_VERSION: u16 = 1;
