//! Chunk ids, asked for a few at a time.
//!
//! They are kept by file, for the file's replication policy decides the group. The first request of a file is for one
//! id, since most files are small; a file that keeps growing gets more at once.

use super::nodes::Nodes;
use super::placement::Table;
use crate::session::Session;
use hashlink::LruCache;
use quarry_common::ids::{ChunkId, Ino, NodeId, PgId};
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{ChunkGrant, Reply, Request};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Files whose ids are kept. What is forgotten is lost, and there are plenty.
const FILES: usize = 256;
/// Ids in one request, at most: 64 MiB of a file.
const COUNT_MAX: u32 = 32;
/// By how much a request is larger than the file's last one.
const GROWTH: u32 = 4;
/// Ids that are older are not used: the NameNode does not wait for them for ever.
const KEEP: Duration = Duration::from_secs(60);

/// Ids that are left.
pub(super) struct Grants(Mutex<LruCache<Ino, File>>);

#[derive(Default)]
struct File {
    asked: u32,
    left: VecDeque<(Instant, ChunkId)>,
}

impl Default for Grants {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(FILES)))
    }
}

impl Grants {
    fn files(&self) -> MutexGuard<'_, LruCache<Ino, File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next id for a file, in a group without the nodes to avoid where there is one.
    ///
    /// # Errors
    /// The NameNode's: `NoSpace` when no group takes chunks.
    pub(super) async fn take(
        &self,
        ino: Ino,
        avoid: Vec<NodeId>,
        (session, table, nodes): (&Session, &Table, &Nodes),
    ) -> Result<ChunkId, FsError> {
        let good = |pg: PgId| is_good(table, nodes, &avoid, pg);
        let count = {
            let mut files = self.files();
            let file = files.entry(ino).or_insert_with(File::default);
            while let Some((since, id)) = file.left.pop_front() {
                if since.elapsed() < KEEP && good(id.pg()) {
                    return Ok(id);
                }
            }
            if avoid.is_empty() {
                file.asked = (file.asked * GROWTH).clamp(1, COUNT_MAX);
            }
            // While something is wrong, ids may well be of no use.
            if avoid.is_empty() { file.asked } else { 1 }
        };
        let reply = session.ask(Request::AllocChunks { ino, count, avoid }).await?;
        let (first, rest) = match reply {
            Reply::Grants(grants) => split(&grants, count),
            other => {
                tracing::error!(?other, "the NameNode answers a request for chunk ids with something else");
                return Err(FsError::Io);
            }
        };
        let now = Instant::now();
        let mut files = self.files();
        files.entry(ino).or_insert_with(File::default).left.extend(rest.into_iter().map(|id| (now, id)));
        first.ok_or_else(|| {
            tracing::error!("the NameNode grants no chunk id, and gives no reason");
            FsError::Io
        })
    }
}

/// All members that must have a chunk take chunks, as far as the NameNode and experience know.
pub(super) fn is_good(table: &Table, nodes: &Nodes, avoid: &[NodeId], pg: PgId) -> bool {
    let fine = |node| table.is_writable(node) && !avoid.contains(&node) && !nodes.is_in_trouble(node);
    table.group(pg).is_some_and(|group| group.writers().all(fine) && group.writers().next().is_some())
}

/// The ids of grants, as many as were asked for.
fn split(grants: &[ChunkGrant], count: u32) -> (Option<ChunkId>, Vec<ChunkId>) {
    let fits = |grant: &&ChunkGrant| grant.first.pg() == grant.pg;
    let ids = |grant: &ChunkGrant| {
        let (pg, first) = (grant.pg, grant.first.sequence());
        let last = first.saturating_add(u64::from(grant.count)).min(ChunkId::MAX_SEQUENCE + 1);
        (first..last).map(move |sequence| ChunkId::new(pg, sequence))
    };
    let mut ids = grants.iter().filter(fits).flat_map(ids).take(count as usize);
    (ids.next(), ids.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(pg: u32, first: u64, count: u32) -> ChunkGrant {
        ChunkGrant { pg: PgId(pg), first: ChunkId::new(PgId(pg), first), count }
    }

    #[test]
    fn grants_become_ids_and_never_more_than_were_asked_for() {
        let id = |pg, n| ChunkId::new(PgId(pg), n);
        let (first, rest) = split(&[grant(1, 5, 2), grant(2, 9, 5)], 4);
        assert_eq!((first, rest), (Some(id(1, 5)), vec![id(1, 6), id(2, 9), id(2, 10)]));
        assert_eq!(split(&[], 4), (None, vec![]));
        let last = ChunkId::MAX_SEQUENCE;
        assert_eq!(split(&[grant(1, last, u32::MAX)], 4), (Some(id(1, last)), vec![]));
        let confused = ChunkGrant { pg: PgId(2), ..grant(1, 5, 2) };
        assert_eq!(split(&[confused], 4), (None, vec![]));
    }
}
