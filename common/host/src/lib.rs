//! What Quarry needs of the machine it runs on: clocks, randomness, tasks, threads, disks, configuration and
//! logs.
//!
//! Every role uses this crate, and nothing here knows a role or the network.

pub mod clock;
pub mod config;
pub mod crashsafe;
pub mod disk;
pub mod log_limit;
pub mod metrics;
pub mod panics;
pub mod private;
pub mod process;
pub mod random;
mod syslog;
pub mod task;

pub mod telemetry;
pub mod thread;
pub mod trace;
pub mod variant;
pub mod world;
