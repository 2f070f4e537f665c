//! Chunks to and from DataNodes.
//!
//! ```text
//!   put   hash ─ grant of an id ─ chain of writers ─ whoever is missing ─ another group
//!   get   members in order ─ one attempt, a second when it is slow, the next when it fails
//!   sync  each holder, and the repair of one that lost a chunk
//! ```
//!
//! [`placement`] is the table of nodes and groups, [`nodes`] the connections and what experience tells about each.

mod get;
mod grants;
mod nodes;
mod placement;
mod put;
mod sync;
mod verify;

#[cfg(test)]
mod tests;

use crate::error::GetError;
use crate::session::Session;
use crate::traits::ChunkIo;
use async_trait::async_trait;
use bytes::Bytes;
use grants::Grants;
use nodes::{DataNode, Nodes};
pub(crate) use placement::{PlacementCache, ask as ask_placement, follow};
use quarry_common::ids::{ChunkId, Ino};
use quarry_common::wire::data::WriteChunk;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::NewChunk;
use quarry_datanode_client::{Away, CallError, DataNodeClient, Written, timing};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
pub use verify::ReplicaFault;

/// Pauses before something that failed everywhere is tried again.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Reads that may ask a second member at the same time.
const HEDGES: usize = 8;

/// All transfers of a mount.
pub(crate) struct Transfer {
    session: Arc<Session>,
    placement: Arc<PlacementCache>,
    datanodes: DataNodeClient,
    nodes: Nodes,
    grants: Grants,
    /// Second attempts that may be under way: when everything is slow they must not make it slower.
    hedges: Semaphore,
}

impl Transfer {
    pub(crate) fn new(session: Arc<Session>, placement: Arc<PlacementCache>) -> Self {
        let datanodes = DataNodeClient::new(session.transport().clone());
        Self {
            session,
            placement,
            datanodes,
            nodes: Nodes::default(),
            grants: Grants::default(),
            hedges: Semaphore::new(HEDGES),
        }
    }

    /// Sends a chunk to a node and along the chain behind it.
    async fn write(&self, node: &DataNode, header: WriteChunk, data: Bytes) -> Result<Written, CallError> {
        let writing = self.datanodes.write(&node.endpoint, header, &data);
        let late = |_| Err(Away::Late(timing::WRITE).into());
        tokio::time::timeout(timing::WRITE, writing).await.unwrap_or_else(late)
    }
}

#[async_trait]
impl ChunkIo for Transfer {
    async fn put(&self, ino: Ino, data: Bytes, durable: bool) -> Result<NewChunk, FsError> {
        // Boxed: the future is large, and lives in every flush.
        self.session.within(Box::pin(self.put_hard(ino, data, durable))).await
    }

    async fn get(&self, id: ChunkId, offset: u32, length: u32) -> Result<Bytes, GetError> {
        let result = self.session.within(async {
            match Box::pin(self.get_hard(id, offset, length)).await {
                Err(GetError::Fs(error)) => Err(error),
                other => Ok(other),
            }
        });
        result.await?
    }

    async fn sync(&self, chunks: &[NewChunk]) -> Result<(), FsError> {
        self.session.within(Box::pin(self.sync_hard(chunks))).await
    }
}
