//! Real clusters for tests: real processes, real QUIC, a real kernel mount.
//!
//! Every [`Cluster`] has its own directory, ports and mounts, so that tests run beside each other, and takes all of it
//! away when it goes, also when its test fails; then it also prints what the parts logged.

pub mod cluster;
pub mod flood;
pub mod linear;
pub mod loop_disk;
pub mod mapping;
pub mod ports;
pub mod process;
pub mod program;
pub mod relay;
pub mod tree;
pub mod views;
pub mod wait;
pub mod watchdog;

pub use cluster::{Cluster, Mount};
pub use views::Views;
pub use wait::{eventually, eventually_some};
