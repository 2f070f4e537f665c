//! Nodes, placement groups and their health.

use super::fs::Timestamp;
use crate::ids::{ChunkId, Epoch, Ino, NamespaceId, NodeId, PgId, SessionId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How often a chunk is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Replication {
    /// On this many DataNodes, 1 to [`PG_MEMBERS_MAX`](crate::limits::PG_MEMBERS_MAX).
    Factor(u8),
    /// On every DataNode.
    All,
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factor(n) => write!(f, "{n}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Replication {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "all" {
            return Ok(Self::All);
        }
        match s.parse::<u8>() {
            Ok(n) if n >= 1 && usize::from(n) <= crate::limits::PG_MEMBERS_MAX => Ok(Self::Factor(n)),
            _ => Err(format!(
                "replication must be `all` or a number from 1 to {}, not `{s}`",
                crate::limits::PG_MEMBERS_MAX
            )),
        }
    }
}

/// What a member of a group may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// Has every chunk; reads and writes go to it.
    Serving,
    /// Is catching up: every new chunk goes to it, reads do not.
    Syncing,
    /// Was away and lacks chunks: neither reads nor writes, until it syncs.
    Stale,
}

impl MemberState {
    /// The word for it in output and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Syncing => "syncing",
            Self::Stale => "stale",
        }
    }
}

/// A DataNode in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// How it may be used.
    pub state: MemberState,
}

/// A placement group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub id: PgId,
    /// Grows by one with each change of the members.
    pub epoch: Epoch,
    /// The policy that it serves.
    pub replication: Replication,
    /// In order of preference.
    pub members: Vec<Member>,
}

impl Group {
    /// The members that a new chunk must reach: serving and syncing ones.
    pub fn writers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|m| m.state != MemberState::Stale).map(|m| m.node)
    }

    /// The members that have every chunk.
    pub fn serving(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|m| m.state == MemberState::Serving).map(|m| m.node)
    }
}

/// How a node is, by its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Heartbeats arrive.
    Healthy,
    /// None for 3 s.
    Suspect,
    /// None for 15 s.
    Dead,
    /// Lives, but takes no new chunks: its disks are full.
    Full,
    /// Lives, but none of its disks works.
    Failing,
}

impl NodeState {
    /// The word for it in output and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Full => "full",
            Self::Failing => "failing",
        }
    }
}

/// What an administrator has decided about a DataNode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeMode {
    /// It keeps data.
    #[default]
    Active,
    /// Its data moves to other nodes, and it gets no more groups. It serves what it has until others do.
    Draining,
    /// It may be away until then: nobody takes its place, unless data would be left on a single node.
    Maintenance {
        /// The end.
        until: Timestamp,
    },
}

/// What an administrator wants. Answer: [`Reply::Done`](super::session::Reply::Done) or
/// [`Reply::Refused`](super::session::Reply::Refused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Administer {
    /// Moves a node's data to the others; refused if they cannot hold it.
    Drain(NodeId),
    /// Ends draining or maintenance.
    Activate(NodeId),
    /// See [`NodeMode::Maintenance`].
    Maintenance {
        /// Which node.
        node: NodeId,
        /// From now on.
        seconds: u64,
    },
    /// Forgets a node, which must be in no group.
    Remove(NodeId),
    /// Sets the members below which a group takes no chunks; `None`: what the policy says.
    MinReplicas(Option<u8>),
}

/// A registered DataNode, as clients need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// `host:port` where it listens.
    pub address: String,
    /// How it is.
    pub state: NodeState,
}

/// The table that clients cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Grows with every change of nodes, states or groups.
    pub version: u64,
    /// By id.
    pub nodes: Vec<Node>,
    /// By id.
    pub groups: Vec<Group>,
}

/// A DataNode introduces itself, on a new connection and whenever its address changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterNode {
    /// Must be the id of its certificate.
    pub node: NodeId,
    /// `host:port` where clients reach it.
    pub address: String,
    /// Failure domain; empty if unknown.
    pub rack: String,
    /// Made when its data directories were: tells a node that lost its disks from one that restarted.
    pub store_id: u128,
}

/// Which file system, and how far it is. DataNodes keep the last one that the NameNode told them, so that they know an old copy
/// of the NameNode's folder, and another file system, when they meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStamp {
    /// The file system.
    pub namespace: NamespaceId,
    /// Milliseconds of Unix time at which it was formatted or last restored from a backup: grows with each restoration.
    pub generation: u64,
    /// The last entry of the NameNode's log that was applied; counted anew in each generation.
    pub position: u64,
}

impl NamespaceStamp {
    /// Whether a NameNode at `other` lacks something that a NameNode at `self` had: the same file system, at an earlier
    /// time.
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && (self.generation, self.position) > (other.generation, other.position)
    }
}

