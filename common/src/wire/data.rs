//! Chunks: the conversation with a DataNode, one bidirectional stream per request.
//!
//! The asker sends one frame with a [`DataRequest`] (and for a write the chunk's bytes after it), the node one
//! frame with a [`DataResponse`] (and for a read the bytes after it). Both then finish the stream.

use super::cluster::GroupDigest;
use super::error::ServiceError;
use crate::ids::{ChunkId, Epoch, NodeId, PgId};
use serde::{Deserialize, Serialize};

/// Where a DataNode is. Crosses the network nowhere but in the NameNode's table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its number, which its certificate must prove.
    pub node: NodeId,
    /// `host:port` where it listens.
    pub address: String,
}

/// Everything about a chunk to be written; its `length` bytes follow on the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteChunk {
    /// Its id.
    pub id: ChunkId,
    /// Bytes, 1 to 2 MiB.
    pub length: u32,
    /// SHA-256 of all of them.
    pub sha256: [u8; 32],
    /// CRC32C of each block of 64 KiB, the last one possibly shorter.
    pub block_crcs: Vec<u32>,
    /// Answer only after the chunk is on disk (file and directory synced) on every member of the chain.
    pub durable: bool,
    /// The members after the receiver, in order. Where each is, the receiver knows from the NameNode: otherwise any client
    /// could have it connect to wherever the client likes.
    pub chain: Vec<NodeId>,
}

/// A request to a DataNode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataRequest {
    /// From a client or a forwarding DataNode, of a group that the receiver belongs to. Answer: [`DataReply::Written`]. Writing a chunk that is there
    /// already, with the same hash, succeeds; with another hash it is a `BadRequest`.
    Write(WriteChunk),
    /// From a client or a DataNode. The range is widened to whole blocks. Answer: [`DataReply::Data`].
    Read {
        /// Which chunk.
        id: ChunkId,
        /// First byte wanted.
        offset: u32,
        /// Bytes wanted, at least 1.
        length: u32,
    },
    /// From a client: answer after these chunks are on disk. Answer: [`DataReply::Done`], or `ChunkNotFound`.
    Sync {
        /// At most [`IDS_MAX`].
        ids: Vec<ChunkId>,
    },
    /// From a NameNode or a DataNode: ids of a group in ascending order. Answer: [`DataReply::Ids`].
    List {
        /// Which group.
        pg: PgId,
        /// Continue after this id.
        after: Option<ChunkId>,
        /// At most this many, and at most [`IDS_MAX`].
        limit: u32,
    },
    /// From a NameNode. Answer: [`DataReply::Done`], also for chunks that are not there.
    Delete {
        /// At most [`IDS_MAX`].
        ids: Vec<ChunkId>,
    },
    /// From a NameNode: read each chunk, check its CRCs and its SHA-256. Answer: [`DataReply::Verified`].
    Verify {
        /// At most 64, so that an answer takes at most a few seconds.
        ids: Vec<ChunkId>,
    },
    /// From a NameNode: pull what this node lacks of the group from the source, and answer when it has all that
    /// the source listed. A second request for the same group and epoch joins the first; one for another epoch does not, since
    /// the list of the first may have been made before chunks of which the member was told nothing. Answer:
    /// [`DataReply::Synced`].
    SyncGroup {
        /// Which group.
        pg: PgId,
        /// The epoch of the group, since which the member gets every new chunk.
        epoch: Epoch,
        /// A serving member.
        source: NodeId,
    },
    /// From a NameNode. Answer: [`DataReply::Digest`].
    Digest {
        /// Which group.
        pg: PgId,
    },
}

/// Ids in one request or answer.
pub const IDS_MAX: usize = 8192;

/// The answer to a [`DataRequest`].
pub type DataResponse = Result<DataReply, ServiceError>;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataReply {
    /// Every member of the chain that has the chunk, in order, and those that failed with the reason. The
    /// receiver itself is always in the first list; if it failed, the answer is an error.
    Written {
        /// Acknowledged.
        holders: Vec<NodeId>,
        /// Failed.
        failed: Vec<(NodeId, String)>,
    },
    /// `length` bytes from `offset` follow, both multiples of 64 KiB but for the chunk's end.
    Data {
        /// First byte that follows.
        offset: u32,
        /// Bytes that follow.
        length: u32,
        /// CRC32C of each block that follows.
        block_crcs: Vec<u32>,
    },
    /// Ids with their lengths, and whether the list is complete.
    Ids {
        /// Ascending.
        ids: Vec<(ChunkId, u32)>,
        /// No more after these.
        end: bool,
    },
    /// Done.
    Done,
    /// Chunks that are missing or rotten, with the reason; all others are good.
    Verified {
        /// Bad ones.
        bad: Vec<(ChunkId, String)>,
    },
    /// Finished.
    Synced {
        /// Chunks that were pulled.
        pulled: u64,
        /// Chunks that could not be had from the source, with the reason.
        failed: Vec<(ChunkId, String)>,
    },
    /// The group's contents here.
    Digest(GroupDigest),
}
