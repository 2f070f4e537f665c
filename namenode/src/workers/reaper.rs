//! Frees inodes that have lost their last name, once no session has them open, and what large erasures left to be freed.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use async_trait::async_trait;
use quarry_common::ids::Ino;
use quarry_namenode_core::{Body, Outcome};
use std::time::Duration;

/// Between looks.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Reaper {
    tools: Tools,
    reaped: u64,
}

impl Reaper {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, reaped: 0 }
    }

    /// Reaps some orphans to their end. A large one takes several commands.
    async fn reap(&mut self, picked: Vec<Ino>) -> Result<(), Stopped> {
        let (left, all) = self.free(picked.clone()).await?;
        self.reaped += (picked.len() - left.len()) as u64;
        self.tools
            .owner
            .ask(move |owner| {
                owner.reaped(&picked, all);
                Ok(())
            })
            .await
    }

    /// Gives the inodes of which something is left, and whether all that could be done is done.
    async fn free(&self, mut left: Vec<Ino>) -> Result<(Vec<Ino>, bool), Stopped> {
        while !left.is_empty() {
            match self.tools.owner.propose(Body::Reap { inos: left.clone() }).await? {
                Ok(Outcome::Reaped { left: rest }) => left = rest,
                Ok(other) => {
                    tracing::error!(?other, "inodes were not freed");
                    break;
                }
                Err(refused) => {
                    tracing::warn!(%refused, "inodes to be freed must wait");
                    return Ok((left, false));
                }
            }
        }
        Ok((left, true))
    }
}

#[async_trait]
impl Worker for Reaper {
    fn name(&self) -> &'static str {
        "reaper"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        let mut after = Some(Ino(0));
        while let Some(from) = after {
            let (picked, next) = self.tools.owner.ask(move |owner| owner.pick_orphans(from)).await?;
            if !picked.is_empty() {
                self.reap(picked).await?;
            }
            after = next;
        }
        let erased = self.tools.owner.ask(|owner| owner.erased_files()).await?;
        self.free(erased).await?;
        Ok(Round { line: format!("{} inodes reaped", self.reaped), pause: PAUSE })
    }
}