/// What a DataNode holds, for a NameNode that may be another than the one that it served before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// The last stamp that it was told; `None` before its first registration.
    pub stamp: Option<NamespaceStamp>,
    /// Of each group of which it has chunks, the smallest sequence number above all of them.
    pub next: Vec<(PgId, u64)>,
}

/// Requests of a DataNode to the NameNode, on one long stream of the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Answer: [`NodeReply::Registered`], or a refusal by a NameNode of another file system.
    Register {
        /// Who registers.
        node: RegisterNode,
        /// What it holds.
        holdings: Holdings,
    },
    /// How far the file system is. Answer: [`NodeReply::Namespace`].
    Namespace,
    /// Replicas found rotten or missing. Answer: [`NodeReply::Done`].
    ReportBad(Vec<ChunkId>),
    /// How the node's disks are, at most [`DISKS_MAX`]; every few seconds. Answer: [`NodeReply::Done`].
    ReportDisks(Vec<DiskStatus>),
    /// Answer: [`NodeReply::Placement`].
    Placement,
    /// SHA-256 and length of chunks, for a scrubber or a resync. Answer: [`NodeReply::Chunks`].
    Chunks(Vec<ChunkId>),
}

/// The answer to a [`NodeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NodeReply {
    Done,
    Registered { cluster: String, heartbeat_interval_ms: u64, stamp: NamespaceStamp },
    Namespace(NamespaceStamp),
    Placement(Placement),
    Chunks(Vec<super::fs::ChunkInfo>),
}

/// A heartbeat: one datagram, so it holds at most [`HEARTBEAT_GROUPS_MAX`] groups and takes turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts the heartbeats since the process started.
    pub sequence: u64,
    /// Bytes of all data directories.
    pub capacity: u64,
    /// Of these, free for chunks.
    pub free: u64,
    /// Chunks on this node.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Data directories that failed or are full; empty when all is well.
    pub trouble: String,
    /// Takes new chunks.
    pub writable: bool,
    /// Milliseconds for which no disk of the node has worked; `None` while one does.
    pub disks_out_ms: Option<u64>,
    /// Chunks that the scrubber has verified since the start, and those it found rotten.
    pub scrubbed: (u64, u64),
    /// Contents of some groups.
    pub groups: Vec<GroupDigest>,
}

/// Disks of one node in a report.
pub const DISKS_MAX: usize = 256;

/// How a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DiskState {
    /// Answers and takes chunks.
    Working,
    /// Takes much longer than the other disks of its node: takes chunks after all others.
    Slow,
    /// Has no room.
    Full,
    /// Has not answered for some seconds: takes no chunks.
    Stalled,
    /// Failed: its chunks are restored from other nodes.
    Failed,
}

/// A data directory of a node, and the disk that it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The directory, as the node's configuration names it.
    pub path: String,
    /// How it is.
    pub state: DiskState,
    /// Why it does not take chunks; empty if it does.
    pub trouble: String,
    /// Age of the oldest operation without an answer, in milliseconds.
    pub oldest_ms: u64,
    /// Mean time of an operation, in microseconds.
    pub latency_us: u64,
    /// Operations that failed since the node started.
    pub errors: u64,
    /// Bytes of chunks that were read from it since the node started; scrubbing does not count.
    pub read_bytes: u64,
    /// Bytes of chunks that were written to it since the node started.
    pub written_bytes: u64,
    /// Milliseconds of Unix time at which the scrubber last came to the end of all chunks; `None` if it has not since the node
    /// started.
    pub scrubbed_at_ms: Option<u64>,
}

/// Groups in one heartbeat: 24 of at most 25 bytes stay well under a datagram's 1,200.
pub const HEARTBEAT_GROUPS_MAX: usize = 24;

/// Sums over the chunk ids that a node holds of a group: equal sums mean equal sets, but for one in 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDigest {
    /// Which group.
    pub pg: PgId,
    /// Chunks.
    pub count: u64,
    /// Wrapping sum of a mix of each id; see [`GroupDigest::mix`].
    pub sum: u64,
}

impl GroupDigest {
    /// Spreads an id over 64 bits (the finaliser of SplitMix64), so that sums of different sets differ.
    pub fn mix(id: ChunkId) -> u64 {
        let mut z = id.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Adds a chunk.
    pub fn add(&mut self, id: ChunkId) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(Self::mix(id));
    }

    /// Takes a chunk away.
    pub fn remove(&mut self, id: ChunkId) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(Self::mix(id));
    }
}

