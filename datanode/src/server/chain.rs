//! Passing a chunk on to the members behind us while it arrives.

use crate::namenode::NameNode;
use crate::peers::{Found, Peers};
use bytes::Bytes;
use quarry_common::ids::NodeId;
use quarry_common::wire::data::{ChainHop, DataReply, DataRequest, DataResponse, WriteChunk};
use quarry_net::frame;
use quarry_net::transport::{Connection, Stream, TransportError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// When the next member has all bytes and does not answer for this long, the NameNode is asked whether it hears of it, and
/// again after each `ASK_AGAIN`: so a member that is gone is given up soon, and one whose disk is busy is not.
const ASK_AFTER: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The longest that a chunk may take along the chain once all of it is here: the client gives up after 20 s.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(16);

/// How long to wait for a member with so many others behind it: 8, 12, 14, 15 s and so on. Members must give up in the order
/// from the back to the front, or else a slow last one would make all before it look dead.
fn member_timeout(behind: usize) -> Duration {
    CHAIN_TIMEOUT - CHAIN_TIMEOUT / (2 << behind.min(10))
}

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
pub(super) async fn pass_on(peers: &Peers, namenode: &NameNode, header: &WriteChunk, feed: &Fed) -> Passed {
    let mut passed = Passed::default();
    let mut deadline = None;
    for (at, hop) in header.chain.iter().enumerate() {
        let behind = &header.chain[at + 1..];
        let header = WriteChunk { chain: behind.to_vec(), ..header.clone() };
        let sending = send_to(peers, hop, &header, feed);
        let outcome = tokio::select! {
            outcome = sending => outcome,
            error = too_late(namenode, hop.node, &header, feed, &mut deadline) => Err(error),
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

/// Waits until a member has had its time, which begins when it could have all bytes, or is known to be gone. The deadline for
/// all members together is set by the first.
async fn too_late(
    namenode: &NameNode,
    node: NodeId,
    header: &WriteChunk,
    feed: &Fed,
    deadline: &mut Option<Instant>,
) -> String {
    let mut feed = feed.clone();
    if feed.wait_for(|fed| fed.len() == header.block_crcs.len()).await.is_err() {
        return "the chunk did not arrive".to_owned();
    }
    let began = Instant::now();
    let all = *deadline.get_or_insert(began + CHAIN_TIMEOUT);
    let until = all.min(began + member_timeout(header.chain.len()));
    let mut pause = ASK_AFTER;
    while Instant::now() + pause < until {
        sleep(pause).await;
        pause = ASK_AGAIN;
        if timeout_at(until, namenode.has_lost(node)).await == Ok(true) {
            return "it does not answer, and the NameNode does not hear of it".to_owned();
        }
    }
    sleep_until(until).await;
    format!("no answer in {} s", began.elapsed().as_secs())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_give_up_from_the_back_to_the_front() {
        let limits: Vec<Duration> = (0..8).map(member_timeout).collect();
        assert_eq!(limits[0], Duration::from_secs(8));
        assert!(limits.is_sorted_by(|a, b| a < b) && limits[7] < CHAIN_TIMEOUT);
        assert!(member_timeout(63) < CHAIN_TIMEOUT);
    }
}
