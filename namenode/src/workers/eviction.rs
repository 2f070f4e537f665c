//! Rids nodes of the chunks of groups that they have left.
//!
//! A chunk that files refer to goes only when every healthy serving member of its group has it. One that a member lacks is
//! pulled from the node that has left, as happens when a backup of the metadata knows older members than there are.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::Eviction;
use async_trait::async_trait;
use quarry_common::ids::{ChunkId, Epoch, PgId};
use quarry_common::wire::data::Endpoint;
use quarry_datanode_client::CallError;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Why chunks were not deleted.
#[derive(Debug, thiserror::Error)]
enum EvictError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Node(#[from] CallError),
}

pub(super) struct Evictor {
    tools: Tools,
    deleted: u64,
    rescued: u64,
}

impl Evictor {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, deleted: 0, rescued: 0 }
    }

    async fn clear(&mut self, eviction: &Eviction) -> Result<(), EvictError> {
        let Eviction { pg, target, members } = eviction;
        let mut after = None;
        loop {
            let page = self.tools.datanodes.list(target, *pg, after).await?;
            let ids: Vec<ChunkId> = page.ids.iter().map(|(id, _)| *id).collect();
            let Some(&last) = ids.last() else { return Ok(()) };
            let only_here = self.only_here(&ids, after, members).await?;
            let gone: Vec<ChunkId> = ids.into_iter().filter(|id| !only_here.contains(id)).collect();
            self.tools.datanodes.delete(target, &gone).await?;
            self.deleted += gone.len() as u64;
            if !only_here.is_empty() {
                self.rescue(*pg, target, members, only_here.len()).await?;
            }
            if page.end {
                return Ok(());
            }
            after = Some(last);
        }
    }

    /// Of some consecutive chunks of a group, those that files refer to and that some member lacks.
    async fn only_here(
        &self,
        ids: &[ChunkId],
        after: Option<ChunkId>,
        members: &[Endpoint],
    ) -> Result<BTreeSet<ChunkId>, EvictError> {
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Ok(BTreeSet::new()) };
        let asked = ids.to_vec();
        let needed = self.tools.owner.ask(move |owner| owner.still_referenced(&asked)).await?;
        let mut lacked = BTreeSet::new();
        for member in members {
            let mut missing: BTreeSet<ChunkId> = needed.iter().copied().collect();
            let mut from = after;
            loop {
                let page = self.tools.datanodes.list(member, first.pg(), from).await?;
                for (id, _) in &page.ids {
                    missing.remove(id);
                }
                from = page.ids.last().map(|(id, _)| *id);
                if page.end || from.is_none_or(|id| id >= last) {
                    break;
                }
            }
            lacked.extend(missing);
        }
        Ok(lacked)
    }

    /// Has the members pull what they lack. The next round finds it there, and deletes it here.
    async fn rescue(
        &mut self,
        pg: PgId,
        target: &Endpoint,
        members: &[Endpoint],
        chunks: usize,
    ) -> Result<(), EvictError> {
        tracing::warn!(%pg, node = %target.node, chunks, "a node that left a group has chunks that a member lacks");
        for member in members {
            // No epoch: this sync promotes no member.
            let pulled = self.tools.datanodes.sync_group(member, (pg, Epoch(0)), target.node).await?;
            tracing::info!(%pg, node = %member.node, pulled = pulled.pulled, "pulled from a node that left");
            self.rescued += pulled.pulled;
        }
        Ok(())
    }
}

#[async_trait]
impl Worker for Evictor {
    fn name(&self) -> &'static str {
        "eviction"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        if let Some(eviction) = self.tools.owner.ask(|owner| Ok(owner.evict())).await? {
            let (pg, node) = (eviction.pg, eviction.target.node);
            match self.clear(&eviction).await {
                Ok(()) => tracing::info!(%pg, %node, "deleted the chunks of a group that was left"),
                Err(EvictError::Stopped(stopped)) => return Err(stopped),
                Err(EvictError::Node(error)) => {
                    tracing::warn!(%pg, %node, %error, "cannot delete the chunks of a group that was left");
                }
            }
            self.tools
                .owner
                .ask(move |owner| {
                    owner.evicted(pg, node);
                    Ok(())
                })
                .await?;
        }
        let line =
            format!("{} chunks of left groups deleted, {} pulled from there", self.deleted, self.rescued);
        Ok(Round { line, pause: PAUSE })
    }
}
