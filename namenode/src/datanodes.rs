//! Asking DataNodes: a connection to each that is needed, a stream for each request.

use crate::owner::Target;
use quarry_common::ids::{ChunkId, NodeId, PgId};
use quarry_common::wire::data::{DataReply, DataRequest, DataResponse, IDS_MAX};
use quarry_common::wire::error::ServiceError;
use quarry_net::frame;
use quarry_net::identity::Role;
use quarry_net::transport::{Connection, Expect, Transport, TransportError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What takes a DataNode a look at its memory, or some file operations.
const SHORT: Duration = Duration::from_secs(30);
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Why a DataNode did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It could not be asked, or its answer did not come.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It took too long.
    #[error("no answer in time")]
    Deadline,
    /// It refused.
    #[error(transparent)]
    Refused(#[from] ServiceError),
    /// Its answer does not fit the question.
    #[error("an answer to something else")]
    Unfit,
}

/// To each node: where it was then, and the connection.
type Connections = BTreeMap<NodeId, (String, Arc<dyn Connection>)>;

/// Connections to DataNodes, at most one to each.
pub(crate) struct DataNodes {
    transport: Arc<dyn Transport>,
    connections: Mutex<Connections>,
}

/// A page of a node's list.
pub(crate) struct Page {
    /// Ascending.
    pub(crate) ids: Vec<ChunkId>,
    /// There are no more after these.
    pub(crate) end: bool,
}

impl DataNodes {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, connections: Mutex::new(BTreeMap::new()) }
    }

    /// Ids of a group after `after`.
    pub(crate) async fn list(
        &self,
        target: &Target,
        pg: PgId,
        after: Option<ChunkId>,
    ) -> Result<Page, CallError> {
        let request = DataRequest::List { pg, after, limit: IDS_MAX as u32 };
        match self.call(target, &request, SHORT).await? {
            DataReply::Ids { ids, end } => {
                let ids: Vec<ChunkId> = ids.into_iter().map(|(id, _)| id).collect();
                let fits = |id: &ChunkId| id.pg() == pg && after.is_none_or(|after| *id > after);
                if !ids.is_sorted() || !ids.iter().all(fits) || (ids.is_empty() && !end) {
                    return Err(CallError::Unfit);
                }
                Ok(Page { ids, end })
            }
            _ => Err(CallError::Unfit),
        }
    }

    /// Deletes chunks, in as many requests as it takes.
    pub(crate) async fn delete(&self, target: &Target, ids: &[ChunkId]) -> Result<(), CallError> {
        for ids in ids.chunks(IDS_MAX) {
            let request = DataRequest::Delete { ids: ids.to_vec() };
            match self.call(target, &request, SHORT).await? {
                DataReply::Done => {}
                _ => return Err(CallError::Unfit),
            }
        }
        Ok(())
    }

    /// Reads and checks at most 64 chunks; gives the bad ones.
    pub(crate) async fn verify(
        &self,
        target: &Target,
        ids: Vec<ChunkId>,
    ) -> Result<Vec<(ChunkId, String)>, CallError> {
        match self.call(target, &DataRequest::Verify { ids }, SHORT).await? {
            DataReply::Verified { bad } => Ok(bad),
            _ => Err(CallError::Unfit),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn call(
        &self,
        target: &Target,
        request: &DataRequest,
        deadline: Duration,
    ) -> Result<DataReply, CallError> {
        let connection = match tokio::time::timeout(CONNECT, self.connection(target)).await {
            Ok(connection) => connection?,
            Err(_) => return Err(CallError::Deadline),
        };
        match tokio::time::timeout(deadline, ask(&connection, request)).await {
            Ok(Ok(response)) => Ok(response?),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(CallError::Deadline),
        }
    }

    async fn connection(&self, target: &Target) -> Result<Arc<dyn Connection>, TransportError> {
        if let Some((address, connection)) = self.lock().get(&target.node)
            && *address == target.address
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        let expect = Expect { role: Role::DataNode, id: Some(target.node.to_string()) };
        let connection = self.transport.connect(&target.address, &expect).await?;
        self.lock().insert(target.node, (target.address.clone(), connection.clone()));
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    connection: &Arc<dyn Connection>,
    request: &DataRequest,
) -> Result<DataResponse, TransportError> {
    let mut stream = connection.open().await?;
    frame::write_frame(stream.send.as_mut(), request).await?;
    stream.send.finish()?;
    frame::read_frame(stream.recv.as_mut()).await
}
