//! The requests, one method each.

use crate::error::{Away, CallError};
use crate::exchange::{Answer, Body, exchange};
use crate::pool::Pool;
use crate::timing::{PULL_GROUP, READ, SHORT, SYNC};
use bytes::Bytes;
use quarry_common::checksum::first_bad_block;
use quarry_common::ids::{ChunkId, Epoch, NodeId, PgId};
use quarry_common::limits::{BLOCK_SIZE, CHUNK_SIZE};
use quarry_common::wire::cluster::GroupDigest;
use quarry_common::wire::data::{DataReply, DataRequest, Endpoint, IDS_MAX, WriteChunk};
use quarry_net::transport::Transport;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A client of all DataNodes of the cluster.
pub struct DataNodeClient {
    pool: Pool,
}

/// What became of a chunk that was sent along a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Nodes that have the chunk.
    pub holders: Vec<NodeId>,
    /// Nodes that have not, each with the reason.
    pub failed: Vec<(NodeId, String)>,
}

/// A page of what a node has of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ids, ascending, each with the length of the chunk in bytes.
    pub ids: Vec<(ChunkId, u32)>,
    /// No more chunks follow these.
    pub end: bool,
}

/// What became of a group that a node pulled from another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Chunks that the node pulled.
    pub pulled: u64,
    /// Chunks that the source could not give, each with the reason.
    pub failed: Vec<(ChunkId, String)>,
}

impl DataNodeClient {
    /// A client that connects with the identity of the transport.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { pool: Pool::new(transport) }
    }

    /// Sends a chunk to the first member of a chain, and waits until the whole chain has answered. The caller sets the
    /// deadline ([`timing`](crate::timing)): only the caller knows when the body is complete.
    ///
    /// # Errors
    /// See [`CallError`]; the receiving node does not have the chunk then.
    pub async fn write(
        &self,
        to: &Endpoint,
        header: WriteChunk,
        body: &dyn Body,
    ) -> Result<Written, CallError> {
        let answer = exchange(&self.pool, to, &DataRequest::Write(header), body).await?;
        match answer.reply {
            DataReply::Written { holders, failed } => Ok(Written { holders, failed }),
            _ => Err(Away::Unfit.into()),
        }
    }

    /// Gets a range of a chunk, checked against the CRCs of its blocks. `progress` is called whenever something of it arrives.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn read(
        &self,
        from: &Endpoint,
        (id, offset, length): (ChunkId, u32, u32),
        progress: &(dyn Fn() + Sync),
    ) -> Result<Bytes, CallError> {
        within(READ, self.read_range(from, (id, offset, length), progress)).await
    }

    async fn read_range(
        &self,
        from: &Endpoint,
        (id, offset, length): (ChunkId, u32, u32),
        progress: &(dyn Fn() + Sync),
    ) -> Result<Bytes, CallError> {
        let mut answer = self.ask(from, &DataRequest::Read { id, offset, length }).await?;
        let DataReply::Data { offset: start, length: size, block_crcs } = &answer.reply else {
            return Err(Away::Unfit.into());
        };
        let (start, size, crcs) = (*start, *size, block_crcs.clone());
        progress();
        check_range((offset, length), (start, size), crcs.len()).map_err(CallError::Corrupt)?;
        let bytes = answer.receive(size as usize, progress).await?;
        if let Some(block) = first_bad_block(&bytes, &crcs) {
            let at = u64::from(start) + block as u64 * BLOCK_SIZE;
            return Err(CallError::Corrupt(format!("the block at {at} does not match its checksum")));
        }
        let skip = (offset - start) as usize;
        Ok(bytes.slice(skip..skip + length as usize))
    }

    /// Waits until chunks are on the node's disks; at most [`IDS_MAX`] of them.
    ///
    /// # Errors
    /// `Missing` when the node lacks one of them, otherwise see [`CallError`].
    pub async fn sync(&self, to: &Endpoint, ids: Vec<ChunkId>) -> Result<(), CallError> {
        self.done(to, DataRequest::Sync { ids }, SYNC).await
    }

    /// A page of what the node has of a group, after `after`. The page is checked: ascending ids of this group, each with
    /// a length that a chunk may have, and not empty unless it is the last one.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list(&self, to: &Endpoint, pg: PgId, after: Option<ChunkId>) -> Result<Page, CallError> {
        let request = DataRequest::List { pg, after, limit: IDS_MAX as u32 };
        match within(SHORT, self.ask(to, &request)).await?.reply {
            DataReply::Ids { ids, end } => {
                let page = Page { ids, end };
                if page.fits(pg, after) { Ok(page) } else { Err(Away::Unfit.into()) }
            }
            _ => Err(Away::Unfit.into()),
        }
    }

    /// Deletes chunks, in as many requests as it takes.
    ///
    /// # Errors
    /// See [`CallError`]; some of the chunks may be deleted nevertheless.
    pub async fn delete(&self, to: &Endpoint, ids: &[ChunkId]) -> Result<(), CallError> {
        for ids in ids.chunks(IDS_MAX) {
            self.done(to, DataRequest::Delete { ids: ids.to_vec() }, SHORT).await?;
        }
        Ok(())
    }

    /// Has the node read and check at most 64 chunks; gives the bad ones with the reason.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn verify(
        &self,
        to: &Endpoint,
        ids: Vec<ChunkId>,
    ) -> Result<Vec<(ChunkId, String)>, CallError> {
        match within(SHORT, self.ask(to, &DataRequest::Verify { ids })).await?.reply {
            DataReply::Verified { bad } => Ok(bad),
            _ => Err(Away::Unfit.into()),
        }
    }

    /// Has the node pull what it lacks of a group, at an epoch, from a source.
    ///
    /// # Errors
    /// See [`CallError`]; the node may go on pulling.
    pub async fn sync_group(
        &self,
        to: &Endpoint,
        (pg, epoch): (PgId, Epoch),
        source: NodeId,
    ) -> Result<Pulled, CallError> {
        let request = DataRequest::SyncGroup { pg, epoch, source };
        match within(PULL_GROUP, self.ask(to, &request)).await?.reply {
            DataReply::Synced { pulled, failed } => Ok(Pulled { pulled, failed }),
            _ => Err(Away::Unfit.into()),
        }
    }

    /// What the node has of a group, in sums.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn digest(&self, to: &Endpoint, pg: PgId) -> Result<GroupDigest, CallError> {
        match within(SHORT, self.ask(to, &DataRequest::Digest { pg })).await?.reply {
            DataReply::Digest(digest) => Ok(digest),
            _ => Err(Away::Unfit.into()),
        }
    }

    async fn done(&self, to: &Endpoint, request: DataRequest, limit: Duration) -> Result<(), CallError> {
        match within(limit, self.ask(to, &request)).await?.reply {
            DataReply::Done => Ok(()),
            _ => Err(Away::Unfit.into()),
        }
    }

    async fn ask(&self, to: &Endpoint, request: &DataRequest) -> Result<Answer, CallError> {
        exchange(&self.pool, to, request, &Bytes::new()).await
    }
}

