//! Second opinions on replicas that a node, a reader or a check calls bad.
//!
//! A member that lacks a chunk is synced anew, and until then serves nothing of its group. So a replica counts as bad only if
//! its node says so twice, and only if another serving member has read and hashed the same chunk and found it good: else the
//! member stays, for it may have the only good replica of another chunk.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::Suspect;
use async_trait::async_trait;
use quarry_common::ids::ChunkId;
use quarry_common::wire::data::Endpoint;
use std::time::Duration;

/// Between looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Suspects of one round.
const SUSPECTS_MAX: usize = 64;

pub(super) struct Suspicion {
    tools: Tools,
    confirmed: u64,
    cleared: u64,
    alone: u64,
}

impl Suspicion {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, confirmed: 0, cleared: 0, alone: 0 }
    }

    async fn judge(&mut self, suspect: Suspect) -> Result<(), Stopped> {
        let Suspect { chunk, member, others } = suspect;
        let node = member.node;
        match self.is_good(&member, chunk).await {
            Some(true) => {
                tracing::info!(%chunk, %node, "a replica that was called bad is good");
                self.cleared += 1;
                return Ok(());
            }
            None => {
                return self
                    .tools
                    .owner
                    .ask(move |owner| {
                        owner.suspect(chunk, node);
                        Ok(())
                    })
                    .await;
            }
            Some(false) => {}
        }
        for other in &others {
            if self.is_good(other, chunk).await == Some(true) {
                tracing::warn!(%chunk, %node, good = %other.node, "a replica is bad; the member syncs anew");
                self.confirmed += 1;
                return self
                    .tools
                    .owner
                    .ask(move |owner| {
                        owner.lacks(chunk.pg(), node);
                        Ok(())
                    })
                    .await;
            }
        }
        tracing::error!(%chunk, %node, "a replica is bad, and no other member has a good one; the member stays");
        self.alone += 1;
        Ok(())
    }

    /// `None` when the node could not be asked.
    async fn is_good(&self, node: &Endpoint, chunk: ChunkId) -> Option<bool> {
        match self.tools.datanodes.verify(node, vec![chunk]).await {
            Ok(bad) => Some(bad.is_empty()),
            Err(error) => {
                tracing::debug!(node = %node.node, %chunk, %error, "no opinion on a replica");
                None
            }
        }
    }
}

#[async_trait]
impl Worker for Suspicion {
    fn name(&self) -> &'static str {
        "suspicion"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        for suspect in self.tools.owner.ask(|owner| owner.suspects(SUSPECTS_MAX)).await? {
            self.judge(suspect).await?;
        }
        let line = format!(
            "{} bad replicas confirmed, {} were good, {} without a good one elsewhere",
            self.confirmed, self.cleared, self.alone
        );
        Ok(Round { line, pause: PAUSE })
    }
}
