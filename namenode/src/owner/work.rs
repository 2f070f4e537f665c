//! What workers look up and change in memory. Each call is one piece of work, a few milliseconds at most.

use super::{Fatal, Owner};
use quarry_common::ids::{ChunkId, Epoch, Ino, NodeId, PgId};
use quarry_common::wire::cluster::{MemberState, Replication};
use quarry_common::wire::data::Endpoint;
use quarry_common::wire::fs::Timestamp;
use quarry_host::clock;
use quarry_namenode_core::membership::{self, Cluster};
use quarry_namenode_core::{Base, GroupChange, Overlay};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Orphans of one command.
const REAP_MAX: usize = 256;
/// Orphans that one look goes through.
const REAP_SCAN_MAX: usize = 4096;
/// Entries of the delete queue that one round takes.
const DELETE_MAX: usize = 4096;
/// Chunks that one comparison looks at.
const COMPARE_MAX: usize = 8192;

/// Chunks to delete, and from whom.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    /// Entries of the queue, oldest first.
    pub(crate) entries: Vec<(Timestamp, ChunkId)>,
    /// Of each node, the chunks that it may have.
    pub(crate) targets: BTreeMap<NodeId, (String, Vec<ChunkId>)>,
    /// There are more.
    pub(crate) more: bool,
}

/// A member that must catch up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heal {
    pub(crate) pg: PgId,
    pub(crate) epoch: Epoch,
    pub(crate) member: Endpoint,
    /// Serving members that are healthy.
    pub(crate) sources: Vec<Endpoint>,
}

/// A group as an audit sees it.
#[derive(Clone, Debug)]
pub(crate) struct AuditGroup {
    pub(crate) pg: PgId,
    /// Members that are healthy, and whether they serve.
    pub(crate) members: Vec<(Endpoint, bool)>,
    /// Members that serve and are silent.
    pub(crate) unreachable: Vec<NodeId>,
    /// Serving members say that they have different chunks.
    pub(crate) differs: bool,
}

/// What files refer to in a range of ids.
#[derive(Debug)]
pub(crate) struct Referenced {
    /// Ascending.
    pub(crate) ids: Vec<ChunkId>,
    /// The range ends here, because there are more than one look takes.
    pub(crate) upto: ChunkId,
    /// A smaller sequence cannot be brought in any more.
    pub(crate) floor: u64,
}

impl Owner {
    /// The changes since the last checkpoint, and the last entry that is in them; `None` if there are none.
    pub(crate) fn freeze(&mut self) -> Option<(Arc<Overlay>, u64)> {
        if self.proposer.unsaved() == 0 {
            return None;
        }
        self.proposer.frozen();
        self.feed.checkpointing();
        Some((self.state.freeze(), self.state.applied()))
    }

    /// The frozen changes are in the base.
    pub(crate) fn thaw(&mut self, base: Arc<dyn Base>) {
        self.state.thaw(base);
        self.proposer.saved();
    }

    /// Commands that only the log has.
    pub(crate) fn unsaved(&self) -> usize {
        self.proposer.unsaved()
    }

    /// Orphans after `after` that nobody has open: they cannot be opened any more. The second part is where to go on;
    /// `None` when there are no more.
    pub(crate) fn pick_orphans(&mut self, after: Ino) -> Result<(Vec<Ino>, Option<Ino>), Fatal> {
        if self.in_grace || !(self.reap_due || after.0 > 0) {
            return Ok((Vec::new(), None));
        }
        self.reap_due = false;
        let orphans = self.state.orphans(after, REAP_SCAN_MAX)?;
        let mut next = (orphans.len() == REAP_SCAN_MAX).then(|| orphans[REAP_SCAN_MAX - 1]);
        let mut picked = Vec::new();
        for ino in orphans {
            if picked.len() >= REAP_MAX {
                next = picked.last().copied();
                break;
            }
            if !self.is_in_use(ino)? {
                picked.push(ino);
            }
        }
        self.reaping.extend(&picked);
        Ok((picked, next))
    }

