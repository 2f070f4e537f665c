//! What every part of Quarry shares: ids, limits, checksums, the wire types and the transport.
//!
//! This crate knows no role. It never depends on another crate of the workspace.

pub mod identity;
pub mod ids;
pub mod limits;
pub mod rpc;
pub mod transport;
pub mod wire;
