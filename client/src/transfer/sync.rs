//! Making sure that chunks are on the disks of all their holders.

use super::nodes::DataNode;
use super::placement::Table;
use super::{PAUSE_FIRST, PAUSE_MAX, Transfer};
use crate::backoff::Backoff;
use crate::error::GetError;
use futures::future::join_all;
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::wire::data::{IDS_MAX, WriteChunk};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::NewChunk;
use quarry_datanode_client::CallError;
use std::collections::BTreeMap;

/// How it went at one holder.
enum Outcome {
    /// All of its chunks are on disk.
    Done,
    /// To be asked again: the holder is away.
    Again(NodeId, Vec<ChunkId>),
    /// The holder lacks a chunk, and nobody else has it to give.
    Lost(FsError),
}

impl Transfer {
    /// Waits until the chunks are on the disks of all holders that are still members of their groups: a holder that the
    /// NameNode took out has to catch up before it counts again, and then syncs what it pulls.
    pub(super) async fn sync_hard(&self, chunks: &[NewChunk]) -> Result<(), FsError> {
        let by_id: BTreeMap<ChunkId, &NewChunk> = chunks.iter().map(|chunk| (chunk.info.id, chunk)).collect();
        let mut todo: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
        let members = self.placement.current(&self.session).await?;
        for chunk in by_id.values() {
            let group = members.group(chunk.info.id.pg()).filter(|_| chunk.holders.is_empty());
            let all = group.into_iter().flat_map(|group| group.writers());
            for holder in chunk.holders.iter().copied().chain(all) {
                todo.entry(holder).or_default().push(chunk.info.id);
            }
        }
        let mut pause = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let table = self.placement.current(&self.session).await?;
            for (holder, ids) in &mut todo {
                ids.retain(|id| table.group(id.pg()).is_some_and(|g| g.writers().any(|n| n == *holder)));
            }
            todo.retain(|_, ids| !ids.is_empty());
            let asked = todo.iter().flat_map(|(holder, ids)| {
                ids.chunks(IDS_MAX).map(|ids| self.sync_at(&table, *holder, ids.to_vec(), &by_id))
            });
            let outcomes = join_all(asked.collect::<Vec<_>>()).await;
            todo = BTreeMap::new();
            let mut lost = None;
            for outcome in outcomes {
                match outcome {
                    Outcome::Done => {}
                    Outcome::Again(holder, ids) => todo.entry(holder).or_default().extend(ids),
                    Outcome::Lost(error) => lost = Some(error),
                }
            }
            if let Some(error) = lost {
                return Err(error);
            }
            if todo.is_empty() {
                return Ok(());
            }
            pause.wait().await;
            self.placement.another(&self.session, &table).await?;
        }
    }

    async fn sync_at(
        &self,
        table: &Table,
        holder: NodeId,
        ids: Vec<ChunkId>,
        chunks: &BTreeMap<ChunkId, &NewChunk>,
    ) -> Outcome {
        let Some(node) = table.node(holder).map(|node| self.nodes.of(node)) else {
            return Outcome::Again(holder, ids);
        };
        match self.datanodes.sync(&node.endpoint, ids.clone()).await {
            Ok(()) => Outcome::Done,
            Err(CallError::Missing | CallError::Corrupt(_)) => self.repair(&node, ids, chunks).await,
            Err(error @ (CallError::Away(_) | CallError::NoSpace)) => {
                node.failed_now(&error.to_string());
                Outcome::Again(holder, ids)
            }
            Err(CallError::Refused(reason)) => {
                tracing::error!(node = %holder, reason, "a node refuses to sync");
                Outcome::Lost(FsError::Io)
            }
        }
    }

    /// A holder lost a chunk, as a machine may that lost its power before the chunk was on disk: gives it again what it
    /// lacks, from the others.
    async fn repair(
        &self,
        node: &DataNode,
        ids: Vec<ChunkId>,
        chunks: &BTreeMap<ChunkId, &NewChunk>,
    ) -> Outcome {
        for (done, id) in ids.iter().enumerate() {
            match self.datanodes.sync(&node.endpoint, vec![*id]).await {
                Ok(()) => continue,
                Err(CallError::Missing | CallError::Corrupt(_)) => {}
                Err(_) => return Outcome::Again(node.id(), ids[done..].to_vec()),
            }
            let Some(info) = chunks.get(id).map(|chunk| chunk.info) else { continue };
            let data = match self.get_hard(*id, 0, info.length).await {
                Ok(data) if sha256(&data) == info.sha256 => data,
                Ok(_) | Err(GetError::Gone) => return Outcome::Lost(FsError::Io),
                Err(GetError::Fs(error)) => return Outcome::Lost(error),
            };
            tracing::warn!(chunk = %id, node = %node.id(), "giving a node again what it lost");
            let header = WriteChunk {
                id: *id,
                length: info.length,
                sha256: info.sha256,
                block_crcs: block_crcs(&data),
                durable: true,
                chain: Vec::new(),
            };
            match self.write(node, header, data).await {
                Ok(_) => {}
                Err(CallError::Refused(reason)) => {
                    tracing::error!(chunk = %id, node = %node.id(), reason, "a node refuses what it lost");
                    return Outcome::Lost(FsError::Io);
                }
                Err(_) => return Outcome::Again(node.id(), ids[done..].to_vec()),
            }
        }
        Outcome::Done
    }
}
