//! Deletes the data of chunks that no file refers to any more, a while after they were released.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::Deletions;
use async_trait::async_trait;
use futures::StreamExt;
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::wire::data::Endpoint;
use quarry_datanode_client::DataNodeClient;
use quarry_host::clock;
use quarry_namenode_core::Body;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nodes that delete at a time.
const NODES_AT_ONCE: usize = 16;
/// A node that did not delete is not asked again for this long.
const REST: Duration = Duration::from_secs(60);
/// Between rounds when the queue is done.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Deleter {
    tools: Tools,
    deleted: u64,
    left: u64,
    /// Nodes that did not delete, and when that was.
    resting: BTreeMap<NodeId, Instant>,
}

impl Deleter {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, deleted: 0, left: 0, resting: BTreeMap::new() }
    }

    /// Has the nodes delete. What a node does not delete stays there as garbage, which an audit finds by its group's digest:
    /// a sick node holds up no other.
    async fn delete(&mut self, deletions: &Deletions) {
        self.resting.retain(|_, since| clock::since(*since) < REST);
        let mut requests = Vec::with_capacity(deletions.targets.len());
        for (node, (address, ids)) in &deletions.targets {
            if self.resting.contains_key(node) {
                self.left += ids.len() as u64;
                continue;
            }
            let target = Endpoint { node: *node, address: address.clone() };
            requests.push(delete_from(self.tools.datanodes.clone(), target, ids.clone()));
        }
        let mut answers = futures::stream::iter(requests).buffer_unordered(NODES_AT_ONCE);
        while let Some(answer) = answers.next().await {
            if let Err((node, count)) = answer {
                self.left += count as u64;
                self.resting.insert(node, clock::now());
            }
        }
    }
}

/// On failure gives the node, and the number of chunks that it may still have.
async fn delete_from(
    datanodes: Arc<DataNodeClient>,
    target: Endpoint,
    ids: Vec<ChunkId>,
) -> Result<(), (NodeId, usize)> {
    datanodes.delete(&target, &ids).await.map_err(|error| {
        tracing::warn!(node = %target.node, %error, chunks = ids.len(), "cannot delete chunks; an audit will");
        (target.node, ids.len())
    })
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
            self.delete(&deletions).await;
            let entries = deletions.entries;
            let count = entries.len() as u64;
            let mut done = true;
            match self.tools.owner.propose(Body::ChunksDeleted { entries }).await? {
                Ok(_) => self.deleted += count,
                Err(refused) => {
                    tracing::warn!(%refused, "the delete queue must wait");
                    done = false;
                }
            }
            if deletions.more && done {
                pause = Duration::ZERO;
            }
        }
        Ok(Round {
            line: format!("{} chunks deleted, {} replicas left to the auditor", self.deleted, self.left),
            pause,
        })
    }
}
