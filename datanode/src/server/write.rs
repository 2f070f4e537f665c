//! Taking a chunk in, and passing it on at the same time.

use super::chain::{self, Fed, Feed};
use super::{Server, turn};
use crate::store::{Trailer, blocks, length_fits};
use bytes::{Bytes, BytesMut};
use quarry_common::checksum::crc32c;
use quarry_common::limits::{BLOCK_SIZE, PG_MEMBERS_MAX};
use quarry_common::wire::data::{DataReply, WriteChunk};
use quarry_common::wire::error::ServiceError;
use quarry_datanode_client::Written;
use quarry_host::metrics::table;
use quarry_net::transport::{RecvStream, TransportError};
use std::array;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Writes at once with the same number of members behind us: each holds a whole chunk, so they hold 48 MiB.
const WRITES_MAX: usize = 24;
/// Something of the chunk must arrive in this time.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// And all of it in this time.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// What is taken from the stream at once.
const PIECE: usize = BLOCK_SIZE as usize;

/// Turns for writes, by the number of members behind us in the chain.
///
/// With one limit for all, two nodes full of writes that wait for each other would stand still. A write with fewer
/// members behind it never waits for one with more, so here somebody can always go on.
pub(super) struct Turns([Arc<Semaphore>; PG_MEMBERS_MAX]);

impl Default for Turns {
    fn default() -> Self {
        Self(array::from_fn(|_| Arc::new(Semaphore::new(WRITES_MAX))))
    }
}

impl Server {
    /// See [`DataRequest::Write`](quarry_common::wire::data::DataRequest::Write).
    pub(super) async fn write(
        &self,
        header: WriteChunk,
        recv: &mut dyn RecvStream,
    ) -> Result<DataReply, ServiceError> {
        check(&header).map_err(ServiceError::BadRequest)?;
        self.namenode.check_member(header.id.pg()).await?;
        let behind = &self.write_turns.0[header.chain.len()];
        let _turn = turn(behind).await?;
        let (feed, blocks) = watch::channel(Vec::with_capacity(header.block_crcs.len()));
        let fed = Fed::new(blocks, header.block_crcs.len());
        let ours = async {
            let data = receive(&header, recv, feed).await?;
            let durable = header.durable;
            let trailer = Trailer {
                id: header.id,
                length: header.length,
                sha256: header.sha256,
                block_crcs: header.block_crcs.clone(),
            };
            self.on_disk(move |store| store.put(&trailer, &data, durable)).await.map_err(ServiceError::from)
        };
        let (ours, Written { mut holders, failed }) =
            futures::join!(ours, chain::pass_on(&self.datanodes, &self.namenode, &header, &fed));
        ours?;
        table::DATANODE_BYTES.add(&["write"], header.length.into());
        holders.insert(0, self.node);
        Ok(DataReply::Written { holders, failed })
    }
}

fn check(header: &WriteChunk) -> Result<(), String> {
    if !length_fits(header.length) {
        return Err(format!("a chunk has 1 to 2 MiB, not {} bytes", header.length));
    }
    if header.block_crcs.len() != blocks(header.length) {
        return Err(format!("{} checksums for {} bytes", header.block_crcs.len(), header.length));
    }
    if header.chain.len() >= PG_MEMBERS_MAX {
        return Err(format!(
            "a chain of {} members, at most {PG_MEMBERS_MAX} are allowed",
            header.chain.len() + 1
        ));
    }
    Ok(())
}

/// Takes the chunk block by block; each is checked before anybody else gets it.
async fn receive(
    header: &WriteChunk,
    recv: &mut dyn RecvStream,
    feed: Feed,
) -> Result<Vec<Bytes>, ServiceError> {
    let deadline = Instant::now() + CHUNK_TIMEOUT;
    let mut buffer = BytesMut::with_capacity(header.length as usize);
    let mut left = header.length as usize;
    for (number, crc) in header.block_crcs.iter().enumerate() {
        let size = left.min(BLOCK_SIZE as usize);
        while buffer.len() < size {
            let piece = timeout(PIECE_TIMEOUT, recv.read((size - buffer.len()).min(PIECE)));
            match timeout_at(deadline, piece).await {
                Ok(Ok(piece)) => {
                    let piece = piece.map_err(broken)?.ok_or(TransportError::EndOfStream).map_err(broken)?;
                    buffer.extend_from_slice(&piece);
                }
                _ => return Err(ServiceError::Unavailable("the chunk did not arrive in time".into())),
            }
        }
        let block = buffer.split_to(size).freeze();
        if crc32c(&block) != *crc {
            let at = number as u64 * BLOCK_SIZE;
            return Err(ServiceError::Corrupt(format!(
                "the block at {at} of chunk {} arrived with another checksum",
                header.id
            )));
        }
        left -= size;
        // The last block is passed on when the stream has ended cleanly, and not before: a chunk that its sender broke off
        // or got wrong must not be whole at the next member.
        if left == 0 {
            end(header, recv).await?;
        }
        feed.send_modify(|blocks| blocks.push(block));
    }
    Ok(feed.borrow().clone())
}

/// The clean end of the stream, after all bytes.
async fn end(header: &WriteChunk, recv: &mut dyn RecvStream) -> Result<(), ServiceError> {
    match timeout(PIECE_TIMEOUT, recv.read(1)).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(_))) => {
            Err(ServiceError::BadRequest(format!("more than {} bytes arrived", header.length)))
        }
        Ok(Err(e)) => Err(broken(e)),
        Err(_) => Err(ServiceError::Unavailable("the stream was not ended in time".into())),
    }
}

fn broken(error: TransportError) -> ServiceError {
    ServiceError::Unavailable(format!("the chunk did not arrive: {error}"))
}
