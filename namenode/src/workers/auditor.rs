//! Finds replicas that are missing, and chunks that no file refers to.
//!
//! Heartbeats carry digests of the groups. When serving members of a group differ for a while, and now and then in any
//! case, the group is compared chunk by chunk with what files refer to. A member that lacks something is synced anew,
//! garbage is deleted.

use super::compare::{CompareError, compare};
use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::AuditGroup;
use async_trait::async_trait;
use quarry_common::ids::PgId;
use quarry_common::wire::data::Endpoint;
use quarry_host::clock;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A digest older than so many heartbeats is not compared: each heartbeat tells of some groups only.
const FRESH_HEARTBEATS: u32 = 60;
/// A group that is compared because its members differ is left alone for so many times `audit_after`: they may just be
/// busy.
const REST: u32 = 10;
/// Between looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of a group.
#[derive(Debug, Default)]
struct Watch {
    differs_since: Option<Instant>,
    audited: Option<Instant>,
}

pub(super) struct Auditor {
    tools: Tools,
    begun: Instant,
    groups: BTreeMap<PgId, Watch>,
    audits: u64,
    missing: u64,
    garbage: u64,
}

impl Auditor {
    pub(super) fn new(tools: Tools) -> Self {
        let begun = clock::now();
        Self { tools, begun, groups: BTreeMap::new(), audits: 0, missing: 0, garbage: 0 }
    }

    /// Whether it is time to compare the group.
    fn is_due(&mut self, group: &AuditGroup) -> bool {
        let (after, age) = (self.tools.config.audit_after, self.tools.config.orphan_age);
        let watch = self.groups.entry(group.pg).or_default();
        match (group.differs, watch.differs_since) {
            (true, None) => watch.differs_since = Some(clock::now()),
            (false, _) => watch.differs_since = None,
            (true, Some(_)) => {}
        }
        let since_audit = watch.audited.map(clock::since);
        let differs = watch.differs_since.is_some_and(|since| clock::since(since) >= after);
        let rested = since_audit.is_none_or(|since| since >= after * REST);
        // A floor is raised after `orphan_age` at the earliest; then there may be garbage.
        let routine = since_audit.unwrap_or_else(|| clock::since(self.begun)) >= age + age / 30;
        (differs && rested) || routine
    }

    async fn audit(&mut self, group: &AuditGroup) -> Result<(), Stopped> {
        for (target, _) in &group.members {
            match self.audit_member(group.pg, target).await {
                Ok(()) => {}
                Err(CompareError::Stopped(stopped)) => return Err(stopped),
                Err(CompareError::Node(error)) => {
                    tracing::warn!(pg = %group.pg, node = %target.node, %error, "cannot audit a member");
                }
            }
        }
        self.audits += 1;
        let watch = self.groups.entry(group.pg).or_default();
        *watch = Watch { differs_since: None, audited: Some(clock::now()) };
        Ok(())
    }

    async fn audit_member(&mut self, pg: PgId, target: &Endpoint) -> Result<(), CompareError> {
        let node = target.node;
        let mut after = None;
        loop {
            let findings = compare(&self.tools, pg, target, after).await?;
            if let Some(first) = findings.missing.first() {
                let count = findings.missing.len();
                tracing::error!(%pg, %node, count, %first, "chunks are missing; the member syncs anew");
                self.missing += count as u64;
                self.tools
                    .owner
                    .ask(move |owner| {
                        owner.lacks(pg, node);
                        Ok(())
                    })
                    .await?;
            }
            if !findings.garbage.is_empty() {
                self.tools.datanodes.delete(target, &findings.garbage).await?;
                self.garbage += findings.garbage.len() as u64;
                tracing::info!(%pg, %node, chunks = findings.garbage.len(), "deleted chunks of no file");
            }
            match findings.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl Worker for Auditor {
    fn name(&self) -> &'static str {
        "auditor"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        let fresh = self.tools.config.heartbeat_interval * FRESH_HEARTBEATS;
        let groups = self.tools.owner.ask(move |owner| Ok(owner.audit_groups(fresh))).await?;
        for group in &groups {
            if self.is_due(group) {
                self.audit(group).await?;
            }
        }
        let line = format!(
            "{} groups compared, {} replicas were missing, {} chunks of no file deleted",
            self.audits, self.missing, self.garbage
        );
        Ok(Round { line, pause: PAUSE })
    }
}
