//! Writing a chunk until all members of its group hold it.

use super::grants::is_good;
use super::placement::Table;
use super::{PAUSE_FIRST, PAUSE_MAX, Transfer};
use crate::backoff::Backoff;
use bytes::Bytes;
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::{ChunkId, Ino, NodeId};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::data::WriteChunk;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{ChunkInfo, NewChunk};
use quarry_datanode_client::{Away, CallError, Written};
use quarry_host::task;
use std::sync::Arc;

/// Smaller data is hashed at once: handing it to another thread would take longer.
const HASH_INLINE: usize = 16 << 10;

/// A chunk on its way.
struct Upload {
    id: ChunkId,
    data: Bytes,
    sums: Sums,
    durable: bool,
    /// Who has it.
    holders: Vec<NodeId>,
    /// The node said that this id cannot be written any more.
    refused: bool,
}

#[derive(Clone)]
struct Sums {
    sha256: [u8; 32],
    block_crcs: Vec<u32>,
}

impl Upload {
    /// Members of its group that must have it and have not; `None` if there is no such group.
    fn missing(&self, table: &Table) -> Option<Vec<NodeId>> {
        let group = table.group(self.id.pg())?;
        Some(group.writers().filter(|node| !self.holders.contains(node)).collect())
    }

    /// Begins anew, as another chunk.
    fn restart(&mut self, id: ChunkId) {
        self.id = id;
        self.holders.clear();
        self.refused = false;
    }

    fn chunk(&self) -> NewChunk {
        let info = ChunkInfo { id: self.id, length: self.data.len() as u32, sha256: self.sums.sha256 };
        NewChunk { info, holders: self.holders.clone() }
    }
}

