//! The seam between files and the cluster: what [`file`](crate::file) needs, and nothing of how it is done.

use crate::error::{GetError, MutateError, unexpected};
use async_trait::async_trait;
use bytes::Bytes;
use quarry_common::ids::{ChunkId, Ino, LeaseGeneration};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Mutation, MutationReply, NewChunk, Query, QueryReply, Timestamp};
use quarry_host::clock;

/// Metadata: waits for a cluster that is away.
#[async_trait]
pub(crate) trait Meta: Send + Sync {
    /// The NameNode's time, as far as it is known.
    fn time(&self) -> Timestamp {
        clock::wall()
    }
    /// Asks the NameNode.
    async fn query(&self, query: Query) -> Result<QueryReply, FsError>;
    /// Asks for attributes.
    async fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        match self.query(Query::Attr { ino }).await? {
            QueryReply::Attr(attr) => Ok(attr),
            other => Err(unexpected(&other)),
        }
    }
    /// Changes the namespace, exactly once. A caller that gives up does not stop it.
    async fn mutate(&self, mutation: Mutation) -> Result<MutationReply, MutateError>;
    /// The exclusive lease on the file, if it is valid now: no other client can have read or changed the data, so that changes may
    /// wait here.
    fn exclusive(&self, ino: Ino) -> Option<LeaseGeneration>;
    /// The exclusive lease on the file, valid or lapsed: one that is known to be broken is not held.
    fn held(&self, ino: Ino) -> Option<LeaseGeneration>;
    /// The file's attributes, if nobody else can have changed them.
    fn current(&self, ino: Ino) -> Option<Attr>;
    /// Asks for the right to keep changes; whether it was given tells [`exclusive`](Self::exclusive). Gives the
    /// attributes.
    async fn lease(&self, ino: Ino) -> Result<Attr, FsError>;
}

/// Chunks: waits for a cluster that is away.
#[async_trait]
pub(crate) trait ChunkIo: Send + Sync {
    /// Writes 1 byte to 2 MiB as a new chunk of the file's replication policy. When it returns, all members of the
    /// chunk's group hold it; on disk if `durable`.
    async fn put(&self, ino: Ino, data: Bytes, durable: bool) -> Result<NewChunk, FsError>;
    /// Exactly this range of a chunk, its checksums verified.
    async fn get(&self, id: ChunkId, offset: u32, length: u32) -> Result<Bytes, GetError>;
    /// The chunks are on disk on all their holders; on all members of their groups, if no holder is named.
    async fn sync(&self, chunks: &[NewChunk]) -> Result<(), FsError>;
}
