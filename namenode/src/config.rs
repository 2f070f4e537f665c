//! What can be chosen about a NameNode.

use quarry_common::ids::NameNodeId;
use quarry_common::limits::{DEAD_AFTER, HEARTBEAT_INTERVAL, SESSION_TTL, SUSPECT_AFTER};
use quarry_common::wire::cluster::Replication;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The settings of one NameNode.
#[derive(Clone, Debug)]
pub struct NameNodeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the log and the database are; made when it is missing.
    pub dir: PathBuf,
    /// Number in its Raft group.
    pub node: NameNodeId,
    /// Name of the cluster.
    pub cluster: String,
    /// Policy of a new cluster; an existing one keeps its own.
    pub default_replication: Replication,
    /// What DataNodes are told.
    pub heartbeat_interval: Duration,
    /// Size of a segment file of the log in bytes, a multiple of 4096.
    pub log_segment_bytes: u64,
    /// A DataNode silent for this long is suspect.
    pub suspect_after: Duration,
    /// A DataNode silent for this long is dead.
    pub dead_after: Duration,
    /// A session without traffic for this long ends.
    pub session_ttl: Duration,
    /// How often time-driven work is looked at: silence of nodes and sessions shows within this time.
    pub tick: Duration,
    /// How often the state goes into the database.
    pub checkpoint_interval: Duration,
    /// How long the data of a released chunk stay: readers that were told of it before may still ask for it.
    pub delete_grace: Duration,
    /// A chunk id that was handed out this long ago and is in no file cannot be brought in any more: its data are garbage.
    pub orphan_age: Duration,
    /// Members of a group that differ for this long are compared chunk by chunk.
    pub audit_after: Duration,
}

impl NameNodeConfig {
    /// The defaults.
    pub fn new(listen: SocketAddr, dir: PathBuf) -> Self {
        Self {
            listen,
            dir,
            node: NameNodeId(1),
            cluster: "quarry".to_owned(),
            default_replication: Replication::Factor(3),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            log_segment_bytes: quarry_log::SEGMENT_BYTES,
            suspect_after: SUSPECT_AFTER,
            dead_after: DEAD_AFTER,
            session_ttl: SESSION_TTL,
            tick: Duration::from_millis(250),
            checkpoint_interval: Duration::from_secs(5),
            delete_grace: Duration::from_secs(10),
            orphan_age: Duration::from_secs(3600),
            audit_after: Duration::from_secs(30),
        }
    }
}
