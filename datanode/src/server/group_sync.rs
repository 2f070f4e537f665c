//! Catching up with a placement group: pulling what another member has and we lack.
//!
//! The work is set reconciliation, so it can be broken off and begun again at any time: what was pulled is in the index
//! and not pulled again.

use super::Server;
use crate::store::{Trailer, blocks, length_fits};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use quarry_common::checksum::{crc32c, sha256};
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::limits::{BLOCK_SIZE, CHUNK_SIZE};
use quarry_common::wire::data::{ChainHop, DataReply, DataRequest, DataResponse, IDS_MAX};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_net::frame;
use quarry_net::transport::{Connection, Stream, TransportError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Chunks that are pulled at the same time for one group: enough to keep a connection busy.
const PULLS_PARALLEL: usize = 6;
/// One chunk, or one page of the list, must come in this time.
const PULL_TIMEOUT: Duration = Duration::from_secs(15);
/// Attempts for each chunk: the second one over a new connection, if the first one broke.
const ATTEMPTS: usize = 2;
/// Chunks that an answer names as failed; a sync with more of them is far from its end anyway.
const FAILED_MAX: usize = 1000;
/// What is taken from the stream at once.
const PIECE: usize = 256 << 10;

/// The syncs that are running, by group.
#[derive(Default)]
pub(super) struct GroupSyncs(Mutex<HashMap<PgId, watch::Receiver<Option<DataResponse>>>>);

/// How it went so far.
#[derive(Default)]
struct Progress {
    pulled: u64,
    failed: Vec<(ChunkId, String)>,
}

impl Server {
    /// See [`DataRequest::SyncGroup`]. The sync goes on when the asker goes away; a second request joins it.
    pub(super) async fn sync_group(
        self: &Arc<Self>,
        pg: PgId,
        source: ChainHop,
    ) -> Result<DataReply, ServiceError> {
        let mut outcome = self.join_or_begin(pg, source);
        let over = outcome.wait_for(Option::is_some).await;
        match over.ok().and_then(|outcome| outcome.clone()) {
            Some(response) => response,
            None => Err(ServiceError::Unavailable("the sync was broken off".into())),
        }
    }

    fn join_or_begin(self: &Arc<Self>, pg: PgId, source: ChainHop) -> watch::Receiver<Option<DataResponse>> {
        let mut running = self.group_syncs.0.lock().expect("no thread panics while it holds the lock");
        if let Some(outcome) = running.get(&pg) {
            return outcome.clone();
        }
        let (done, outcome) = watch::channel(None);
        running.insert(pg, outcome.clone());
        let server = self.clone();
        self.tasks.spawn(async move {
            let response = tokio::select! {
                response = server.pull_group(pg, &source) => response,
                () = server.shutdown.cancelled() => Err(ServiceError::Unavailable("shutting down".into())),
            };
            server.group_syncs.0.lock().expect("no thread panics while it holds the lock").remove(&pg);
            done.send_replace(Some(response));
        });
        outcome
    }

    async fn pull_group(&self, pg: PgId, source: &ChainHop) -> DataResponse {
        let mut progress = Progress::default();
        let mut after = None;
        loop {
            let (ids, end) = self.list_at(source, pg, after).await?;
            after = ids.last().map(|(id, _)| *id);
            let lacking: Vec<(ChunkId, u32)> =
                ids.into_iter().filter(|(id, _)| !self.store.has(*id)).collect();
            self.pull(source, lacking, &mut progress).await?;
            if end {
                break;
            }
        }
        tracing::info!(%pg, source = %source.node, pulled = progress.pulled, failed = progress.failed.len(), "synced a group");
        Ok(DataReply::Synced { pulled: progress.pulled, failed: progress.failed })
    }

    /// A page of what the source has.
    async fn list_at(
        &self,
        source: &ChainHop,
        pg: PgId,
        after: Option<ChunkId>,
    ) -> Result<(Vec<(ChunkId, u32)>, bool), ServiceError> {
        let request = DataRequest::List { pg, after, limit: IDS_MAX as u32 };
        let Some((DataReply::Ids { ids, end }, _)) =
            self.ask(source, &request).await.map_err(away(source))?
        else {
            return Err(unfit(source));
        };
        let fits = |id: &ChunkId| id.pg() == pg && after.is_none_or(|after| *id > after);
        let sorted = ids.is_sorted_by(|(a, _), (b, _)| a < b);
        if !sorted
            || !ids.iter().all(|(id, length)| fits(id) && length_fits(*length))
            || (ids.is_empty() && !end)
        {
            return Err(unfit(source));
        }
        Ok((ids, end))
    }

    /// Pulls chunks, and makes them durable before it returns.
    async fn pull(
        &self,
        source: &ChainHop,
        lacking: Vec<(ChunkId, u32)>,
        progress: &mut Progress,
    ) -> Result<(), ServiceError> {
        let ids: Vec<ChunkId> = lacking.iter().map(|(id, _)| *id).collect();
        let known = self.namenode.chunks(&ids).await?;
        let pulls = lacking.into_iter().map(|(id, length)| {
            let known = known.get(&id).copied();
            async move { (id, self.pull_one(source, id, length, known).await) }
        });
        let mut pulls = futures::stream::iter(pulls).buffer_unordered(PULLS_PARALLEL);
        let mut here = Vec::with_capacity(ids.len());
        while let Some((id, outcome)) = pulls.next().await {
            match outcome {
                Ok(true) => here.push(id),
                Ok(false) => {}
                Err(reason) => {
                    tracing::warn!(%id, source = %source.node, reason, "cannot pull a chunk");
                    progress.failed.push((id, reason));
                    if progress.failed.len() >= FAILED_MAX {
                        return Err(ServiceError::Unavailable(format!(
                            "{FAILED_MAX} chunks could not be pulled"
                        )));
                    }
                }
            }
        }
        progress.pulled += here.len() as u64;
        let here: Vec<ChunkId> = here.into_iter().filter(|id| self.store.has(*id)).collect();
        self.on_disk(move |store| store.sync(&here)).await?;
        Ok(())
    }

    /// Whether the chunk is here now; not, when the source does not have it any more.
    async fn pull_one(
        &self,
        source: &ChainHop,
        id: ChunkId,
        length: u32,
        known: Option<ChunkInfo>,
    ) -> Result<bool, String> {
        if known.is_some_and(|info| info.length != length) {
            return Err(format!("the source says it has {length} bytes, the NameNode says otherwise"));
        }
        let request = DataRequest::Read { id, offset: 0, length };
        let (block_crcs, data) = match self.ask(source, &request).await {
            Ok(Some((DataReply::Data { offset: 0, length: all, block_crcs }, data))) if all == length => {
                (block_crcs, data)
            }
            // Deleted since it was listed.
            Err(Failed::Refused(ServiceError::ChunkNotFound)) => return Ok(false),
            Err(e) => return Err(e.to_string()),
            Ok(_) => return Err("an answer to something else".to_owned()),
        };
        self.on_disk(move |store| {
            let trailer = checked(id, &data, block_crcs, known)?;
            store.put(&trailer, &[data], false).map_err(|e| e.to_string())
        })
        .await?;
        Ok(true)
    }

    /// Asks another node, and again if a connection broke that was not new.
    async fn ask(
        &self,
        node: &ChainHop,
        request: &DataRequest,
    ) -> Result<Option<(DataReply, Bytes)>, Failed> {
        let mut last = Failed::Transport(TransportError::EndOfStream);
        for _ in 0..ATTEMPTS {
            let found = self.peers.connect(node).await?;
            match timeout(PULL_TIMEOUT, converse(&found.connection, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failed::Transport(e))) => last = Failed::Transport(e),
                Ok(Err(refused)) => return Err(refused),
                Err(_) => return Err(Failed::Late),
            }
            if found.connection.is_closed() {
                self.peers.forget(node.node, &found.connection).await;
            }
        }
        Err(last)
    }
}

