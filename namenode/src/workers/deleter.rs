//! Deletes the data of chunks that no file refers to any more, a while after they were released.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::Deletions;
use async_trait::async_trait;
use futures::StreamExt;
use quarry_common::ids::ChunkId;
use quarry_common::wire::data::Endpoint;
use quarry_datanode_client::DataNodeClient;
use quarry_namenode_core::Body;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Nodes that delete at a time.
const NODES_AT_ONCE: usize = 16;
/// Between rounds when the queue is done.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Deleter {
    tools: Tools,
    deleted: u64,
}

impl Deleter {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, deleted: 0 }
    }

    /// Has the nodes delete; gives the chunks that some node may still have.
    async fn delete(&self, deletions: &Deletions) -> BTreeSet<ChunkId> {
        let mut requests = Vec::with_capacity(deletions.targets.len());
        for (node, (address, ids)) in &deletions.targets {
            let target = Endpoint { node: *node, address: address.clone() };
            requests.push(delete_from(self.tools.datanodes.clone(), target, ids.clone()));
        }
        let answers = futures::stream::iter(requests).buffer_unordered(NODES_AT_ONCE);
        answers.collect::<Vec<_>>().await.into_iter().flatten().collect()
    }
}

/// Gives the chunks that the node may still have.
async fn delete_from(datanodes: Arc<DataNodeClient>, target: Endpoint, ids: Vec<ChunkId>) -> Vec<ChunkId> {
    match datanodes.delete(&target, &ids).await {
        Ok(()) => Vec::new(),
        Err(error) => {
            tracing::warn!(node = %target.node, %error, chunks = ids.len(), "cannot delete chunks");
            ids
        }
    }
}

#[async_trait]
impl Worker for Deleter {
    fn name(&self) -> &'static str {
        "deleter"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        let deletions = self.tools.owner.ask(|owner| owner.deletions()).await?;
        let mut pause = PAUSE;
        if !deletions.entries.is_empty() {
            let left = self.delete(&deletions).await;
            let entries: Vec<_> =
                deletions.entries.into_iter().filter(|(_, id)| !left.contains(id)).collect();
            let count = entries.len() as u64;
            if count > 0 {
                match self.tools.owner.propose(Body::ChunksDeleted { entries }).await? {
                    Ok(_) => self.deleted += count,
                    Err(refused) => tracing::warn!(%refused, "the delete queue must wait"),
                }
            }
            if deletions.more && left.is_empty() {
                pause = Duration::ZERO;
            }
        }
        Ok(Round { line: format!("{} chunks deleted", self.deleted), pause })
    }
}
