//! Asking a node, byte by byte if need be.

use bytes::{Bytes, BytesMut};
use quarry_common::checksum::{block_crcs, sha256};
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::cluster::GroupDigest;
use quarry_common::wire::data::{DataReply, DataRequest, DataResponse, Endpoint, WriteChunk};
use quarry_net::frame;
use quarry_net::identity::Role;
use quarry_net::transport::{Connection, Expect, Stream, Transport, TransportError};
use std::sync::Arc;

/// A connection to a node.
pub(crate) struct Asker(Arc<dyn Connection>);

impl Asker {
    pub(crate) async fn connect(transport: &dyn Transport, node: &Endpoint) -> Self {
        let expect = Expect { role: Role::DataNode, id: Some(node.node.to_string()) };
        Self(transport.connect(&node.address, &expect).await.unwrap())
    }

    pub(crate) async fn open(&self) -> Stream {
        self.0.open().await.unwrap()
    }

    /// Sends a request with bytes after it, and gives the answer with the bytes after that.
    pub(crate) async fn exchange(&self, request: &DataRequest, data: Bytes) -> (DataResponse, Bytes) {
        let Stream { mut send, mut recv } = self.open().await;
        frame::write_frame(send.as_mut(), request).await.unwrap();
        if !data.is_empty() {
            // A node that refuses stops reading.
            let _ = send.write(data).await;
        }
        let _ = send.finish();
        let response = frame::read_frame(recv.as_mut()).await.unwrap();
        let mut rest = BytesMut::new();
        while let Some(piece) = recv.read(1 << 20).await.unwrap() {
            rest.extend_from_slice(&piece);
        }
        (response, rest.freeze())
    }

    pub(crate) async fn ask(&self, request: DataRequest) -> DataResponse {
        self.exchange(&request, Bytes::new()).await.0
    }

    pub(crate) async fn write(&self, header: WriteChunk, data: Bytes) -> DataResponse {
        self.exchange(&DataRequest::Write(header), data).await.0
    }

    /// Writes the chunk that [`data`] makes of an id.
    pub(crate) async fn put(
        &self,
        id: ChunkId,
        length: usize,
        durable: bool,
        chain: &[Endpoint],
    ) -> DataResponse {
        let data = data(id, length);
        self.write(
            WriteChunk {
                durable,
                chain: chain.iter().map(|member| member.node).collect(),
                ..chunk(id, &data)
            },
            data,
        )
        .await
    }

    pub(crate) async fn read(&self, id: ChunkId, offset: u32, length: u32) -> (DataResponse, Bytes) {
        self.exchange(&DataRequest::Read { id, offset, length }, Bytes::new()).await
    }

    pub(crate) async fn digest(&self, pg: PgId) -> GroupDigest {
        match self.ask(DataRequest::Digest { pg }).await {
            Ok(DataReply::Digest(digest)) => digest,
            other => panic!("{other:?}"),
        }
    }

    /// Sends the beginning of a chunk and then breaks off.
    pub(crate) async fn break_off(&self, header: WriteChunk, beginning: Bytes) -> Result<(), TransportError> {
        let Stream { mut send, recv: _recv } = self.open().await;
        frame::write_frame(send.as_mut(), &DataRequest::Write(header)).await?;
        send.write(beginning).await
    }
}

/// Content that differs from chunk to chunk.
pub(crate) fn data(id: ChunkId, length: usize) -> Bytes {
    (0..length).map(|i| (GroupDigest::mix(ChunkId(id.0 ^ (i as u64 / 8))) >> (i % 8 * 8)) as u8).collect()
}

/// The request to write it, to one node.
pub(crate) fn chunk(id: ChunkId, data: &[u8]) -> WriteChunk {
    WriteChunk {
        id,
        length: data.len() as u32,
        sha256: sha256(data),
        block_crcs: block_crcs(data),
        durable: true,
        chain: Vec::new(),
    }
}

/// Ids of group 1.
pub(crate) fn ids(sequences: impl IntoIterator<Item = u64>) -> Vec<ChunkId> {
    sequences.into_iter().map(|s| ChunkId::new(PgId(1), s)).collect()
}
