//! Passing a chunk on to the members behind us while it arrives.

use crate::namenode_client::NameNodeClient;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use quarry_common::ids::NodeId;
use quarry_common::wire::data::WriteChunk;
use quarry_datanode_client::{Away, Body, CallError, DataNodeClient, Written, timing};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// When the next member has all bytes and does not answer for this long, the NameNode is asked whether it hears of it, and
/// again after each `ASK_AGAIN`: so a member that is gone is given up soon, and one whose disk is busy is not.
const ASK_AFTER: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The checked blocks of a chunk, as they arrive. Closed before the last one when the chunk will never be complete.
pub(super) type Feed = watch::Sender<Vec<Bytes>>;

/// The blocks as they are sent on.
#[derive(Clone)]
pub(super) struct Fed {
    blocks: watch::Receiver<Vec<Bytes>>,
    /// Blocks of the whole chunk.
    count: usize,
}

impl Body for Fed {
    fn pieces(&self) -> BoxStream<'_, Bytes> {
        let next = |(mut fed, number): (Fed, usize)| async move {
            let block = fed.block(number).await?;
            Some((block, (fed, number + 1)))
        };
        stream::unfold((self.clone(), 0), next).boxed()
    }
}

impl Fed {
    pub(super) fn new(blocks: watch::Receiver<Vec<Bytes>>, count: usize) -> Self {
        Self { blocks, count }
    }

    /// A block, as soon as it is here; `None` after the last one, and when it will never be here.
    async fn block(&mut self, number: usize) -> Option<Bytes> {
        if number == self.count {
            return None;
        }
        self.blocks.wait_for(|blocks| blocks.len() > number).await.ok().map(|blocks| blocks[number].clone())
    }

    /// Waits until all blocks are here; says whether they are, and not that the chunk will never be complete.
    async fn complete(&self) -> bool {
        self.blocks.clone().wait_for(|blocks| blocks.len() == self.count).await.is_ok()
    }

    /// Whether the chunk will never be complete.
    fn given_up(&self) -> bool {
        self.blocks.has_changed().is_err() && self.blocks.borrow().len() < self.count
    }
}

/// Passes a chunk on along its chain. A member that fails is skipped: the next one gets the chunk from us, from the
/// blocks that we still have. Never fails itself, as our own copy does not depend on it.
pub(super) async fn pass_on(
    datanodes: &DataNodeClient,
    namenode: &NameNodeClient,
    header: &WriteChunk,
    feed: &Fed,
) -> Written {
    let id = header.id;
    let mut passed = Written::default();
    let mut deadline = None;
    for (at, &node) in header.chain.iter().enumerate() {
        let behind = &header.chain[at + 1..];
        let header = WriteChunk { chain: behind.to_vec(), ..header.clone() };
        let sending = send(datanodes, namenode, node, (&header, feed));
        let outcome = tokio::select! {
            outcome = sending => outcome.map_err(|e| e.to_string()),
            error = too_late(namenode, (node, behind.len()), feed, &mut deadline) => Err(error),
        };
        match outcome {
            Ok(Written { holders, failed }) => {
                let in_chain = |n: &NodeId| *n == node || behind.contains(n);
                passed.holders = holders.into_iter().filter(in_chain).collect();
                passed.failed.extend(failed.into_iter().filter(|(n, _)| in_chain(n)));
                return passed;
            }
            Err(error) if feed.given_up() => {
                tracing::debug!(%id, error, "not passing on a chunk that did not arrive");
                return passed;
            }
            Err(error) => {
                tracing::warn!(%id, %node, error, "a member of the chain failed");
                passed.failed.push((node, error));
            }
        }
    }
    passed
}

/// Sends the chunk to a member, to where the NameNode says that it is. A member that is not there may have moved since.
async fn send(
    datanodes: &DataNodeClient,
    namenode: &NameNodeClient,
    node: NodeId,
    (header, feed): (&WriteChunk, &Fed),
) -> Result<Written, CallError> {
    let Some(known) = namenode.endpoint(node).await else {
        return Err(Away::Unavailable("the NameNode does not know the node".into()).into());
    };
    match datanodes.write(&known, header.clone(), feed).await {
        Err(error @ CallError::Away(Away::Transport(_))) => match namenode.newer_endpoint(&known).await {
            Some(moved) => datanodes.write(&moved, header.clone(), feed).await,
            None => Err(error),
        },
        outcome => outcome,
    }
}

/// Waits until a member has had its time, which begins when it could have all bytes, or is known to be gone. The deadline for
/// all members together is set by the first.
async fn too_late(
    namenode: &NameNodeClient,
    (node, behind): (NodeId, usize),
    feed: &Fed,
    deadline: &mut Option<Instant>,
) -> String {
    if !feed.complete().await {
        return "the chunk did not arrive".to_owned();
    }
    let began = Instant::now();
    let all = *deadline.get_or_insert(began + timing::CHAIN);
    let until = all.min(began + timing::member(behind));
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
