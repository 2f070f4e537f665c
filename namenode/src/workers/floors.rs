//! Raises the floors of groups: chunk ids handed out long ago cannot be brought in any more, so what is stored under them
//! and in no file is garbage.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use async_trait::async_trait;
use quarry_namenode_core::{Body, Outcome};
use std::time::Duration;

/// Between looks at most.
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Floors {
    tools: Tools,
    raised: u64,
}

impl Floors {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, raised: 0 }
    }
}

#[async_trait]
impl Worker for Floors {
    fn name(&self) -> &'static str {
        "floors"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        for (pg, sequence) in self.tools.owner.ask(|owner| owner.floors()).await? {
            match self.tools.owner.propose(Body::RaiseFloor { pg, sequence }).await? {
                Ok(Outcome::Refused(why)) => tracing::warn!(%pg, %why, "a floor was not raised"),
                Ok(_) => self.raised += 1,
                // The next mark is a little higher.
                Err(refused) => tracing::warn!(%pg, %refused, "a floor must wait"),
            }
        }
        let pause = (self.tools.config.orphan_age / 60).clamp(self.tools.config.tick, PAUSE_MAX);
        Ok(Round { line: format!("{} raised", self.raised), pause })
    }
}
