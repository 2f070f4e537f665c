//! A NameNode as its peers see it, over the real transport on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bench;
mod fencing;
mod leases;
mod locks;
mod namespace;
mod nodes;
mod restart;
mod sessions;
