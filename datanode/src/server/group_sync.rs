//! Catching up with a placement group: pulling what another member has and we lack.
//!
//! The work is set reconciliation, so it can be broken off and begun again at any time: what was pulled is in the index
//! and not pulled again.

use super::Server;
use crate::store::Trailer;
use futures::StreamExt;
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::{ChunkId, Epoch, NodeId, PgId};
use quarry_common::wire::data::{DataReply, DataResponse, Endpoint};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_datanode_client::{CallError, Page};
use quarry_host::metrics::table::DATANODE_PULLED;
use quarry_host::task;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Chunks that are pulled at the same time for one group: enough to keep a connection busy.
const PULLS_PARALLEL: usize = 6;
/// Chunks that an answer names as failed; a sync with more of them is far from its end anyway.
const FAILED_MAX: usize = 1000;
/// The outcome of a sync, once it is there.
type Outcome = watch::Receiver<Option<DataResponse>>;

/// The syncs that are running, by group and epoch.
#[derive(Default)]
pub(super) struct GroupSyncs(Mutex<HashMap<(PgId, Epoch), Outcome>>);

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
        run: (PgId, Epoch),
        source: NodeId,
    ) -> Result<DataReply, ServiceError> {
        let mut outcome = self.join_or_begin(run, source);
        let over = outcome.wait_for(Option::is_some).await;
        match over.ok().and_then(|outcome| outcome.clone()) {
            Some(response) => response,
            None => Err(ServiceError::Unavailable("the sync was broken off".into())),
        }
    }

    fn join_or_begin(
        self: &Arc<Self>,
        run: (PgId, Epoch),
        source: NodeId,
    ) -> watch::Receiver<Option<DataResponse>> {
        let mut running = self.group_syncs.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = running.get(&run) {
            return outcome.clone();
        }
        let (done, outcome) = watch::channel(None);
        running.insert(run, outcome.clone());
        let server = self.clone();
        task::spawn(self.tasks.track_future(async move {
            let response = tokio::select! {
                response = server.pull_group(run.0, source) => response,
                () = server.shutdown.cancelled() => Err(ServiceError::Unavailable("shutting down".into())),
            };
            server.group_syncs.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
            done.send_replace(Some(response));
        }));
        outcome
    }

    async fn pull_group(&self, pg: PgId, source: NodeId) -> DataResponse {
        let Some(source) = &self.namenode.endpoint(source).await else {
            return Err(ServiceError::Unavailable(format!("the NameNode does not know DataNode {source}")));
        };
        let mut progress = Progress::default();
        let mut after = None;
        loop {
            let Page { ids, end } = self.datanodes.list(source, pg, after).await.map_err(away(source))?;
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

    /// Pulls chunks, and makes them durable before it returns.
    async fn pull(
        &self,
        source: &Endpoint,
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
                    DATANODE_PULLED.add(&["error"], 1);
                    progress.failed.push((id, reason));
                    if progress.failed.len() >= FAILED_MAX {
                        return Err(ServiceError::Unavailable(format!(
                            "{FAILED_MAX} chunks could not be pulled"
                        )));
                    }
                }
            }
        }
        DATANODE_PULLED.add(&["ok"], here.len() as u64);
        progress.pulled += here.len() as u64;
        let here: Vec<ChunkId> = here.into_iter().filter(|id| self.store.has(*id)).collect();
        self.on_disk(move |store| store.sync(&here)).await?;
        Ok(())
    }

    /// Whether the chunk is here now; not, when the source does not have it any more.
    async fn pull_one(
        &self,
        source: &Endpoint,
        id: ChunkId,
        length: u32,
        known: Option<ChunkInfo>,
    ) -> Result<bool, String> {
        if known.is_some_and(|info| info.length != length) {
            return Err(format!("the source says it has {length} bytes, the NameNode says otherwise"));
        }
        let data = match self.datanodes.read(source, (id, 0, length), &|| ()).await {
            Ok(data) => data,
            // Deleted since it was listed.
            Err(CallError::Missing) => return Ok(false),
            Err(e) => return Err(e.to_string()),
        };
        self.on_disk(move |store| {
            let trailer = checked(id, &data, known)?;
            store.put(&trailer, &[data], false).map_err(|e| e.to_string())
        })
        .await?;
        Ok(true)
    }
}

fn away(source: &Endpoint) -> impl Fn(CallError) -> ServiceError {
    let node = source.node;
    move |e| ServiceError::Unavailable(format!("DataNode {node}: {e}"))
}

/// The trailer of a chunk that was pulled, if the data is what the NameNode knows. Of a chunk that is not committed the
/// NameNode knows nothing yet; its CRCs were checked when it arrived.
fn checked(id: ChunkId, data: &[u8], known: Option<ChunkInfo>) -> Result<Trailer, String> {
    let sha256 = sha256(data);
    if known.is_some_and(|info| info.sha256 != sha256) {
        return Err("its SHA-256 at the source is not the one that the NameNode knows".to_owned());
    }
    Ok(Trailer { id, length: data.len() as u32, sha256, block_crcs: block_crcs(data) })
}