    /// Picked orphans were reaped, or not.
    pub(crate) fn reaped(&mut self, picked: &[Ino], all: bool) {
        for ino in picked {
            self.reaping.remove(ino);
        }
        self.reap_due |= !all;
    }

    fn is_in_use(&mut self, ino: Ino) -> Result<bool, Fatal> {
        Ok(self.opens.is_open(ino) || self.reaping.contains(&ino) || self.is_leased(ino)?)
    }

    /// What is due to be deleted from DataNodes. Nodes that are silent are not waited for: what they keep is garbage, and
    /// an audit finds it when they are back.
    pub(crate) fn deletions(&self) -> Result<Deletions, Fatal> {
        let grace = i128::try_from(self.around.config.delete_grace.as_nanos()).unwrap_or(i128::MAX);
        let due = clock::wall().0.saturating_sub(grace);
        let mut deletions = Deletions::default();
        for (since, id) in self.state.delete_queue(DELETE_MAX)? {
            if since.0 > due {
                break;
            }
            deletions.entries.push((since, id));
            let Some(group) = self.nodes.group(id.pg()) else { continue };
            for member in &group.members {
                if let Some(Endpoint { node, address }) = self.healthy(member.node) {
                    deletions.targets.entry(node).or_insert_with(|| (address, Vec::new())).1.push(id);
                }
            }
        }
        deletions.more = deletions.entries.len() == DELETE_MAX;
        Ok(deletions)
    }

    /// Changes of groups that are due.
    pub(crate) fn group_changes(&mut self) -> Vec<GroupChange> {
        let mut policies: BTreeSet<Replication> = self.nodes.policies().clone();
        policies.insert(self.state.meta().default_replication);
        policies.extend(self.nodes.groups().iter().map(|g| g.replication));
        let views = self.nodes.views(self.now);
        let mut changes = membership::decide(&Cluster {
            nodes: &views,
            groups: self.nodes.groups(),
            policies: &policies,
            synced: self.nodes.synced(),
            timing: self.nodes.timing(self.now),
        });
        // A node that is being rid of a group's chunks must not join the group at the same time.
        changes.retain(|change| change.members.iter().all(|m| !self.nodes.is_evicting(change.pg, m.node)));
        for (pg, node) in self.nodes.lacking() {
            if changes.iter().all(|c| c.pg != pg) {
                changes.extend(self.demotion(pg, node));
            }
        }
        changes
    }

    /// Takes a member out that serves and lacks chunks, if another healthy one serves. It then syncs and comes back.
    fn demotion(&mut self, pg: PgId, node: NodeId) -> Option<GroupChange> {
        let group = self.nodes.group(pg)?;
        let serves = group.serving().any(|n| n == node);
        if !serves {
            self.nodes.lacks_no_more(pg, node);
            return None;
        }
        if !group.serving().any(|n| n != node && self.nodes.is_healthy(n, self.now)) {
            return None;
        }
        let mut members = group.members.clone();
        for member in members.iter_mut().filter(|m| m.node == node) {
            member.state = MemberState::Stale;
        }
        Some(GroupChange {
            pg,
            expected: group.epoch,
            replication: group.replication,
            members,
            reason: format!("node {node} lacks chunks"),
        })
    }

    /// Members that must catch up and have not.
    pub(crate) fn heals(&self) -> Vec<Heal> {
        let mut heals = Vec::new();
        for group in self.nodes.groups() {
            let syncing = group.members.iter().filter(|m| m.state == MemberState::Syncing);
            for member in syncing {
                let done = self.nodes.synced().contains(&(group.id, group.epoch, member.node));
                let sources: Vec<Endpoint> = group.serving().filter_map(|n| self.healthy(n)).collect();
                match self.healthy(member.node) {
                    Some(member) if !done && !sources.is_empty() => {
                        heals.push(Heal { pg: group.id, epoch: group.epoch, member, sources });
                    }
                    _ => {}
                }
            }
        }
        heals
    }

