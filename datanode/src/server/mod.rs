//! Answers requests for chunks: a stream for each.

mod chain;
mod group_sync;
mod observe;
mod reads;
mod write;

#[cfg(test)]
mod tests;

use crate::blocking::Blocking;
use crate::namenode_client::NameNodeClient;
use crate::store::{Store, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use group_sync::GroupSyncs;
use observe::Observed;
pub(crate) use observe::in_progress;
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::wire::data::{DataReply, DataRequest, DataResponse, IDS_MAX};
use quarry_common::wire::error::ServiceError;
use quarry_datanode_client::DataNodeClient;
use quarry_host::metrics::table as metrics;
use quarry_host::task;
use quarry_host::trace::Scope;
use quarry_net::frame;
use quarry_net::identity::{Identity, Role};
use quarry_net::transport::{Connection, Listener, RecvStream, SendStream, Stream, TransportError};
use reads::{Following, Reads};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once: each costs some memory even when it is idle.
const CONNECTIONS_MAX: usize = 4096;
/// The request itself must arrive in this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer must be taken in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits for its turn before it is told that we have too much to do.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Chunks that are verified at the same time for one request: hashing takes a core.
const VERIFY_PARALLEL: usize = 2;
/// Chunks in one request to verify.
const VERIFY_MAX: usize = 64;

/// Everything that requests need.
pub(crate) struct Server {
    node: NodeId,
    store: Arc<Store>,
    blocking: Blocking,
    datanodes: DataNodeClient,
    namenode: Arc<NameNodeClient>,
    group_syncs: GroupSyncs,
    write_turns: write::Turns,
    reads: Reads,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Server {
    pub(crate) fn new(
        node: NodeId,
        store: Arc<Store>,
        blocking: Blocking,
        datanodes: DataNodeClient,
        namenode: Arc<NameNodeClient>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            store,
            blocking,
            datanodes,
            namenode,
            group_syncs: GroupSyncs::default(),
            write_turns: write::Turns::default(),
            reads: Reads::default(),
            tasks: TaskTracker::new(),
            shutdown,
        })
    }

    /// Takes connections until the shutdown.
    pub(crate) async fn serve(self: &Arc<Self>, listener: &dyn Listener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let connection = tokio::select! {
                connection = listener.accept() => connection,
                () = self.shutdown.cancelled() => return,
            };
            let Some(connection) = connection else { return };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                tracing::warn!(peer = %connection.peer(), "refused: {CONNECTIONS_MAX} connections are open");
                connection.close("this DataNode has too many connections");
                continue;
            };
            let (server, open) = (self.clone(), room.clone());
            task::spawn(async move {
                metrics::DATANODE_CONNECTIONS.set(&[], (CONNECTIONS_MAX - open.available_permits()) as f64);
                server.serve_connection(connection).await;
                drop(permit);
                metrics::DATANODE_CONNECTIONS.set(&[], (CONNECTIONS_MAX - open.available_permits()) as f64);
            });
        }
    }

    /// Waits for the requests that are being carried out.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!("giving up requests that take too long");
        }
    }

    async fn serve_connection(self: Arc<Self>, connection: Arc<dyn Connection>) {
        loop {
            let stream = tokio::select! {
                stream = connection.accept() => stream,
                () = self.shutdown.cancelled() => return,
            };
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(peer = %connection.peer(), %error, "a connection ended");
                    return;
                }
            };
            let (server, connection) = (self.clone(), connection.clone());
            task::spawn(self.tasks.track_future(async move {
                if let Err(error) = server.serve_stream(connection.peer(), stream).await {
                    tracing::debug!(peer = %connection.peer(), %error, "a request was not answered");
                }
            }));
        }
    }

    async fn serve_stream(
        self: &Arc<Self>,
        peer: &Identity,
        mut stream: Stream,
    ) -> Result<(), TransportError> {
        let body = timeout(REQUEST_TIMEOUT, frame::read_body(stream.recv.as_mut())).await;
        let body = body.map_err(|_| TransportError::EndOfStream)??;
        let (request, operation) = frame::decode_with_operation::<DataRequest>(&body)?;
        let observed = Observed::new(peer, &request, operation);
        // What is asked of other DataNodes meanwhile is asked for the same operation.
        let answer = Scope::new(operation, Box::pin(self.answer(peer, request, stream.recv.as_mut())));
        let (response, following) = match answer.await {
            Ok((reply, following)) => (Ok(reply), following),
            Err(error) => (Err(error), Following::default()),
        };
        // Tells a peer that is still sending to stop: it has its answer.
        drop(stream.recv);
        let Following { data, turn } = following;
        metrics::DATANODE_BYTES.add(&["read"], data.len() as u64);
        let sent = timeout(ANSWER_TIMEOUT, send(stream.send.as_mut(), &response, data)).await;
        observed.answered(&response);
        // The turn ends with the memory of the data, and not before.
        drop(turn);
        sent.map_err(|_| TransportError::Lost("the answer was not taken in time".into()))?
    }

    /// The answer to a request, and the bytes that follow it.
    async fn answer(
        self: &Arc<Self>,
        peer: &Identity,
        request: DataRequest,
        recv: &mut dyn RecvStream,
    ) -> Result<(DataReply, Following), ServiceError> {
        authorise(peer, &request)?;
        let reply = match request {
            DataRequest::Write(header) => self.write(header, recv).await?,
            DataRequest::Read { id, offset, length } => return self.read(peer, id, offset, length).await,
            DataRequest::Sync { ids } => {
                limit_ids(&ids, IDS_MAX)?;
                self.on_disk(move |store| store.sync(&ids)).await?;
                DataReply::Done
            }
            DataRequest::List { pg, after, limit } => {
                let limit = (limit as usize).clamp(1, IDS_MAX);
                let (ids, end) = self.store.list(pg, after, limit);
                DataReply::Ids { ids, end }
            }
            DataRequest::Delete { ids } => {
                limit_ids(&ids, IDS_MAX)?;
                self.on_disk(move |store| store.delete(&ids)).await;
                DataReply::Done
            }
            DataRequest::Verify { ids } => {
                limit_ids(&ids, VERIFY_MAX)?;
                DataReply::Verified { bad: self.verify(ids).await }
            }
            DataRequest::SyncGroup { pg, epoch, source } => self.sync_group((pg, epoch), source).await?,
            DataRequest::Digest { pg } => DataReply::Digest(self.store.digest(pg)),
        };
        Ok((reply, Following::default()))
    }

    async fn read(
        &self,
        peer: &Identity,
        id: ChunkId,
        offset: u32,
        length: u32,
    ) -> Result<(DataReply, Following), ServiceError> {
        let turn = self.reads.turn(peer).await?;
        let range = self.on_disk(move |store| store.read(id, offset, length)).await?;
        if range.data.is_empty() {
            return Err(ServiceError::BadRequest(format!("chunk {id} ends before {offset}")));
        }
        let (offset, length) = (range.offset, range.data.len() as u32);
        let following = Following { data: range.data, turn: Some(turn) };
        Ok((DataReply::Data { offset, length, block_crcs: range.block_crcs }, following))
    }

    async fn verify(&self, ids: Vec<ChunkId>) -> Vec<(ChunkId, String)> {
        let checks = ids.into_iter().map(|id| async move {
            match self.on_disk(move |store| store.verify(id)).await {
                Ok(_) => None,
                Err(StoreError::NotFound(_)) => Some((id, "missing".to_owned())),
                Err(e) => Some((id, e.to_string())),
            }
        });
        futures::stream::iter(checks).buffered(VERIFY_PARALLEL).filter_map(std::future::ready).collect().await
    }

    /// Work with the store, on a thread that may wait.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce(&Store) -> T + Send + 'static) -> T {
        let store = self.store.clone();
        self.blocking.run(move || work(&store)).await
    }
}

