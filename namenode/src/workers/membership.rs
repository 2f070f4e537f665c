//! Puts the changes of placement groups that are due into the log.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use async_trait::async_trait;
use quarry_namenode_core::{Body, Outcome};

pub(super) struct Membership {
    tools: Tools,
    changes: u64,
    last: String,
}

impl Membership {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, changes: 0, last: "nothing yet".to_owned() }
    }
}

#[async_trait]
impl Worker for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        let changes = self.tools.owner.ask(|owner| Ok(owner.group_changes())).await?;
        if !changes.is_empty() {
            let reasons: Vec<_> = changes.iter().map(|c| (c.pg, c.reason.clone())).collect();
            let count = changes.len() as u64;
            let proposed = self.tools.owner.propose(Body::ChangeGroups(changes)).await?;
            self.tools
                .owner
                .ask(|owner| {
                    owner.groups_changed();
                    Ok(())
                })
                .await?;
            match proposed {
                Ok(Outcome::Refused(why)) => tracing::debug!(%why, "groups changed meanwhile"),
                Err(refused) => tracing::warn!(%refused, "changes of groups must wait"),
                Ok(_) => {
                    for (pg, reason) in &reasons {
                        tracing::info!(%pg, %reason, "placement group changed");
                    }
                    self.changes += count;
                    if let Some((pg, reason)) = reasons.last() {
                        self.last = format!("group {pg}: {reason}");
                    }
                }
            }
        }
        let line = format!("{} changes of groups, the last: {}", self.changes, self.last);
        Ok(Round { line, pause: self.tools.config.tick })
    }
}
