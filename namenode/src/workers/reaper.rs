//! Frees inodes that have lost their last name, once nobody has them open.

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
        let mut left = picked.clone();
        let mut all = true;
        while !left.is_empty() {
            match self.tools.owner.propose(Body::Reap { inos: left.clone() }).await? {
                Ok(Outcome::Reaped { left: rest }) => {
                    self.reaped += (left.len() - rest.len()) as u64;
                    left = rest;
                }
                Ok(other) => {
                    tracing::error!(?other, "orphans were not reaped");
                    break;
                }
                Err(refused) => {
                    tracing::warn!(%refused, "orphans must wait");
                    all = false;
                    break;
                }
            }
        }
        self.tools
            .owner
            .ask(move |owner| {
                owner.reaped(&picked, all);
                Ok(())
            })
            .await
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
        Ok(Round { line: format!("{} inodes reaped", self.reaped), pause: PAUSE })
    }
}
