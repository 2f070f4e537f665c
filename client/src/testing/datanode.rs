//! A DataNode that keeps its chunks in memory, and can be in a bad mood.

use super::Server;
use bytes::{Bytes, BytesMut};
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::limits::BLOCK_SIZE;
use quarry_common::wire::data::{DataReply, DataRequest, DataResponse, WriteChunk};
use quarry_common::wire::error::ServiceError;
use quarry_net::frame;
use quarry_net::transport::{Connection, Stream, Transport, TransportError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// How it behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Good,
    /// Says that it cannot.
    Refusing,
    /// Says nothing.
    Silent,
    /// Gives wrong bytes.
    Lying,
    /// Is reached by other nodes only.
    CutOff,
}

pub(crate) struct FakeDataNode {
    pub(crate) id: NodeId,
    server: OnceLock<Arc<Server>>,
    others: Mutex<Vec<Weak<FakeDataNode>>>,
    mood: Mutex<Mood>,
    pub(crate) chunks: Mutex<HashMap<ChunkId, Bytes>>,
    /// Chunks on disk.
    pub(crate) synced: Mutex<Vec<ChunkId>>,
    /// Reads that were asked for.
    pub(crate) reads: Mutex<usize>,
}

impl FakeDataNode {
    pub(crate) async fn start(id: NodeId, transport: Arc<dyn Transport>) -> Arc<Self> {
        let node = Arc::new(Self {
            id,
            server: OnceLock::new(),
            others: Mutex::default(),
            mood: Mutex::default(),
            chunks: Mutex::default(),
            synced: Mutex::default(),
            reads: Mutex::default(),
        });
        let weak = Arc::downgrade(&node);
        let server = Server::start(transport, move |connection| {
            let node = weak.clone();
            async move {
                while let Ok(stream) = connection.accept().await {
                    let Some(node) = node.upgrade() else { return };
                    let connection: Arc<dyn Connection> = connection.clone();
                    tokio::spawn(async move {
                        let _ = node.serve(stream).await;
                        drop(connection);
                    });
                }
            }
        });
        assert!(node.server.set(server.await).is_ok());
        node
    }

    pub(crate) fn know(&self, others: &[Arc<Self>]) {
        *self.others.lock().unwrap() = others.iter().map(Arc::downgrade).collect();
    }

    fn server(&self) -> &Arc<Server> {
        self.server.get().unwrap()
    }

    pub(crate) fn address(&self) -> String {
        self.server().address.to_string()
    }

    pub(crate) fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    pub(crate) async fn stop(&self) {
        self.be(Mood::Refusing);
        self.server().stop().await;
    }

    pub(crate) fn has(&self, id: ChunkId) -> bool {
        self.chunks.lock().unwrap().contains_key(&id)
    }

    async fn serve(&self, mut stream: Stream) -> Result<(), TransportError> {
        let request: DataRequest = frame::read_frame(stream.recv.as_mut()).await?;
        if let DataRequest::Read { .. } = request {
            *self.reads.lock().unwrap() += 1;
        }
        match self.mood() {
            Mood::Silent => std::future::pending().await,
            Mood::Refusing => {
                let no: DataResponse = Err(ServiceError::Unavailable("not today".into()));
                frame::write_frame(stream.send.as_mut(), &no).await?;
                return stream.send.finish();
            }
            Mood::CutOff => return Err(TransportError::Reset),
            Mood::Good | Mood::Lying => {}
        }
        let (response, data) = match request {
            DataRequest::Write(header) => (self.write(&mut stream, header).await?, None),
            DataRequest::Read { id, offset, length } => self.read(id, offset, length),
            DataRequest::Sync { ids } if ids.iter().all(|id| self.has(*id)) => {
                self.synced.lock().unwrap().extend(ids);
                (Ok(DataReply::Done), None)
            }
            _ => (Err(ServiceError::ChunkNotFound), None),
        };
        frame::write_frame(stream.send.as_mut(), &response).await?;
        if let Some(data) = data {
            stream.send.write(data).await?;
        }
        stream.send.finish()
    }

    async fn write(&self, stream: &mut Stream, header: WriteChunk) -> Result<DataResponse, TransportError> {
        let mut data = BytesMut::zeroed(header.length as usize);
        stream.recv.read_exact(&mut data).await?;
        let data = data.freeze();
        assert_eq!((sha256(&data), block_crcs(&data)), (header.sha256, header.block_crcs.clone()));
        let (mut holders, mut failed) = (Vec::new(), Vec::new());
        let others: Vec<_> = self.others.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        let chain = header.chain.iter().map(|hop| others.iter().find(|n| n.id == *hop).unwrap());
        for node in std::iter::once(self).chain(chain.map(|n| &**n)) {
            match node.mood() {
                Mood::Silent => std::future::pending().await,
                Mood::Refusing => failed.push((node.id, "not today".to_owned())),
                Mood::Good | Mood::Lying | Mood::CutOff => {
                    node.chunks.lock().unwrap().insert(header.id, data.clone());
                    if header.durable {
                        node.synced.lock().unwrap().push(header.id);
                    }
                    holders.push(node.id);
                }
            }
        }
        Ok(Ok(DataReply::Written { holders, failed }))
    }

    fn read(&self, id: ChunkId, offset: u32, length: u32) -> (DataResponse, Option<Bytes>) {
        let Some(data) = self.chunks.lock().unwrap().get(&id).cloned() else {
            return (Err(ServiceError::ChunkNotFound), None);
        };
        let block = BLOCK_SIZE as u32;
        let start = offset / block * block;
        let end = (offset + length).div_ceil(block) * block;
        let part = data.slice(start as usize..(end as usize).min(data.len()));
        let reply =
            DataReply::Data { offset: start, length: part.len() as u32, block_crcs: block_crcs(&part) };
        if self.mood() == Mood::Lying {
            let mut wrong = part.to_vec();
            wrong[0] ^= 1;
            return (Ok(reply), Some(wrong.into()));
        }
        (Ok(reply), Some(part))
    }
}
