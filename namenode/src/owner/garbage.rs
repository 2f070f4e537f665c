//! Chunks that no file refers to: the delete queue, floors, and what an audit compares.

use super::{Fatal, Owner, millis};
use quarry_common::ids::{ChunkId, NodeId, PgId};
use quarry_common::wire::cluster::{Group, MemberState};
use quarry_common::wire::data::Endpoint;
use quarry_namenode_core::LogicalTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// Entries of the delete queue that one round takes.
const DELETE_MAX: usize = 4096;
/// Replicas said to be bad that are remembered; those beyond it are found again by an audit.
const SUSPECTED_MAX: usize = 8192;
/// Chunks that one comparison looks at.
const COMPARE_MAX: usize = 8192;

/// Chunks to delete, and from whom.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    /// Entries of the queue, oldest first.
    pub(crate) entries: Vec<(LogicalTime, ChunkId)>,
    /// Of each node, the chunks that it may have.
    pub(crate) targets: BTreeMap<NodeId, (String, Vec<ChunkId>)>,
    /// There are more.
    pub(crate) more: bool,
}

/// A group as an audit sees it.
#[derive(Clone, Debug)]
pub(crate) struct AuditGroup {
    pub(crate) pg: PgId,
    /// Members that are healthy, and whether they serve.
    pub(crate) members: Vec<(Endpoint, bool)>,
    /// Members that serve and are silent.
    pub(crate) unreachable: Vec<NodeId>,
    /// Members that do not serve, healthy or not: they lack chunks or may lack some.
    pub(crate) behind: u64,
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

/// A replica that is said to be bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) chunk: ChunkId,
    /// Whose replica it is.
    pub(crate) member: Endpoint,
    /// Other healthy serving members.
    pub(crate) others: Vec<Endpoint>,
}

impl Owner {
    /// A replica is said to be bad. Other opinions are asked for.
    pub(crate) fn suspect(&mut self, chunk: ChunkId, node: NodeId) {
        if self.topology.suspected.len() < SUSPECTED_MAX {
            self.topology.suspected.insert((chunk, node));
        }
    }

    /// Some replicas that are said to be bad, of chunks that files refer to and that their node still serves.
    pub(crate) fn suspects(&mut self, limit: usize) -> Result<Vec<Suspect>, Fatal> {
        let mut suspects = Vec::new();
        while suspects.len() < limit
            && let Some((chunk, node)) = self.topology.suspected.pop_first()
        {
            if !self.serves(chunk.pg(), node) || self.state.chunk(chunk)?.is_none() {
                continue;
            }
            let Some(member) = self.healthy(node) else { continue };
            let group = self.topology.nodes.group(chunk.pg());
            let others = group.into_iter().flat_map(Group::serving).filter(|n| *n != node);
            let others = others.filter_map(|n| self.healthy(n)).collect();
            suspects.push(Suspect { chunk, member, others });
        }
        Ok(suspects)
    }

    /// What is due to be deleted from DataNodes. Nodes that are silent are not waited for: what they keep is garbage, and
    /// an audit finds it when they are back.
    pub(crate) fn deletions(&self) -> Result<Deletions, Fatal> {
        let grace = millis(self.around.config.delete_grace);
        let clock = self.clock().0;
        let mut deletions = Deletions::default();
        for (since, id) in self.state.delete_queue(DELETE_MAX)? {
            if since.0.saturating_add(grace) > clock {
                break;
            }
            deletions.entries.push((since, id));
            let Some(group) = self.topology.nodes.group(id.pg()) else { continue };
            for member in &group.members {
                if let Some(Endpoint { node, address }) = self.healthy(member.node) {
                    deletions.targets.entry(node).or_insert_with(|| (address, Vec::new())).1.push(id);
                }
            }
        }
        deletions.more = deletions.entries.len() == DELETE_MAX;
        Ok(deletions)
    }

    /// Floors that may be raised.
    pub(crate) fn floors(&mut self) -> Result<Vec<(PgId, u64)>, Fatal> {
        let mut floors = Vec::new();
        for (pg, sequence) in self.grants.ids.floors(self.now, self.around.config.orphan_age) {
            if self.state.cursor(pg)?.floor < sequence {
                floors.push((pg, sequence));
            }
        }
        Ok(floors)
    }

    /// All groups, for an audit. `fresh` is how old a digest may be.
    pub(crate) fn audit_groups(&self, fresh: Duration) -> Vec<AuditGroup> {
        self.topology.nodes.groups().iter().map(|g| self.audit_group_of(g, fresh)).collect()
    }

    fn audit_group_of(&self, group: &Group, fresh: Duration) -> AuditGroup {
        let mut found = AuditGroup {
            pg: group.id,
            members: Vec::new(),
            unreachable: Vec::new(),
            behind: 0,
            differs: false,
        };
        let mut seen = None;
        for member in &group.members {
            let serves = member.state == MemberState::Serving;
            found.behind += u64::from(!serves);
            match self.healthy(member.node) {
                Some(target) => found.members.push((target, serves)),
                None if serves => found.unreachable.push(member.node),
                None => {}
            }
            if serves && let Some(digest) = self.topology.nodes.digest(member.node, group.id, self.now, fresh)
            {
                found.differs |= seen.is_some_and(|other| other != digest);
                seen = Some(digest);
            }
        }
        found
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
}
