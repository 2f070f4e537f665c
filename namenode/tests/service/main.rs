//! A NameNode as its peers see it, over the real transport on loopback.

mod bench;
mod leases;
mod locks;
mod nodes;
mod restart;
mod sessions;