impl Page {
    fn fits(&self, pg: PgId, after: Option<ChunkId>) -> bool {
        let ascending = self.ids.is_sorted_by(|(a, _), (b, _)| a < b);
        let wanted = |id: ChunkId| id.pg() == pg && after.is_none_or(|after| id > after);
        let possible = |length: u32| (1..=CHUNK_SIZE).contains(&u64::from(length));
        ascending
            && self.ids.iter().all(|(id, length)| wanted(*id) && possible(*length))
            && (self.end || !self.ids.is_empty())
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Away::Late(limit).into()),
    }
}

/// The range that is offered must be whole blocks, and hold the range that is wanted.
fn check_range((offset, length): (u32, u32), (start, size): (u32, u32), crcs: usize) -> Result<(), String> {
    let (end, offered) = (u64::from(offset) + u64::from(length), u64::from(start) + u64::from(size));
    let aligned = u64::from(start).is_multiple_of(BLOCK_SIZE);
    let complete = start <= offset && end <= offered && offered <= CHUNK_SIZE;
    if aligned && complete && u64::from(size).div_ceil(BLOCK_SIZE) == crcs as u64 {
        return Ok(());
    }
    Err(format!("{size} bytes from {start} with {crcs} checksums came for {length} bytes from {offset}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u32 = BLOCK_SIZE as u32;

    #[test]
    fn only_whole_blocks_with_the_wanted_range_are_taken() {
        assert!(check_range((5, 10), (0, BLOCK), 1).is_ok());
        assert!(check_range((BLOCK, 10), (BLOCK, 10), 1).is_ok());
        for (start, size, crcs) in [(1, BLOCK, 1), (0, BLOCK, 2), (0, 14, 1), (BLOCK, BLOCK, 1), (0, 0, 0)] {
            assert!(check_range((5, 10), (start, size), crcs).is_err(), "{start} {size} {crcs}");
        }
        assert!(check_range((0, 1), (0, CHUNK_SIZE as u32 + 1), 33).is_err());
    }

    #[test]
    fn a_page_that_does_not_fit_is_not_taken() {
        let id = |pg, sequence| ChunkId::new(PgId(pg), sequence);
        let fits =
            |ids: &[(ChunkId, u32)], end| Page { ids: ids.to_vec(), end }.fits(PgId(1), Some(id(1, 2)));
        assert!(fits(&[], true) && fits(&[(id(1, 3), 1), (id(1, 4), 9)], false));
        assert!(!fits(&[], false), "an empty page that is not the last");
        assert!(!fits(&[(id(1, 4), 1), (id(1, 3), 1)], true), "not ascending");
        assert!(!fits(&[(id(1, 2), 1)], true), "before the page");
        assert!(!fits(&[(id(2, 3), 1)], true), "another group");
        assert!(!fits(&[(id(1, 3), 0)], true) && !fits(&[(id(1, 3), CHUNK_SIZE as u32 + 1)], true));
    }

    proptest! {
        #[test]
        fn no_range_panics(wanted: (u32, u32), offered: (u32, u32), crcs in 0usize..64) {
            let _ = check_range(wanted, offered, crcs);
        }
    }
}
