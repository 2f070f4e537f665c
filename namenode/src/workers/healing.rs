//! Brings members up to date: each pulls what it lacks from one that serves.

use super::{Round, Tools, Worker};
use crate::events::Stopped;
use crate::owner::Heal;
use async_trait::async_trait;
use quarry_common::ids::{ChunkId, Epoch, NodeId, PgId};
use quarry_common::wire::data::Endpoint;
use quarry_datanode_client::Pulled;
use quarry_host::metrics::table::NAMENODE_HEALED;
use quarry_host::{clock, task};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Groups that are healed at a time.
const HEALS_MAX: usize = 16;
/// Groups of which one node pulls at a time: it has other work.
const HEALS_PER_NODE_MAX: usize = 4;
/// After a failure, before it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// A member at an epoch.
type Key = (PgId, Epoch, NodeId);

pub(super) struct Healing {
    tools: Tools,
    running: JoinSet<(Key, bool)>,
    under_way: BTreeMap<Key, NodeId>,
    /// Failures of each member: how many, and when the last one was.
    failed: BTreeMap<Key, (usize, Instant)>,
    done: u64,
}

impl Healing {
    pub(super) fn new(tools: Tools) -> Self {
        Self { tools, running: JoinSet::new(), under_way: BTreeMap::new(), failed: BTreeMap::new(), done: 0 }
    }

    fn collect(&mut self) {
        while let Some(finished) = self.running.try_join_next() {
            let Ok((key, complete)) = finished else { continue };
            self.under_way.remove(&key);
            if complete {
                self.failed.remove(&key);
                self.done += 1;
            } else {
                let failures = self.failed.get(&key).map_or(0, |(n, _)| *n);
                self.failed.insert(key, (failures + 1, clock::now()));
            }
        }
    }

    fn may_start(&self, key: &Key) -> bool {
        let of_node = self.under_way.values().filter(|node| **node == key.2).count();
        // An epoch that has passed does not matter: the same group of the same node is not pulled twice at a time.
        let same = self.under_way.keys().any(|(pg, _, node)| (*pg, *node) == (key.0, key.2));
        !same
            && self.under_way.len() < HEALS_MAX
            && of_node < HEALS_PER_NODE_MAX
            && self.failed.get(key).is_none_or(|(_, at)| clock::since(*at) >= RETRY)
    }
}

#[async_trait]
impl Worker for Healing {
    fn name(&self) -> &'static str {
        "healing"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        self.collect();
        let heals = self.tools.owner.ask(|owner| Ok(owner.heals())).await?;
        let keys: Vec<Key> = heals.iter().map(key).collect();
        self.failed.retain(|key, _| keys.contains(key));
        let waiting = heals.len();
        for heal in heals {
            let key = key(&heal);
            if !self.may_start(&key) {
                continue;
            }
            let failures = self.failed.get(&key).map_or(0, |(n, _)| *n);
            // Groups of one node are pulled from different members.
            let turn = heal.pg.0 as usize + failures;
            let source = heal.sources[turn % heal.sources.len()].clone();
            self.under_way.insert(key, key.2);
            let tools = self.tools.clone();
            task::spawn_in(&mut self.running, async move {
                let begun = clock::now();
                let complete = sync(&tools, &heal, source).await;
                NAMENODE_HEALED.observe_since(&[if complete { "ok" } else { "error" }], begun);
                (key, complete)
            });
        }
        let line = format!(
            "{} members catching up, {} of them now, {} done",
            waiting,
            self.under_way.len(),
            self.done
        );
        Ok(Round { line, pause: self.tools.config.tick })
    }
}

fn key(heal: &Heal) -> Key {
    (heal.pg, heal.epoch, heal.member.node)
}

/// Syncs one member; says whether it has everything now.
async fn sync(tools: &Tools, heal: &Heal, source: Endpoint) -> bool {
    let (pg, epoch, node) = key(heal);
    let from = source.node;
    let failed = match tools.datanodes.sync_group(&heal.member, (pg, epoch), from).await {
        Ok(Pulled { pulled, failed }) => {
            tracing::info!(%pg, %node, source = %from, pulled, failed = failed.len(), "synced");
            failed
        }
        Err(error) => {
            tracing::warn!(%pg, %node, %error, "cannot sync a group");
            return false;
        }
    };
    let ids: Vec<ChunkId> = failed.iter().map(|(id, _)| *id).collect();
    // A chunk that was released meanwhile need not be had.
    let missing = tools
        .owner
        .ask(move |owner| {
            let missing = owner.still_referenced(&ids)?;
            if missing.is_empty() {
                owner.caught_up(pg, epoch, node);
            }
            Ok(missing)
        })
        .await
        .unwrap_or_default();
    for (chunk, reason) in failed.iter().filter(|(id, _)| missing.contains(id)).take(10) {
        tracing::error!(%chunk, %node, source = %from, %reason, "a chunk cannot be had");
    }
    missing.is_empty()
}
