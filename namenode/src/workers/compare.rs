//! Compares what a node has of a group with what files refer to.
//!
//! Both change meanwhile, so what seems wrong is looked at again, in an order that makes the answer certain:
//!
//! - *missing*: a file referred to the chunk, then the node listed that it has not got it, then a file still referred to it,
//!   and the node serves the group. A serving member has every chunk before a file refers to it.
//! - *garbage*: the node has it, no file refers to it, and its number is below the floor, so that no file can any more.

use super::Tools;
use crate::events::Stopped;
use crate::owner::Referenced;
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::data::Endpoint;
use quarry_datanode_client::CallError;
use std::collections::BTreeSet;

/// Why a comparison has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompareError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Node(#[from] CallError),
}

/// What the comparison of some consecutive ids found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Chunks that are there and that files refer to.
    pub(super) present: Vec<ChunkId>,
    /// Chunks that files refer to and the node lacks, though it serves.
    pub(super) missing: Vec<ChunkId>,
    /// Chunks to which no file can refer any more.
    pub(super) garbage: Vec<ChunkId>,
    /// Chunks to which no file refers, garbage included.
    pub(super) unreferenced: u64,
    /// Where to go on; `None` after the last.
    pub(super) next: Option<ChunkId>,
}

/// Compares the ids after `after`, as many as one look takes.
pub(super) async fn compare(
    tools: &Tools,
    pg: PgId,
    target: &Endpoint,
    after: Option<ChunkId>,
) -> Result<Findings, CompareError> {
    let page = tools.datanodes.list(target, pg, after).await?;
    let from = after.map_or(ChunkId::new(pg, 0), |id| ChunkId(id.0 + 1));
    let last = ChunkId::new(pg, ChunkId::MAX_SEQUENCE);
    let to = if page.end { last } else { page.ids.last().map_or(last, |(id, _)| *id) };
    let Referenced { ids: referenced, upto, floor } =
        tools.owner.ask(move |owner| owner.referenced(from, to)).await?;
    let listed: BTreeSet<ChunkId> = page.ids.into_iter().map(|(id, _)| id).filter(|id| *id <= upto).collect();
    let mut findings = Findings { next: (upto < last).then_some(upto), ..Findings::default() };
    let mut suspects = BTreeSet::new();
    for id in &referenced {
        if listed.contains(id) {
            findings.present.push(*id);
        } else {
            suspects.insert(*id);
        }
    }
    let referenced: BTreeSet<ChunkId> = referenced.into_iter().collect();
    for id in listed.difference(&referenced) {
        findings.unreferenced += 1;
        if id.sequence() < floor {
            findings.garbage.push(*id);
        }
    }
    findings.missing = confirm_missing(tools, pg, target, after, suspects).await?;
    Ok(findings)
}

/// Of the suspects, those that the node really lacks.
async fn confirm_missing(
    tools: &Tools,
    pg: PgId,
    target: &Endpoint,
    after: Option<ChunkId>,
    mut suspects: BTreeSet<ChunkId>,
) -> Result<Vec<ChunkId>, CompareError> {
    let Some(last) = suspects.last().copied() else { return Ok(Vec::new()) };
    let mut from = after;
    loop {
        let page = tools.datanodes.list(target, pg, from).await?;
        for (id, _) in &page.ids {
            suspects.remove(id);
        }
        from = page.ids.last().map(|(id, _)| *id);
        if page.end || from.is_none_or(|id| id >= last) {
            break;
        }
    }
    let (ids, node): (Vec<ChunkId>, _) = (suspects.into_iter().collect(), target.node);
    let missing = tools
        .owner
        .ask(move |owner| if owner.serves(pg, node) { owner.still_referenced(&ids) } else { Ok(Vec::new()) });
    Ok(missing.await?)
}
