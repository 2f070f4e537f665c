//! Reading a chunk from whichever member gives it first.

use super::nodes::DataNode;
use super::placement::Table;
use super::{PAUSE_FIRST, PAUSE_MAX, Transfer};
use crate::backoff::Backoff;
use crate::error::GetError;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::cluster::{GroupDigest, MemberState};
use quarry_common::wire::error::FsError;
use quarry_datanode_client::{CallError, DataNodeClient};
use quarry_host::random;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

/// When nothing has arrived for this long, another member is asked as well. Disks answer in a tenth of it.
const HEDGE_AFTER: Duration = Duration::from_millis(150);
/// A good answer exists nowhere when this many rounds found only rotten and missing replicas.
const ROTTEN_ROUNDS: u32 = 5;
/// One read in so many begins at a member that seems slower: it may not be so any more.
const EXPLORE: u32 = 32;

/// A member to ask.
struct Candidate {
    node: Arc<DataNode>,
    /// It has every chunk of the group, so its not having one says something.
    serving: bool,
}

/// What the members said in one round that brought nothing.
#[derive(Debug, Default)]
struct Round {
    /// Serving members that do not have it.
    missing: usize,
    corrupt: usize,
    away: usize,
}

impl Transfer {
    /// Gets a range of a chunk, however long that takes.
    pub(super) async fn get_hard(&self, id: ChunkId, offset: u32, length: u32) -> Result<Bytes, GetError> {
        if length == 0 || u64::from(offset) + u64::from(length) > CHUNK_SIZE {
            return Err(FsError::Invalid.into());
        }
        let mut pause = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut rotten = 0;
        let mut table = self.placement.known();
        if table.group(id.pg()).is_none() {
            table = self.placement.another(&self.session, &table).await?;
        }
        loop {
            let candidates = self.candidates(&table, id);
            let round = match self.race(&candidates, id, offset, length).await {
                Ok(bytes) => return Ok(bytes),
                Err(round) => round,
            };
            // Members may have moved; only what the present ones say counts.
            let newer = self.placement.another(&self.session, &table).await?;
            let same = newer.group(id.pg()) == table.group(id.pg());
            table = newer;
            if !same {
                continue;
            }
            tracing::debug!(chunk = %id, ?round, "no member gave a chunk");
            if table.group(id.pg()).is_none() || (round.missing > 0 && round.corrupt + round.away == 0) {
                return Err(GetError::Gone);
            }
            if round.away == 0 && round.corrupt > 0 {
                rotten += 1;
                if rotten >= ROTTEN_ROUNDS {
                    tracing::error!(chunk = %id, ?round, "every replica of a chunk is rotten or missing");
                    return Err(FsError::Io.into());
                }
            }
            pause.wait().await;
        }
    }

    /// All members in the order in which they are asked: those that have everything and live first, the likely quickest
    /// in front.
    fn candidates(&self, table: &Table, id: ChunkId) -> Vec<Candidate> {
        let members = table.group(id.pg()).map_or(&[][..], |group| &group.members);
        let explore = random::rng().random_ratio(1, EXPLORE);
        let mut ranked: Vec<_> = members
            .iter()
            .filter_map(|member| {
                let node = self.nodes.of(table.node(member.node)?);
                let serving = member.state == MemberState::Serving;
                let cost = if explore { 0 } else { node.cost() };
                // Equals take turns by chunk, so that each member's memory holds another part of the data.
                let turn = GroupDigest::mix(ChunkId(id.0 ^ u64::from(member.node.0)));
                let rank = (!serving, !table.is_alive(member.node), node.is_in_trouble(), cost, turn);
                Some((rank, Candidate { node, serving }))
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// Asks the first candidate, the next one as soon as one fails, and one more whenever nothing arrives for a while.
    async fn race(
        &self,
        candidates: &[Candidate],
        id: ChunkId,
        offset: u32,
        length: u32,
    ) -> Result<Bytes, Round> {
        let progress = AtomicU64::new(0);
        let mut waiting = candidates.iter();
        let mut asked = FuturesUnordered::new();
        let mut round = Round::default();
        let mut seen = 0;
        let mut slow: Option<&Candidate> = None;
        let begin = |c, hedge| attempt(&self.datanodes, c, (id, offset, length), &progress, hedge);
        if let Some(first) = waiting.next() {
            slow = Some(first);
            asked.push(begin(first, None));
        }
        loop {
            let hedge = tokio::time::sleep(HEDGE_AFTER);
            tokio::select! {
                result = asked.next() => {
                    let Some((candidate, result)) = result else { return Err(round) };
                    match result {
                        Ok(bytes) => return Ok(bytes),
                        Err(failure) => round.count(id, candidate, &failure),
                    }
                    if let Some(next) = waiting.next() {
                        slow = Some(next);
                        asked.push(begin(next, None));
                    }
                }
                () = hedge, if waiting.len() > 0 => {
                    let now = progress.load(Ordering::Relaxed);
                    if std::mem::replace(&mut seen, now) == now
                        && let Ok(permit) = self.hedges.try_acquire()
                        && let Some(next) = waiting.next()
                    {
                        // Others begin elsewhere from now on.
                        if let Some(slow) = slow.replace(next) {
                            slow.node.answered_in(HEDGE_AFTER);
                        }
                        asked.push(begin(next, Some(permit)));
                    }
                }
            }
        }
    }
}

impl Round {
    fn count(&mut self, id: ChunkId, candidate: &Candidate, failure: &CallError) {
        let node: NodeId = candidate.node.id();
        match failure {
            CallError::Missing if candidate.serving => self.missing += 1,
            // It never said that it had everything.
            CallError::Missing => {}
            CallError::Corrupt(what) => {
                tracing::warn!(chunk = %id, %node, what, "a replica is corrupt");
                self.corrupt += 1;
            }
            CallError::Away(_) | CallError::NoSpace | CallError::Refused(_) => {
                tracing::debug!(chunk = %id, %node, error = %failure, "a member does not give a chunk");
                // One that is catching up or was left behind is not waited for.
                self.away += usize::from(candidate.serving);
            }
        }
    }
}

/// One member's chance.
async fn attempt<'a>(
    datanodes: &DataNodeClient,
    candidate: &'a Candidate,
    (id, offset, length): (ChunkId, u32, u32),
    progress: &AtomicU64,
    _hedge: Option<SemaphorePermit<'_>>,
) -> (&'a Candidate, Result<Bytes, CallError>) {
    let node = &candidate.node;
    let _busy = node.begin_read();
    let read = async {
        let _permit = node.reads.acquire().await.expect("the semaphore is never closed");
        let (begun, before) = (Instant::now(), AtomicU64::new(0));
        let arrived = || {
            progress.fetch_add(1, Ordering::Relaxed);
            if before.fetch_add(1, Ordering::Relaxed) == 0 {
                node.answered_in(begun.elapsed());
            }
        };
        datanodes.read(&node.endpoint, (id, offset, length), &arrived).await
    };
    let result = read.await;
    match &result {
        Ok(_) | Err(CallError::Missing) => node.succeeded(),
        Err(away @ CallError::Away(_)) => node.failed_now(&away.to_string()),
        // The chunk is rotten, or the request is; the node as such may be well.
        Err(CallError::Corrupt(_) | CallError::Refused(_) | CallError::NoSpace) => {}
    }
    (candidate, result)
}
