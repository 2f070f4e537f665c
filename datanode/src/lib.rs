//! The DataNode: keeps chunks as files, passes them on along the chain, and checks them again and again.
//!
//! - `store`: chunks in data directories. Blocking, knows no network.
//! - `server`: answers requests, a stream each.
//! - `namenode_client`: the conversation with the NameNode: registration, heartbeats, reports.
//! - `background`: the syncer, the scrubber, and who asks for free space.

mod background;
mod blocking;
mod config;
mod namenode_client;
mod placement;
mod run;
mod server;
mod store;
#[cfg(test)]
mod testing;

pub use config::DataNodeConfig;
pub use run::run;
