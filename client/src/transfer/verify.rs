//! Checks of single replicas, which reads never do: they take the first good one.

use super::Transfer;
use quarry_common::checksum::sha256;
use quarry_common::ids::NodeId;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_datanode_client::CallError;

/// Why a replica is not good, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaFault {
    /// The node is none of the cluster.
    #[error("the node is unknown")]
    UnknownNode,
    /// The NameNode does not tell where the node is.
    #[error("the table of nodes cannot be had: {0}")]
    NoTable(#[from] FsError),
    /// The node did not give the chunk.
    #[error(transparent)]
    Unread(#[from] CallError),
    /// The bytes are not those that the NameNode knows.
    #[error("its SHA-256 differs from the NameNode's")]
    OtherHash,
}

impl Transfer {
    /// Reads the whole chunk at one node and compares its SHA-256.
    pub(crate) async fn verify(&self, chunk: &ChunkInfo, node: NodeId) -> Result<(), ReplicaFault> {
        let mut table = self.placement.known();
        if table.node(node).is_none() {
            // Nothing was read yet, or the node is new.
            table = self.placement.another(&self.session, &table).await?;
        }
        let known = table.node(node).ok_or(ReplicaFault::UnknownNode)?;
        let node = self.nodes.of(known);
        let _permit = node.reads.acquire().await.expect("the semaphore is never closed");
        let bytes = self.datanodes.read(&node.endpoint, (chunk.id, 0, chunk.length), &|| {}).await?;
        if bytes.len() == chunk.length as usize && sha256(&bytes) == chunk.sha256 {
            Ok(())
        } else {
            Err(ReplicaFault::OtherHash)
        }
    }
}