/// What `quarry status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Cluster name.
    pub cluster: String,
    /// Where this NameNode listens.
    pub namenode: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Last log index applied.
    pub applied: u64,
    /// By id.
    pub nodes: Vec<NodeStatus>,
    /// Groups whose members are all serving and as many as the policy wants.
    pub groups_healthy: u64,
    /// Groups with fewer serving members than the policy wants and none catching up.
    pub groups_degraded: u64,
    /// Groups with a member catching up.
    pub groups_healing: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of all files, as `size` has it.
    pub bytes: u64,
    /// Chunks that files refer to.
    pub chunks: u64,
    /// Chunks waiting for their deletion.
    pub chunks_deleting: u64,
    /// Open sessions.
    pub sessions: Vec<SessionStatus>,
    /// Members below which groups take no chunks, where an administrator has set it.
    pub min_replicas: Option<u8>,
    /// What an administrator should know, most urgent first: why writes wait, what is short, what moves.
    pub notices: Vec<String>,
    /// Background work, one line each: name and what it does now.
    pub workers: Vec<(String, String)>,
    /// Bytes of memory that the NameNode takes.
    pub memory_bytes: u64,
    /// Commands in the log that are not yet in the database: what a restart has to apply.
    pub unsaved: u64,
    /// The requests of the last minute that took longest, the longest first; at most [`SLOWEST_MAX`].
    pub slowest: Vec<SlowRequest>,
}

/// Slow requests in a status.
pub const SLOWEST_MAX: usize = 8;

/// A request that took long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// What was asked: `commit`, `lookup`.
    pub request: String,
    /// Id of the certificate of whoever asked.
    pub client: String,
    /// The number of the operation for which it was asked, as logs show it; 0 if there is none.
    pub operation: u64,
    /// From its arrival to its answer.
    pub took_us: u64,
    /// Since its answer.
    pub age_ms: u64,
}

/// A DataNode in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Id, address, state.
    pub node: Node,
    /// Failure domain.
    pub rack: String,
    /// Milliseconds since the last heartbeat; `None` if there was none since this NameNode started.
    pub heartbeat_age_ms: Option<u64>,
    /// The last heartbeat's figures.
    pub chunks: u64,
    /// Bytes of chunks.
    pub bytes: u64,
    /// Bytes of all data directories.
    pub capacity: u64,
    /// Of these, free.
    pub free: u64,
    /// Trouble with its data directories, if any.
    pub trouble: String,
    /// Its disks, as it last reported them.
    pub disks: Vec<DiskStatus>,
    /// Chunks verified by the scrubber since the node started, and those found rotten.
    pub scrubbed: (u64, u64),
    /// What an administrator has decided.
    pub mode: NodeMode,
    /// Groups of which it is a member.
    pub groups: u64,
}

/// A session in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its number.
    pub session: SessionId,
    /// Who it is: `host pid purpose`.
    pub client: String,
    /// Id of its certificate and the rights of that: `web1`, `web1?ro`.
    pub certificate: String,
    /// Milliseconds since its last request.
    pub idle_ms: u64,
    /// Inodes that it has open.
    pub open: u64,
    /// Locks that it holds.
    pub locks: u64,
    /// Leases that it holds.
    pub leases: u64,
    /// Its requests since it was opened, or since this NameNode started; without those that only keep the session and its leases:
    /// `Renew`, `RecallDone`, `ReturnLeases` and `BringingIn`.
    pub requests: u64,
}

/// What to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckOptions {
    /// Read and hash every replica as well.
    pub deep: bool,
}

/// How far a check is, and when it is done what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckProgress {
    /// Numbers the runs since the NameNode started.
    pub run: u64,
    /// Finished.
    pub done: bool,
    /// What it is doing.
    pub phase: String,
    /// Inodes checked.
    pub inodes: u64,
    /// Names checked.
    pub dentries: u64,
    /// Chunks checked.
    pub chunks: u64,
    /// Replicas checked on DataNodes.
    pub replicas: u64,
    /// Chunks on DataNodes that no file refers to; they are collected by themselves.
    pub unreferenced: u64,
    /// Nodes that could not be asked; the check of their replicas is missing.
    pub unreachable: Vec<NodeId>,
    /// Members of groups that are catching up or stale: their replicas were not checked.
    pub behind: u64,
    /// At most [`FSCK_PROBLEMS_MAX`]; more are only counted.
    pub problems: Vec<FsckProblem>,
    /// All of them.
    pub problem_count: u64,
}

/// Problems that one report lists.
pub const FSCK_PROBLEMS_MAX: usize = 1000;

/// Something that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckProblem {
    /// The inode concerned, if one is.
    pub ino: Option<Ino>,
    /// The chunk concerned, if one is.
    pub chunk: Option<ChunkId>,
    /// The node concerned, if one is.
    pub node: Option<NodeId>,
    /// What is wrong.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_forgets_what_was_taken_away() {
        let mut a = GroupDigest::default();
        a.add(ChunkId(1));
        let one = a;
        a.add(ChunkId(2));
        a.remove(ChunkId(2));
        assert_eq!(a, one);
    }

    #[test]
    fn replication_reads_what_it_writes() {
        for r in [Replication::All, Replication::Factor(1), Replication::Factor(64)] {
            assert_eq!(r.to_string().parse(), Ok(r));
        }
        for bad in ["0", "65", "", "ALL", "-1"] {
            assert!(bad.parse::<Replication>().is_err(), "{bad}");
        }
    }
}
