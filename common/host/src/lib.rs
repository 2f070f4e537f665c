//! What Quarry needs of the machine it runs on: clocks, durable files, configuration and logs.
//!
//! Every role uses this crate, and nothing here knows a role or the network.

pub mod clock;
pub mod config;
pub mod crashsafe;
pub mod metrics;
pub mod telemetry;