/// Why another node did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Refused(#[from] ServiceError),
    #[error("no answer in time")]
    Late,
}

fn away(source: &ChainHop) -> impl Fn(Failed) -> ServiceError {
    let node = source.node;
    move |e| ServiceError::Unavailable(format!("DataNode {node}: {e}"))
}

fn unfit(source: &ChainHop) -> ServiceError {
    ServiceError::Unavailable(format!("DataNode {}: an answer that does not fit", source.node))
}

/// The trailer of a chunk that was pulled, if the data is what the NameNode knows. Of a chunk that is not committed the
/// NameNode knows nothing yet; the CRCs say that it arrived as it was.
fn checked(
    id: ChunkId,
    data: &[u8],
    block_crcs: Vec<u32>,
    known: Option<ChunkInfo>,
) -> Result<Trailer, String> {
    let length = data.len() as u32;
    let good = block_crcs.len() == blocks(length)
        && data.chunks(BLOCK_SIZE as usize).zip(&block_crcs).all(|(block, crc)| crc32c(block) == *crc);
    if !good {
        return Err("it arrived with another checksum".to_owned());
    }
    let sha256 = sha256(data);
    if known.is_some_and(|info| info.sha256 != sha256) {
        return Err("its SHA-256 at the source is not the one that the NameNode knows".to_owned());
    }
    Ok(Trailer { id, length, sha256, block_crcs })
}

/// One request over one connection; `None` when the bytes that follow are too many.
async fn converse(
    connection: &Arc<dyn Connection>,
    request: &DataRequest,
) -> Result<Option<(DataReply, Bytes)>, Failed> {
    let Stream { mut send, mut recv } = connection.open().await?;
    frame::write_frame(send.as_mut(), request).await?;
    send.finish().map_err(Failed::Transport)?;
    let reply = frame::read_frame::<DataResponse>(recv.as_mut()).await??;
    let DataReply::Data { length, .. } = reply else { return Ok(Some((reply, Bytes::new()))) };
    if u64::from(length) > CHUNK_SIZE {
        return Ok(None);
    }
    let mut data = BytesMut::with_capacity(length as usize);
    while data.len() < length as usize {
        let piece =
            recv.read((length as usize - data.len()).min(PIECE)).await?.ok_or(TransportError::EndOfStream)?;
        data.extend_from_slice(&piece);
    }
    Ok(Some((reply, data.freeze())))
}
