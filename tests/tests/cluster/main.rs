//! Quarry as its users meet it: real processes, real QUIC, a real kernel mount. One binary, so that it links once.

// A test fails by a panic: clippy knows that of `#[test]` functions, but not of what they share.
#![allow(clippy::unwrap_used)]

mod backup;
mod client_crash;
mod coherence;
mod coherence_checker;
mod commands;
mod conflicts;
mod data;
mod datanode_loss;
mod demo;
mod fencing;
mod full;
mod hostile;
mod kernel_cache;
mod limits;
mod local_users;
mod locks;
mod metrics;
mod model;
mod namespace;
mod nodes;
mod open_race;
mod operations;
mod outside_suites;
mod packages;
mod power_cut;
mod privileges;
mod programs;
mod references;
mod replication;
mod restart;
mod sick_disks;
mod signals;
mod stacked;
mod stress;
mod syncing;
mod top;
mod trust;
mod two_mounts;
mod up;
mod watch;
mod xattrs;
