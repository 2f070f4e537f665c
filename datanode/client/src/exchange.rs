//! One conversation: the request, the bytes that follow it, the answer, the bytes that follow that.

use crate::error::{Away, CallError};
use crate::pool::{Found, Pool};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use quarry_common::wire::data::{DataReply, DataRequest, DataResponse, Endpoint};
use quarry_host::trace;
use quarry_net::frame;
use quarry_net::transport::{Connection, RecvStream, Stream, TransportError};
use std::sync::Arc;

/// Bytes that are taken from a stream at once.
const PIECE: usize = 256 << 10;

/// The bytes of a chunk to send. A request that finds its connection dead is repeated over a new one, so they can be had more than once.
pub trait Body: Send + Sync {
    /// All pieces from the first one, as they become known. If they end early, the peer sees a broken stream and never a
    /// part that looks whole.
    fn pieces(&self) -> BoxStream<'_, Bytes>;
}

impl Body for Bytes {
    fn pieces(&self) -> BoxStream<'_, Bytes> {
        stream::iter((!self.is_empty()).then(|| self.clone())).boxed()
    }
}

/// An answer, and the stream on which bytes may follow.
pub(crate) struct Answer {
    pub(crate) reply: DataReply,
    pub(crate) recv: Box<dyn RecvStream>,
}

/// Asks, and waits for the answer. A connection that was made for an earlier request and is dead by now is replaced once.
pub(crate) async fn exchange(
    pool: &Pool,
    to: &Endpoint,
    request: &DataRequest,
    body: &dyn Body,
) -> Result<Answer, CallError> {
    loop {
        let Found { connection, fresh } = pool.connect(to).await?;
        let failed = match attempt(&connection, request, body).await {
            Err(CallError::Away(Away::Transport(failed))) => failed,
            other => return other,
        };
        let dead = connection.is_closed();
        if dead {
            pool.forget(to, &connection);
        }
        if fresh || !dead {
            return Err(failed.into());
        }
    }
}

async fn attempt(
    connection: &Arc<dyn Connection>,
    request: &DataRequest,
    body: &dyn Body,
) -> Result<Answer, CallError> {
    let Stream { mut send, mut recv } = connection.open().await?;
    let sending = async {
        frame::write_frame_for(send.as_mut(), request, trace::current()).await?;
        let mut left = match request {
            DataRequest::Write(header) => u64::from(header.length),
            _ => 0,
        };
        let mut pieces = body.pieces();
        while let Some(piece) = pieces.next().await {
            left = left.saturating_sub(piece.len() as u64);
            send.write(piece).await?;
        }
        if left > 0 {
            return Err(CallError::Away(Away::SourceEnded));
        }
        Ok(send.finish()?)
    };
    let sent = sending.await;
    if let Err(CallError::Away(Away::SourceEnded)) = sent {
        return Err(Away::SourceEnded.into());
    }
    // A node that refuses says why and stops reading: its reason is worth more than the broken stream.
    let response: Result<DataResponse, _> = frame::read_frame(recv.as_mut()).await;
    match (response, sent) {
        (Ok(Ok(reply)), Ok(())) => Ok(Answer { reply, recv }),
        (Ok(Err(refusal)), _) => Err(refusal.into()),
        (_, Err(error)) => Err(error),
        (Err(error), Ok(())) => Err(error.into()),
    }
}

impl Answer {
    /// Takes the bytes that follow, and calls `progress` whenever some of them arrive.
    pub(crate) async fn receive(
        &mut self,
        size: usize,
        progress: &(dyn Fn() + Sync),
    ) -> Result<Bytes, CallError> {
        let mut bytes = BytesMut::with_capacity(size);
        while bytes.len() < size {
            let left = size - bytes.len();
            let Some(piece) = self.recv.read(left.min(PIECE)).await? else {
                return Err(TransportError::EndOfStream.into());
            };
            progress();
            if piece.len() == size {
                return Ok(piece);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }
}
