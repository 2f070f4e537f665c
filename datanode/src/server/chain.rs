//! Passing a chunk on to the members behind us while it arrives.

use crate::peers::{Found, Peers};
use bytes::Bytes;
use quarry_common::frame;
use quarry_common::ids::NodeId;
use quarry_common::transport::{Connection, Stream, TransportError};
use quarry_common::wire::data::{ChainHop, DataReply, DataRequest, DataResponse, WriteChunk};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Once the next member has all bytes, it may take this long, and as long again for each member behind it: members must
/// give up in the order from the back to the front, or else a slow last one would make all before it look dead.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(4);
/// No chain may take longer than this: the client gives up after 20 s.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(16);

/// The checked blocks of a chunk, as they arrive. Closed before the last one when the chunk will never be complete.
pub(super) type Feed = watch::Sender<Vec<Bytes>>;
type Fed = watch::Receiver<Vec<Bytes>>;

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) holders: Vec<NodeId>,
    pub(super) failed: Vec<(NodeId, String)>,
}

/// Passes a chunk on along its chain. A member that fails is skipped: the next one gets the chunk from us, from the
/// blocks that we still have. Never fails itself, as our own copy does not depend on it.
pub(super) async fn pass_on(peers: &Peers, header: &WriteChunk, feed: &Fed) -> Passed {
    let mut passed = Passed::default();
    for (at, hop) in header.chain.iter().enumerate() {
        let behind = &header.chain[at + 1..];
        let header = WriteChunk { chain: behind.to_vec(), ..header.clone() };
        let sending = send_to(peers, hop, &header, feed);
        let outcome = tokio::select! {
            outcome = sending => outcome,
            error = too_late(header.block_crcs.len(), behind.len(), feed) => Err(error),
        };
        match outcome {
            Ok((holders, failed)) => {
                let in_chain = |node: &NodeId| *node == hop.node || behind.iter().any(|h| h.node == *node);
                passed.holders = holders.into_iter().filter(in_chain).collect();
                passed.failed.extend(failed.into_iter().filter(|(node, _)| in_chain(node)));
                return passed;
            }
            Err(error) if given_up(&header, feed) => {
                tracing::debug!(id = %header.id, error, "not passing on a chunk that did not arrive");
                return passed;
            }
            Err(error) => {
                tracing::warn!(id = %header.id, node = %hop.node, error, "a member of the chain failed");
                passed.failed.push((hop.node, error));
            }
        }
    }
    passed
}

/// Waits until a member has had its time, which begins when it could have all bytes.
async fn too_late(blocks: usize, behind: usize, feed: &Fed) -> String {
    let mut feed = feed.clone();
    if feed.wait_for(|fed| fed.len() == blocks).await.is_err() {
        return "the chunk did not arrive".to_owned();
    }
    let limit = (MEMBER_TIMEOUT * (1 + behind as u32)).min(CHAIN_TIMEOUT);
    tokio::time::sleep(limit).await;
    format!("no answer in {} s", limit.as_secs())
}

/// Whether the chunk will never be complete.
fn given_up(header: &WriteChunk, feed: &Fed) -> bool {
    feed.has_changed().is_err() && feed.borrow().len() < header.block_crcs.len()
}

type Answer = (Vec<NodeId>, Vec<(NodeId, String)>);

async fn send_to(peers: &Peers, hop: &ChainHop, header: &WriteChunk, feed: &Fed) -> Result<Answer, String> {
    loop {
        let Found { connection, fresh } = peers.connect(hop).await.map_err(|e| e.to_string())?;
        match converse(&connection, header, feed.clone()).await {
            Ok(Ok(DataReply::Written { holders, failed })) => return Ok((holders, failed)),
            Ok(Ok(_)) => return Err("an answer to something else".to_owned()),
            Ok(Err(refusal)) => return Err(refusal.to_string()),
            Err(error) => {
                if connection.is_closed() {
                    peers.forget(hop.node, &connection).await;
                }
                // An old connection may have led to a process that was restarted: once more over a new one.
                if fresh || !connection.is_closed() {
                    return Err(error.to_string());
                }
            }
        }
    }
}

/// One attempt over one connection.
async fn converse(
    connection: &Arc<dyn Connection>,
    header: &WriteChunk,
    mut feed: Fed,
) -> Result<DataResponse, TransportError> {
    let Stream { mut send, mut recv } = connection.open().await?;
    let sending = async {
        frame::write_frame(send.as_mut(), &DataRequest::Write(header.clone())).await?;
        for number in 0..header.block_crcs.len() {
            let block = match feed.wait_for(|fed| fed.len() > number).await {
                Ok(fed) => fed[number].clone(),
                // Our stream is dropped unfinished, so the next member knows that this is not the end.
                Err(_) => return Err(TransportError::EndOfStream),
            };
            send.write(block).await?;
        }
        send.finish()
    };
    let sent = sending.await;
    if sent == Err(TransportError::EndOfStream) {
        return Err(TransportError::EndOfStream);
    }
    // A member that refuses says why and stops reading: its word is worth more than the broken stream.
    match (frame::read_frame(recv.as_mut()).await, sent) {
        (Ok(response), Ok(())) => Ok(response),
        (Ok(Err(refusal)), Err(_)) => Ok(Err(refusal)),
        (_, Err(error)) | (Err(error), _) => Err(error),
    }
}
