//! What every part of Quarry shares and what is pure: ids, limits, checksums, the algebra of slices and the types that cross the network.
//!
//! This crate knows no role, does no I/O and reads no clock. It never depends on another crate of the workspace.

pub mod acl;
pub mod checksum;
pub mod ids;
pub mod limits;
pub mod mode;
pub mod slices;
pub mod wire;
