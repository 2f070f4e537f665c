//! One request to a DataNode: a stream of its own.

use super::nodes::DataNode;
use bytes::{Bytes, BytesMut};
use quarry_common::checksum::crc32c;
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::limits::{BLOCK_SIZE, CHUNK_SIZE};
use quarry_common::wire::data::{DataReply, DataRequest, DataResponse, WriteChunk};
use quarry_common::wire::error::ServiceError;
use quarry_net::frame;
use quarry_net::transport::{RecvStream, Stream, TransportError};
use std::future::Future;
use std::time::Duration;

/// What is taken from the stream at once.
const PIECE: usize = 256 << 10;
/// A chain that takes longer is broken somewhere: 2 MiB at 1 Mbit/s and a slow disk are faster.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// One member may take this long. The others have long been asked by then.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// A disk may take this long for all chunks of one request.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a node did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It does not have the chunk.
    #[error("it does not have the chunk")]
    Missing,
    /// What it has, or what arrived, does not match its checksum.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// It cannot be reached, or is busy or broken.
    #[error("{0}")]
    Away(String),
    /// It will never do this.
    #[error("it refuses: {0}")]
    Refused(String),
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::Away(error.to_string())
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::ChunkNotFound => Self::Missing,
            ServiceError::Corrupt(what) => Self::Corrupt(what),
            ServiceError::BadRequest(_) | ServiceError::Unauthorised(_) => Self::Refused(error.to_string()),
            other => Self::Away(other.to_string()),
        }
    }
}

/// The deadline that every request has.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Away(format!("no answer in {} s", limit.as_secs()))),
    }
}

fn unexpected(reply: &DataReply) -> Failure {
    Failure::Away(format!("it answers with something else: {reply:?}"))
}

/// Sends a chunk. Tells who has it now, and who of the chain has not.
pub(super) async fn write(
    node: &DataNode,
    header: WriteChunk,
    data: Bytes,
) -> Result<(Vec<NodeId>, Vec<(NodeId, String)>), Failure> {
    within(WRITE_TIMEOUT, try_write(node, header, data)).await
}

async fn try_write(
    node: &DataNode,
    header: WriteChunk,
    data: Bytes,
) -> Result<(Vec<NodeId>, Vec<(NodeId, String)>), Failure> {
    let connection = node.connection().await.map_err(Failure::Away)?;
    let Stream { mut send, mut recv } = connection.open().await?;
    let sent = async {
        frame::write_frame(send.as_mut(), &DataRequest::Write(header)).await?;
        send.write(data).await?;
        send.finish()
    };
    let sent = sent.await;
    // A node that refuses says why and stops reading: its word is worth more than the broken stream.
    let response: Result<DataResponse, _> = frame::read_frame(recv.as_mut()).await;
    match (response, sent) {
        (Ok(Ok(DataReply::Written { holders, failed })), Ok(())) => Ok((holders, failed)),
        (Ok(Ok(other)), _) => Err(unexpected(&other)),
        (Ok(Err(error)), _) => Err(error.into()),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error.into()),
    }
}

/// Asks for chunks to be on disk.
pub(super) async fn sync(node: &DataNode, ids: Vec<ChunkId>) -> Result<(), Failure> {
    within(SYNC_TIMEOUT, try_sync(node, ids)).await
}

async fn try_sync(node: &DataNode, ids: Vec<ChunkId>) -> Result<(), Failure> {
    let connection = node.connection().await.map_err(Failure::Away)?;
    let Stream { mut send, mut recv } = connection.open().await?;
    frame::write_frame(send.as_mut(), &DataRequest::Sync { ids }).await?;
    send.finish()?;
    match frame::read_frame::<DataResponse>(recv.as_mut()).await?? {
        DataReply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Gets a range of a chunk, and calls `progress` whenever something of it arrives.
pub(super) async fn read(
    node: &DataNode,
    id: ChunkId,
    offset: u32,
    length: u32,
    progress: &(dyn Fn() + Sync),
) -> Result<Bytes, Failure> {
    within(READ_TIMEOUT, try_read(node, id, offset, length, progress)).await
}

async fn try_read(
    node: &DataNode,
    id: ChunkId,
    offset: u32,
    length: u32,
    progress: &(dyn Fn() + Sync),
) -> Result<Bytes, Failure> {
    let connection = node.connection().await.map_err(Failure::Away)?;
    let Stream { mut send, mut recv } = connection.open().await?;
    frame::write_frame(send.as_mut(), &DataRequest::Read { id, offset, length }).await?;
    send.finish()?;
    let (start, size, crcs) = match frame::read_frame::<DataResponse>(recv.as_mut()).await?? {
        DataReply::Data { offset, length, block_crcs } => (offset, length, block_crcs),
        other => return Err(unexpected(&other)),
    };
    progress();
    check_range(offset, length, start, size, crcs.len()).map_err(Failure::Corrupt)?;
    let bytes = receive(recv.as_mut(), size as usize, progress).await?;
    for (block, (data, crc)) in bytes.chunks(BLOCK_SIZE as usize).zip(&crcs).enumerate() {
        if crc32c(data) != *crc {
            let at = u64::from(start) + block as u64 * BLOCK_SIZE;
            return Err(Failure::Corrupt(format!("the block at {at} does not match its checksum")));
        }
    }
    let from = (offset - start) as usize;
    Ok(bytes.slice(from..from + length as usize))
}

/// The range that is offered must be whole blocks, and hold the range that is wanted.
fn check_range(offset: u32, length: u32, start: u32, size: u32, crcs: usize) -> Result<(), String> {
    let (end, offered) = (u64::from(offset) + u64::from(length), u64::from(start) + u64::from(size));
    let aligned = u64::from(start).is_multiple_of(BLOCK_SIZE);
    let complete = start <= offset && end <= offered && offered <= CHUNK_SIZE;
    if aligned && complete && u64::from(size).div_ceil(BLOCK_SIZE) == crcs as u64 {
        return Ok(());
    }
    Err(format!("{size} bytes from {start} with {crcs} checksums came for {length} bytes from {offset}"))
}

async fn receive(
    recv: &mut dyn RecvStream,
    size: usize,
    progress: &(dyn Fn() + Sync),
) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::with_capacity(size);
    while bytes.len() < size {
        let left = size - bytes.len();
        let Some(piece) = recv.read(left.min(PIECE)).await? else {
            return Err(TransportError::EndOfStream.into());
        };
        if piece.len() == size {
            return Ok(piece);
        }
        bytes.extend_from_slice(&piece);
        progress();
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u32 = BLOCK_SIZE as u32;

    #[test]
    fn only_whole_blocks_with_the_wanted_range_are_taken() {
        assert!(check_range(5, 10, 0, BLOCK, 1).is_ok());
        assert!(check_range(BLOCK, 10, BLOCK, 10, 1).is_ok());
        for (start, size, crcs) in [(1, BLOCK, 1), (0, BLOCK, 2), (0, 14, 1), (BLOCK, BLOCK, 1), (0, 0, 0)] {
            assert!(check_range(5, 10, start, size, crcs).is_err(), "{start} {size} {crcs}");
        }
        assert!(check_range(0, 1, 0, CHUNK_SIZE as u32 + 1, 33).is_err());
    }

    proptest! {
        #[test]
        fn no_range_panics(offset: u32, length: u32, start: u32, size: u32, crcs in 0usize..64) {
            let _ = check_range(offset, length, start, size, crcs);
        }
    }
}
