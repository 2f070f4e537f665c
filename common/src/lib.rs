//! What every part of Quarry shares: ids, limits, checksums, the wire types and the transport.
//!
//! This crate knows no role. It never depends on another crate of the workspace.

pub mod checksum;
pub mod clock;
pub mod config;
pub mod crashsafe;
pub mod frame;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod rpc;
pub mod telemetry;
pub mod transport;
pub mod wire;