impl Transfer {
    /// Writes a chunk, however long that takes.
    ///
    /// After each round, the members that lack the chunk decide: if another group has none of them, the data goes there
    /// as a new chunk. Otherwise this one waits for them to come back, or for the NameNode to take them out of the
    /// group, after which nobody is missing.
    pub(super) async fn put_hard(&self, ino: Ino, data: Bytes, durable: bool) -> Result<NewChunk, FsError> {
        if data.is_empty() || data.len() as u64 > CHUNK_SIZE {
            return Err(FsError::Invalid);
        }
        let (sums, id) = tokio::join!(hash(data.clone()), self.next_id(ino, &[]));
        let (sums, id) = (sums?, id?);
        let mut upload = Upload { id, data, sums, durable, holders: Vec::new(), refused: false };
        let mut pause = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let table = self.placement.current(&self.session).await?;
            self.round(&mut upload, &table).await;
            // The group may have changed meanwhile, which is what a failed member waits for.
            let table = self.placement.current(&self.session).await?;
            match upload.missing(&table) {
                Some(missing) if missing.is_empty() && !upload.holders.is_empty() => {
                    return Ok(upload.chunk());
                }
                _ => self.after_failure(ino, &mut upload, &table, &mut pause).await?,
            }
        }
    }

    /// Some member lacks the chunk: finds another group, or waits.
    async fn after_failure(
        &self,
        ino: Ino,
        upload: &mut Upload,
        table: &Arc<Table>,
        pause: &mut Backoff,
    ) -> Result<(), FsError> {
        let missing = upload.missing(table);
        let lost = missing.is_none() || upload.refused;
        let avoid = missing.unwrap_or_default();
        let id = self.next_id(ino, &avoid).await?;
        // The grant may be of a group that is newer than our table.
        let table = match table.group(id.pg()) {
            Some(_) => table.clone(),
            None => self.placement.another(&self.session, table).await?,
        };
        if lost || is_good(&table, &self.nodes, &avoid, id.pg()) {
            tracing::debug!(old = %upload.id, new = %id, missing = ?avoid, "writing to another group");
            upload.restart(id);
            if !lost {
                return Ok(());
            }
        }
        let mut tables = self.placement.watch();
        tokio::select! {
            () = pause.wait() => {}
            _ = tables.wait_for(|now| !Arc::ptr_eq(now, &table)) => return Ok(()),
        }
        self.placement.another(&self.session, &table).await?;
        Ok(())
    }

    async fn next_id(&self, ino: Ino, missing: &[NodeId]) -> Result<ChunkId, FsError> {
        let table = self.placement.current(&self.session).await?;
        let mut avoid = self.nodes.in_trouble();
        avoid.extend(missing.iter().filter(|node| !avoid.contains(node)).copied().collect::<Vec<_>>());
        self.grants.take(ino, avoid, (&self.session, &table, &self.nodes)).await
    }

    /// Gives each member that lacks the chunk one chance.
    async fn round(&self, upload: &mut Upload, table: &Table) {
        let Some(mut todo) = upload.missing(table) else { return };
        // Different chunks begin at different members, so that all carry the same load.
        let first = (upload.id.sequence() % todo.len().max(1) as u64) as usize;
        todo.rotate_left(first);
        // The NameNode is about to take the others out of the group, or to find them alive again.
        todo.retain(|node| table.is_alive(*node));
        let mut cut_off = Vec::new();
        while !todo.is_empty() && !upload.refused {
            // A member that failed lately comes after all others have the chunk, so that it delays only itself.
            let doubtful =
                |node: &NodeId| self.nodes.is_in_trouble(*node) || self.nodes.is_unreachable(*node);
            let (bad, good): (Vec<_>, Vec<_>) = todo.iter().partition(|n| doubtful(n));
            if good.is_empty() {
                cut_off.extend(bad.iter().filter(|n| self.nodes.is_unreachable(**n)));
                self.relay(upload, table, &bad).await;
                todo.retain(|node| !upload.holders.contains(node));
            }
            let members: Vec<NodeId> = if good.is_empty() { todo.clone() } else { good };
            if members.is_empty() {
                break;
            }
            let failed = self.chain(upload, table, &members).await;
            todo.retain(|node| !upload.holders.contains(node) && !failed.contains(node));
            cut_off.extend(failed.into_iter().filter(|n| self.nodes.is_unreachable(*n)));
        }
        // The link to a member may be broken only from here.
        cut_off.retain(|node| !upload.holders.contains(node));
        self.relay(upload, table, &cut_off).await;
    }

    /// Sends a chunk to members that cannot be reached directly, through one that has it: that one finds the chunk on its disk and
    /// passes it on.
    async fn relay(&self, upload: &mut Upload, table: &Table, members: &[NodeId]) {
        let members = members.iter().filter(|n| self.nodes.is_unreachable(**n));
        let reached = |n: &&NodeId| table.is_alive(**n) && !self.nodes.is_unreachable(**n);
        let Some(via) = upload.holders.iter().find(reached).copied() else { return };
        let chain: Vec<NodeId> = std::iter::once(via).chain(members.copied()).collect();
        if chain.len() > 1 && !upload.refused {
            self.chain(upload, table, &chain).await;
        }
    }

    /// Sends the chunk along a chain of members. Returns those that failed, at least one unless all have it.
    async fn chain(&self, upload: &mut Upload, table: &Table, members: &[NodeId]) -> Vec<NodeId> {
        let Some(first) = table.node(members[0]).map(|node| self.nodes.of(node)) else {
            return members.to_vec();
        };
        let before = upload.holders.clone();
        let header = WriteChunk {
            id: upload.id,
            length: upload.data.len() as u32,
            sha256: upload.sums.sha256,
            block_crcs: upload.sums.block_crcs.clone(),
            durable: upload.durable,
            chain: members[1..].to_vec(),
        };
        let send = async {
            let _permit = first.writes.acquire().await.expect("the semaphore is never closed");
            self.write(&first, header, upload.data.clone()).await
        };
        let result = tokio::select! {
            result = send => result,
            node = self.falls_silent(table, members) => {
                // It may be any member of the chain that is stopped, and this one the NameNode has missed.
                self.node_failed(table, node, "it fell silent during a write");
                return vec![node];
            }
        };
        match result {
            Ok(Written { holders, failed }) => {
                let holders: Vec<NodeId> = holders.into_iter().filter(|n| members.contains(n)).collect();
                first.set_reachable(true);
                for node in holders.iter().filter_map(|id| table.node(*id)) {
                    self.nodes.of(node).succeeded();
                }
                let mut without = Vec::new();
                for (node, reason) in failed {
                    if members.contains(&node) && !holders.contains(&node) {
                        self.node_failed(table, node, &reason);
                        without.push(node);
                    }
                }
                if holders.is_empty() && without.is_empty() {
                    without.push(members[0]);
                }
                upload.holders.extend(holders.into_iter().filter(|n| !before.contains(n)));
                without
            }
            Err(failure) => {
                upload.refused |= matches!(failure, CallError::Refused(_));
                first.failed_now(&failure.to_string());
                if matches!(failure, CallError::Away(Away::Transport(_) | Away::Late(_))) {
                    first.set_reachable(false);
                }
                vec![members[0]]
            }
        }
    }

    fn node_failed(&self, table: &Table, id: NodeId, reason: &str) {
        if let Some(node) = table.node(id) {
            self.nodes.of(node).failed_now(reason);
        }
    }

    /// Returns when the NameNode finds that one of these, which were alive, is not any more.
    async fn falls_silent(&self, table: &Table, members: &[NodeId]) -> NodeId {
        let mut tables = self.placement.watch();
        loop {
            let gone = {
                let now = tables.borrow_and_update();
                members.iter().copied().find(|id| table.is_alive(*id) && !now.is_alive(*id))
            };
            if let Some(gone) = gone {
                return gone;
            }
            if tables.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Checksums of a chunk, made off the threads that serve the network.
async fn hash(data: Bytes) -> Result<Sums, FsError> {
    let quick = data.len() <= HASH_INLINE;
    let sums = move || Sums { sha256: sha256(&data), block_crcs: block_crcs(&data) };
    if quick {
        return Ok(sums());
    }
    task::spawn_blocking(sums).await.map_err(|error| {
        // Only when the runtime shuts down.
        tracing::debug!(%error, "a chunk is not hashed");
        FsError::Io
    })
}
