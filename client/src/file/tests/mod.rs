//! Files against a cluster in memory: the real state machine behind a NameNode without a network, and chunks in a
//! map, with faults on demand.

mod basics;
mod cluster;
mod concurrent;
mod durability;
mod failures;
mod fencing;
mod model;