async fn send(send: &mut dyn SendStream, response: &DataResponse, data: Bytes) -> Result<(), TransportError> {
    frame::write_frame(send, response).await?;
    if !data.is_empty() {
        send.write(data).await?;
    }
    send.finish()
}

/// A permit, or the news that there is too much to do.
async fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ServiceError> {
    match timeout(TURN_TIMEOUT, turns.clone().acquire_owned()).await {
        Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
        Err(_) => Err(ServiceError::Unavailable("this DataNode has too much to do".into())),
    }
}

fn limit_ids(ids: &[ChunkId], limit: usize) -> Result<(), ServiceError> {
    if ids.len() > limit {
        return Err(ServiceError::BadRequest(format!(
            "{} chunks in one request, at most {limit} are allowed",
            ids.len()
        )));
    }
    Ok(())
}

/// Who may ask for what.
fn authorise(peer: &Identity, request: &DataRequest) -> Result<(), ServiceError> {
    let role = peer.role;
    if peer.rights.read_only && matches!(request, DataRequest::Write(_)) {
        return Err(ServiceError::Unauthorised("this certificate may only read".into()));
    }
    let user = matches!(role, Role::Client | Role::Gateway);
    let (what, allowed) = match request {
        DataRequest::Write(_) => ("write chunks", user || role == Role::DataNode),
        DataRequest::Read { .. } => ("read chunks", user || role == Role::DataNode),
        DataRequest::Sync { .. } => ("sync chunks", user),
        DataRequest::List { .. } => ("list chunks", matches!(role, Role::NameNode | Role::DataNode)),
        DataRequest::Delete { .. } => ("delete chunks", role == Role::NameNode),
        DataRequest::Verify { .. } => ("verify chunks", role == Role::NameNode),
        DataRequest::SyncGroup { .. } => ("sync a placement group", role == Role::NameNode),
        DataRequest::Digest { .. } => ("ask for a digest", role == Role::NameNode),
    };
    if allowed { Ok(()) } else { Err(ServiceError::Unauthorised(format!("a {role} may not {what}"))) }
}
