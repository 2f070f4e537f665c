//! What an operator chooses.

use quarry_common::ids::NodeId;
use quarry_common::limits::HEARTBEAT_INTERVAL;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of each disk that stay free: a file system that is filled to the brim gets slow, and the log of the machine
/// needs room as well.
const RESERVE_BYTES: u64 = 256 << 20;
/// Bytes that the scrubber reads a second: a terabyte takes a day and a half and the disk hardly notices.
const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;

/// How a DataNode runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNodeConfig {
    /// Its number, that of its certificate.
    pub node: NodeId,
    /// Data directories, best one for each disk.
    pub dirs: Vec<PathBuf>,
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// `host:port` where others reach it, if that is not `listen`.
    pub advertise: Option<String>,
    /// `host:port` of the NameNode.
    pub namenode: String,
    /// Failure domain; empty if unknown.
    pub rack: String,
    /// How often it shows that it lives, unless the NameNode asks for more.
    pub heartbeat_interval: Duration,
    /// How much the scrubber reads; 0 turns it off.
    pub scrub_bytes_per_second: u64,
    /// Bytes of each disk that stay free.
    pub reserve_bytes: u64,
    /// Most bytes that chunk files may take, whatever the disks have.
    pub capacity: Option<u64>,
}

impl DataNodeConfig {
    /// The given choices, and the defaults for all others.
    pub fn new(node: NodeId, dirs: Vec<PathBuf>, listen: SocketAddr, namenode: String) -> Self {
        Self {
            node,
            dirs,
            listen,
            advertise: None,
            namenode,
            rack: String::new(),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            reserve_bytes: RESERVE_BYTES,
            capacity: None,
        }
    }
}
