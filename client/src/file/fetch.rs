//! Getting bytes of chunks: from the cache, from a transfer that is under way already, or by a new one.

use super::cache::{BLOCK, BlockCache};
use crate::error::GetError;
use crate::traits::ChunkIo;
use bytes::Bytes;
use quarry_common::ids::ChunkId;
use quarry_common::wire::error::FsError;
use quarry_host::metrics::table::CLIENT_CACHE;
use quarry_host::task::Spawner;
use quarry_host::trace::{self, Scope};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch};

/// Bytes of a chunk that somebody wants.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) id: ChunkId,
    pub(crate) range: Range<u32>,
    /// Bytes of the chunk up to here exist.
    pub(crate) known_end: u32,
}

/// Reads chunks through the cache. Transfers are tasks of their own: a reader that gives up does not take the
/// bytes away from others who wait for them.
pub(crate) struct Fetcher {
    io: Arc<dyn ChunkIo>,
    cache: BlockCache,
    flights: Mutex<HashMap<ChunkId, Vec<Flight>>>,
    permits: Semaphore,
    runtime: Spawner,
}

type Outcome = Option<Result<Bytes, GetError>>;

/// A transfer under way.
#[derive(Clone)]
struct Flight {
    range: Range<u32>,
    outcome: watch::Receiver<Outcome>,
}

impl Fetcher {
    pub(crate) fn new(io: Arc<dyn ChunkIo>, cache: BlockCache, at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            io,
            cache,
            flights: Mutex::default(),
            permits: Semaphore::new(at_once),
            runtime: Spawner::current(),
        })
    }

    /// The cache, for what was just written.
    pub(crate) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// The wanted bytes, in one piece or several. A transfer takes whole blocks, or with `onward` all that the
    /// chunk is known to have from there on.
    ///
    /// # Errors
    /// Those of the transfer.
    pub(crate) async fn read(
        self: &Arc<Self>,
        wanted: &Wanted,
        onward: bool,
    ) -> Result<Vec<Bytes>, GetError> {
        let mut pieces = Vec::with_capacity(1);
        let mut at = wanted.range.start;
        while at < wanted.range.end {
            let piece = match self.cache.find(wanted.id, at..wanted.range.end) {
                Some(piece) => {
                    CLIENT_CACHE.add(&["blocks", "hit"], 1);
                    piece
                }
                None => {
                    CLIENT_CACHE.add(&["blocks", "miss"], 1);
                    self.transfer(wanted, at, onward).await?
                }
            };
            at += piece.len() as u32;
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// Begins the transfer of what the cache lacks.
    pub(crate) fn prefetch(self: &Arc<Self>, wanted: &Wanted) {
        if !self.cache.covers(wanted.id, &wanted.range) {
            self.flight(wanted, wanted.range.start, true);
        }
    }

    async fn transfer(self: &Arc<Self>, wanted: &Wanted, at: u32, onward: bool) -> Result<Bytes, GetError> {
        let Flight { range, mut outcome } = self.flight(wanted, at, onward);
        let run = match outcome.wait_for(Option::is_some).await {
            Ok(done) => done.clone().expect("it was waited for")?,
            // The transfer's task died: the runtime is shutting down.
            Err(_) => return Err(GetError::Fs(FsError::Io)),
        };
        let end = wanted.range.end.min(range.end);
        Ok(run.slice((at - range.start) as usize..(end - range.start) as usize))
    }

    /// The transfer that brings the byte `at`, begun if there is none.
    fn flight(self: &Arc<Self>, wanted: &Wanted, at: u32, onward: bool) -> Flight {
        let mut flights = self.flights();
        let others = flights.entry(wanted.id).or_default();
        if let Some(flight) = others.iter().find(|f| f.range.contains(&at)) {
            return flight.clone();
        }
        let start = at / BLOCK * BLOCK;
        let blocks_end = wanted.range.end.div_ceil(BLOCK) * BLOCK;
        let end = if onward { wanted.known_end } else { blocks_end.min(wanted.known_end) };
        let end = others.iter().map(|f| f.range.start).filter(|s| *s > at).fold(end, u32::min);
        let (done, outcome) = watch::channel(None);
        let flight = Flight { range: start..end, outcome };
        others.push(flight.clone());
        drop(flights);
        let fly = Box::pin(Arc::clone(self).fly(wanted.id, start..end, done));
        self.runtime.spawn(Scope::new(trace::current(), fly));
        flight
    }

    async fn fly(self: Arc<Self>, id: ChunkId, range: Range<u32>, done: watch::Sender<Outcome>) {
        let _landed = Landed { fetcher: &self, id, start: range.start };
        let _permit = self.permits.acquire().await;
        let length = range.end - range.start;
        let result = match self.io.get(id, range.start, length).await {
            Ok(run) if run.len() == length as usize => {
                self.cache.insert(id, range.start, &run);
                Ok(run)
            }
            Ok(run) => {
                tracing::error!(chunk = %id, wanted = length, got = run.len(), "a chunk is shorter than it should be");
                Err(GetError::Fs(FsError::Io))
            }
            Err(error) => Err(error),
        };
        done.send_replace(Some(result));
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<ChunkId, Vec<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a transfer off the list, also when its task is dropped.
struct Landed<'a> {
    fetcher: &'a Fetcher,
    id: ChunkId,
    start: u32,
}

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        let mut flights = self.fetcher.flights();
        if let Some(list) = flights.get_mut(&self.id) {
            list.retain(|f| f.range.start != self.start);
            if list.is_empty() {
                flights.remove(&self.id);
            }
        }
    }
}
