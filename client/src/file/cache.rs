//! Blocks of chunks in memory. Chunks never change, so nothing here can be stale.

use bytes::Bytes;
use quarry_common::ids::ChunkId;
use quarry_common::limits::BLOCK_SIZE;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a block.
pub(crate) const BLOCK: u32 = BLOCK_SIZE as u32;
/// Locks: more than the threads that read at once.
const SHARDS: usize = 16;
/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD: usize = 128;

/// The cache. A chunk's blocks are all in one shard and leave in the order in which they came, each that was read
/// meanwhile getting one more round.
pub(crate) struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    shard_capacity: usize,
}

#[derive(Default)]
struct Shard {
    blocks: HashMap<Key, Block>,
    order: VecDeque<Key>,
    bytes: usize,
}

type Key = (ChunkId, u32);

/// A block, as a part of the run of bytes that it was fetched with, so that a read across blocks is one piece.
struct Block {
    run: Bytes,
    /// Where the run begins in the chunk.
    start: u32,
    /// Bytes that are charged.
    charge: usize,
    touched: bool,
}

impl Block {
    fn end(&self) -> u32 {
        self.start + self.run.len() as u32
    }

    /// The bytes of the block that the run has.
    fn range(&self, index: u32) -> Range<u32> {
        self.start.max(index * BLOCK)..self.end().min((index + 1) * BLOCK)
    }
}

impl BlockCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), shard_capacity: capacity / SHARDS }
    }

    fn shard(&self, id: ChunkId) -> MutexGuard<'_, Shard> {
        // Ids are consecutive, so neighbours spread by themselves.
        let shard = &self.shards[(id.0 % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the chunk from `range.start` on: as many as are in one piece, at most to `range.end`.
    pub(crate) fn find(&self, id: ChunkId, range: Range<u32>) -> Option<Bytes> {
        let mut shard = self.shard(id);
        let mut index = range.start / BLOCK;
        let block = shard.blocks.get_mut(&(id, index))?;
        block.touched = true;
        if range.start < block.start || range.start >= block.end() {
            return None;
        }
        let end = range.end.min(block.end());
        let data = block.run.slice((range.start - block.start) as usize..(end - block.start) as usize);
        // The other blocks that are read with it have been touched as well.
        index += 1;
        while index * BLOCK < end {
            if let Some(block) = shard.blocks.get_mut(&(id, index)) {
                block.touched = true;
            }
            index += 1;
        }
        Some(data)
    }

    /// Whether the cache has all of a range.
    pub(crate) fn covers(&self, id: ChunkId, range: &Range<u32>) -> bool {
        let shard = self.shard(id);
        (range.start / BLOCK..range.end.div_ceil(BLOCK)).all(|index| {
            let wanted = range.start.max(index * BLOCK)..range.end.min((index + 1) * BLOCK);
            shard.blocks.get(&(id, index)).is_some_and(|block| {
                let have = block.range(index);
                have.start <= wanted.start && wanted.end <= have.end
            })
        })
    }

    /// Takes in a run of a chunk's bytes that begins at `start`.
    pub(crate) fn insert(&self, id: ChunkId, start: u32, run: &Bytes) {
        let end = start + run.len() as u32;
        let mut shard = self.shard(id);
        for index in start / BLOCK..end.div_ceil(BLOCK) {
            let mut block = Block { run: run.clone(), start, charge: 0, touched: false };
            let range = block.range(index);
            block.charge = range.len() + ENTRY_OVERHEAD;
            let key = (id, index);
            match shard.blocks.get_mut(&key) {
                Some(old) if old.range(index).len() >= range.len() => {}
                Some(old) => {
                    block.touched = old.touched;
                    let old = std::mem::replace(old, block);
                    shard.bytes = shard.bytes + range.len() + ENTRY_OVERHEAD - old.charge;
                }
                None => {
                    shard.bytes += block.charge;
                    shard.blocks.insert(key, block);
                    shard.order.push_back(key);
                }
            }
        }
        shard.shrink(self.shard_capacity);
    }

    /// Bytes that are charged now.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap().bytes).sum()
    }
}

impl Shard {
    fn shrink(&mut self, capacity: usize) {
        while self.bytes > capacity {
            let Some(key) = self.order.pop_front() else { return };
            let Some(block) = self.blocks.get_mut(&key) else { continue };
            if !block.touched {
                self.bytes -= block.charge;
                self.blocks.remove(&key);
                continue;
            }
            block.touched = false;
            let range = block.range(key.1);
            if range.len() < block.run.len() {
                // It outlives the run that it came with, and must not keep all of that in memory.
                let part = (range.start - block.start) as usize..(range.end - block.start) as usize;
                block.run = Bytes::copy_from_slice(&block.run[part]);
                block.start = range.start;
            }
            self.order.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: usize) -> Bytes {
        (0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>().into()
    }

    #[test]
    fn a_run_is_read_in_one_piece() {
        let cache = BlockCache::new(64 << 20);
        let (id, run) = (ChunkId(5), data(300_000));
        cache.insert(id, 0, &run);
        assert_eq!(cache.find(id, 100..200_000).unwrap(), run.slice(100..200_000));
        assert_eq!(cache.find(id, 299_000..400_000).unwrap(), run.slice(299_000..300_000));
        assert!(cache.find(id, 300_000..300_001).is_none());
        assert!(cache.covers(id, &(0..300_000)) && !cache.covers(id, &(0..300_001)));
        assert!(cache.find(ChunkId(6), 0..1).is_none());
    }

    #[test]
    fn a_longer_part_of_a_block_replaces_a_shorter_one() {
        let cache = BlockCache::new(64 << 20);
        let (id, run) = (ChunkId(5), data(60_000));
        cache.insert(id, 0, &run.slice(..10_000));
        assert!(!cache.covers(id, &(0..20_000)));
        cache.insert(id, 0, &run);
        cache.insert(id, 0, &run.slice(..10_000));
        assert_eq!(cache.find(id, 0..60_000).unwrap(), run);
        assert_eq!(cache.bytes(), 60_000 + ENTRY_OVERHEAD);
    }

    #[test]
    fn memory_is_bounded_and_what_was_read_stays_longer() {
        let cache = BlockCache::new(SHARDS * (1 << 20));
        let hot = ChunkId(16);
        cache.insert(hot, 0, &data(2 * BLOCK as usize));
        for i in 2..200 {
            assert!(cache.find(hot, 0..1).is_some(), "after {i}");
            cache.insert(ChunkId(16 * i), 0, &data(4 * BLOCK as usize));
            assert!(cache.bytes() <= 1 << 20);
        }
        assert!(!cache.covers(hot, &(BLOCK..2 * BLOCK)));
    }
}
