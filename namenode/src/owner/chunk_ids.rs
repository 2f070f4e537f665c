//! Numbers for new chunks, set aside in the log in blocks and handed out from memory.
//!
//! What is left of the blocks when the process ends is never used. For the garbage collection it also remembers which
//! numbers were handed out when, as one mark in a while.

use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::session::ChunkGrant;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Numbers in one block: enough for 128 GiB of full chunks, so that the log sees one reservation in minutes.
pub(crate) const BLOCK: u32 = 65_536;
/// With fewer numbers left than this the next block is asked for, while these last.
const REFILL_BELOW: u64 = BLOCK as u64 / 4;
/// Marks that are kept: a fraction of the age at which ids become invalid.
pub(crate) const MARKS: u32 = 60;

/// Numbers of one group.
#[derive(Debug, Default)]
struct Numbers {
    /// Sequences `from..to`, in ascending order.
    blocks: VecDeque<(u64, u64)>,
    /// A reservation is on its way.
    asked: bool,
}

impl Numbers {
    fn left(&self) -> u64 {
        self.blocks.iter().map(|(from, to)| to - from).sum()
    }
}

/// What the next number of each group was at some time.
#[derive(Debug)]
struct Mark {
    at: Instant,
    next: BTreeMap<PgId, u64>,
}

/// The numbers of all groups.
#[derive(Debug, Default)]
pub(crate) struct ChunkIds {
    groups: BTreeMap<PgId, Numbers>,
    /// Oldest first.
    marks: VecDeque<Mark>,
}

impl ChunkIds {
    /// Up to `count` consecutive ids of a group; `None` when there are none at the moment.
    pub(crate) fn take(&mut self, pg: PgId, count: u32) -> Option<ChunkGrant> {
        let numbers = self.groups.get_mut(&pg)?;
        let (from, to) = numbers.blocks.front_mut()?;
        let count = u64::from(count).min(*to - *from);
        let first = ChunkId::new(pg, *from);
        *from += count;
        if from == to {
            numbers.blocks.pop_front();
        }
        Some(ChunkGrant { pg, first, count: u32::try_from(count).unwrap_or(u32::MAX) })
    }

    /// Whether a reservation for the group is due; it counts as made.
    pub(crate) fn must_ask(&mut self, pg: PgId) -> bool {
        let numbers = self.groups.entry(pg).or_default();
        let due = !numbers.asked && numbers.left() < REFILL_BELOW;
        numbers.asked |= due;
        due
    }

    /// A reservation came through.
    pub(crate) fn reserved(&mut self, first: ChunkId, count: u32) {
        let numbers = self.groups.entry(first.pg()).or_default();
        numbers.asked = false;
        let from = first.sequence();
        numbers.blocks.push_back((from, from + u64::from(count)));
    }

    /// Numbers of the group below `next` are not handed out any more.
    pub(crate) fn skip(&mut self, pg: PgId, next: u64) {
        if let Some(numbers) = self.groups.get_mut(&pg) {
            numbers.blocks.retain(|(_, to)| *to > next);
            for (from, _) in &mut numbers.blocks {
                *from = (*from).max(next);
            }
        }
    }

    /// A reservation failed.
    pub(crate) fn not_reserved(&mut self, pg: PgId) {
        if let Some(numbers) = self.groups.get_mut(&pg) {
            numbers.asked = false;
        }
    }

    /// The group's next number to hand out, if it has any in memory.
    pub(crate) fn next(&self, pg: PgId) -> Option<u64> {
        self.groups.get(&pg)?.blocks.front().map(|(from, _)| *from)
    }

    /// Whether the last mark is long enough ago.
    pub(crate) fn mark_due(&self, now: Instant, age: Duration) -> bool {
        self.marks.back().is_none_or(|m| now.saturating_duration_since(m.at) >= age / MARKS)
    }

    /// Notes what the next numbers are now.
    pub(crate) fn mark(&mut self, now: Instant, next: BTreeMap<PgId, u64>) {
        self.marks.push_back(Mark { at: now, next });
    }

    /// Numbers of the groups below which everything was handed out at least `age` ago. Each is given once.
    pub(crate) fn floors(&mut self, now: Instant, age: Duration) -> BTreeMap<PgId, u64> {
        let mut floors = BTreeMap::new();
        while self.marks.front().is_some_and(|m| now.saturating_duration_since(m.at) >= age) {
            if let Some(mark) = self.marks.pop_front() {
                floors = mark.next;
            }
        }
        floors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PG: PgId = PgId(3);

    #[test]
    fn numbers_are_given_once_and_asked_for_early() {
        let mut ids = ChunkIds::default();
        assert_eq!(ids.take(PG, 1), None);
        assert!(ids.must_ask(PG));
        assert!(!ids.must_ask(PG), "one reservation at a time");
        ids.not_reserved(PG);
        assert!(ids.must_ask(PG));
        ids.reserved(ChunkId::new(PG, 100), BLOCK);
        assert!(!ids.must_ask(PG));
        let most = BLOCK - 10;
        assert_eq!(
            ids.take(PG, most),
            Some(ChunkGrant { pg: PG, first: ChunkId::new(PG, 100), count: most })
        );
        assert!(ids.must_ask(PG));
        ids.reserved(ChunkId::new(PG, 1 << 20), BLOCK);
        assert_eq!(ids.take(PG, 20).map(|g| g.count), Some(10), "a grant is one run");
        assert_eq!(ids.take(PG, 20).map(|g| g.first), Some(ChunkId::new(PG, 1 << 20)));
        assert_eq!(ids.next(PG), Some((1 << 20) + 20));
        ids.skip(PG, (1 << 20) + 1000);
        assert_eq!(ids.next(PG), Some((1 << 20) + 1000));
        ids.skip(PG, 1 << 30);
        assert_eq!(ids.take(PG, 1), None);
    }

    #[test]
    fn floors_are_what_was_next_long_ago() {
        let (start, age) = (Instant::now(), Duration::from_secs(60));
        let mut ids = ChunkIds::default();
        for second in 0..10 {
            let now = start + Duration::from_millis(500) * second;
            if ids.mark_due(now, age) {
                ids.mark(now, BTreeMap::from([(PG, u64::from(second))]));
            }
        }
        assert_eq!(ids.marks.len(), 5, "one in a second");
        assert_eq!(ids.floors(start + age / 2, age), BTreeMap::new());
        assert_eq!(ids.floors(start + age, age), BTreeMap::from([(PG, 0)]));
        assert_eq!(ids.floors(start + age * 2, age), BTreeMap::from([(PG, 8)]));
        assert!(ids.marks.is_empty());
    }
}