    /// A member has caught up.
    pub(crate) fn caught_up(&mut self, pg: PgId, epoch: Epoch, node: NodeId) {
        self.nodes.caught_up(pg, epoch, node);
    }

    /// Floors that may be raised.
    pub(crate) fn floors(&mut self) -> Result<Vec<(PgId, u64)>, Fatal> {
        let mut floors = Vec::new();
        for (pg, sequence) in self.ids.floors(self.now, self.around.config.orphan_age) {
            if self.state.cursor(pg)?.floor < sequence {
                floors.push((pg, sequence));
            }
        }
        Ok(floors)
    }

    /// All groups, for an audit. `fresh` is how old a digest may be.
    pub(crate) fn audit_groups(&self, fresh: Duration) -> Vec<AuditGroup> {
        self.nodes.groups().iter().map(|g| self.audit_group_of(g, fresh)).collect()
    }

    fn audit_group_of(&self, group: &quarry_common::wire::cluster::Group, fresh: Duration) -> AuditGroup {
        let mut found =
            AuditGroup { pg: group.id, members: Vec::new(), unreachable: Vec::new(), differs: false };
        let mut seen = None;
        for member in &group.members {
            let serves = member.state == MemberState::Serving;
            match self.healthy(member.node) {
                Some(target) => found.members.push((target, serves)),
                None if serves => found.unreachable.push(member.node),
                None => {}
            }
            if serves && let Some(digest) = self.nodes.digest(member.node, group.id, self.now, fresh) {
                found.differs |= seen.is_some_and(|other| other != digest);
                seen = Some(digest);
            }
        }
        found
    }

    /// Whether the node serves the group now.
    pub(crate) fn serves(&self, pg: PgId, node: NodeId) -> bool {
        self.nodes.group(pg).is_some_and(|g| g.serving().any(|n| n == node))
    }

    /// The chunks with `from <= id <= to` that files refer to.
    pub(crate) fn referenced(&self, from: ChunkId, to: ChunkId) -> Result<Referenced, Fatal> {
        let rows = self.state.chunks(from, COMPARE_MAX)?;
        let upto = if rows.len() == COMPARE_MAX { rows[COMPARE_MAX - 1].0.min(to) } else { to };
        let ids = rows.into_iter().map(|(id, _)| id).take_while(|id| *id <= to).collect();
        Ok(Referenced { ids, upto, floor: self.state.cursor(from.pg())?.floor })
    }

    /// Of these, the chunks that files refer to.
    pub(crate) fn still_referenced(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, Fatal> {
        let mut still = Vec::new();
        for &id in ids {
            if self.state.chunk(id)?.is_some() {
                still.push(id);
            }
        }
        Ok(still)
    }

    /// The member lacks chunks that files refer to.
    pub(crate) fn lacks(&mut self, pg: PgId, node: NodeId) {
        self.nodes.lacks(pg, node);
    }

    /// A node that has chunks of a group that it is no member of: it must not become one until [`Owner::evicted`].
    pub(crate) fn evict(&mut self) -> Option<(PgId, Endpoint)> {
        let (pg, node) = self.nodes.leftover(self.now)?;
        let target = self.healthy(node)?;
        self.nodes.evicting(pg, node);
        Some((pg, target))
    }

    /// The node has been rid of the group's chunks, or that failed.
    pub(crate) fn evicted(&mut self, pg: PgId, node: NodeId) {
        self.nodes.evicted(pg, node);
    }

    /// The cluster's name; empty before the first start has written it.
    pub(crate) fn cluster(&self) -> String {
        self.state.meta().cluster.clone()
    }

    fn healthy(&self, node: NodeId) -> Option<Endpoint> {
        let record = self.nodes.record(node)?;
        self.nodes.is_healthy(node, self.now).then(|| Endpoint { node, address: record.address.clone() })
    }
}
