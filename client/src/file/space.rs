//! Whether the cluster has room for what is buffered: a write that it has no room for is told so itself, not the `fsync` after it.
//!
//! A mount knows the free space as it was some time ago. While that is more than all that was written since, with a margin for other
//! mounts, a write may wait in the buffer. Otherwise it goes through, and fails with `NoSpace` if the cluster is full.

use quarry_common::wire::fs::StatFs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// An answer is good for this long; the free space that it tells is that of heartbeats up to 1 s before.
const VALID: Duration = Duration::from_secs(2);
/// After this time it is of no use, as after a pause of all writing.
const STALE: Duration = Duration::from_secs(10);
/// The share of the capacity that other mounts may fill while an answer is good,
const MARGIN_SHARE: u64 = 16;
/// and the most that they do: 16 mounts with full buffers of 64 MiB.
const MARGIN_MAX: u64 = 1 << 30;

/// What is known of the space.
#[derive(Debug, Default)]
pub(crate) struct Space(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Bytes that were written through this mount, ever.
    written: u64,
    last: Option<Answer>,
    /// A question is under way.
    asking: bool,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    /// Bytes that may be used, without the margin.
    free: u64,
    at: Instant,
    /// [`Table::written`] less what was buffered, at the answer before this one: what was committed since may not be counted in `free`.
    counted: u64,
    /// The same, at this answer.
    settled: u64,
}

/// Whether to ask for the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    No,
    /// While the write goes on by what is known.
    Beside,
    /// Before the write goes on.
    First,
}

/// What is to be done with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may wait in the buffer.
    Enough,
    /// It goes through.
    Short,
}

impl Space {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a write. Returns whether there is room for it, as far as that is known.
    pub(crate) fn write(&self, bytes: u64) -> Room {
        let mut table = self.table();
        table.written += bytes;
        match table.last {
            Some(answer) if table.written - answer.counted <= answer.free => Room::Enough,
            // A cluster that does not answer is no full one: what is buffered waits for it.
            None if table.asking => Room::Enough,
            _ => Room::Short,
        }
    }

    /// Whether the space must be asked for; if so, the caller does that and calls [`answered`](Self::answered).
    pub(crate) fn must_ask(&self, now: Instant) -> Ask {
        let mut table = self.table();
        let age = table.last.map(|answer| now.saturating_duration_since(answer.at));
        if age.is_some_and(|age| age < VALID) || std::mem::replace(&mut table.asking, true) {
            return Ask::No;
        }
        if age.is_some_and(|age| age < STALE) { Ask::Beside } else { Ask::First }
    }

    /// The space is known, or cannot be; `buffered` bytes are not committed.
    pub(crate) fn answered(&self, stat: Option<StatFs>, buffered: u64, now: Instant) {
        let mut table = self.table();
        table.asking = false;
        let settled = table.written.saturating_sub(buffered);
        table.last = stat.map(|stat| Answer {
            free: stat.free.saturating_sub((stat.capacity / MARGIN_SHARE).min(MARGIN_MAX)),
            at: now,
            counted: table.last.map_or(settled, |last| last.settled),
            settled,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn stat(free: u64) -> Option<StatFs> {
        Some(StatFs { capacity: 160 * MIB, free, inodes: 0 })
    }

    #[test]
    fn writes_wait_while_there_is_room_for_all_that_was_written_since() {
        let (space, mut now) = (Space::default(), Instant::now());
        assert_eq!(space.write(1), Room::Short, "nothing is known");
        assert_eq!([space.must_ask(now), space.must_ask(now)], [Ask::First, Ask::No]);
        assert_eq!(space.write(0), Room::Enough, "while nothing answers");
        space.answered(stat(50 * MIB), 1, now);
        // Ten of the fifty are the margin.
        assert_eq!(space.write(39 * MIB), Room::Enough);
        assert_eq!(space.write(2 * MIB), Room::Short);
        assert_eq!(space.must_ask(now), Ask::No);
        now += VALID;
        assert_eq!(space.must_ask(now), Ask::Beside);
        // All of it is committed, but the answer may not count it yet.
        space.answered(stat(50 * MIB), 0, now);
        assert_eq!(space.write(MIB), Room::Short);
        now += VALID;
        assert_eq!(space.must_ask(now), Ask::Beside);
        space.answered(stat(12 * MIB), MIB, now);
        assert_eq!(space.write(MIB / 2), Room::Enough);
        assert_eq!(space.write(MIB), Room::Short);
    }

    #[test]
    fn a_question_without_an_answer_leaves_nothing_known() {
        let (space, now) = (Space::default(), Instant::now());
        assert_eq!(space.must_ask(now), Ask::First);
        space.answered(None, 0, now);
        assert_eq!(space.write(1), Room::Short);
        assert_eq!(space.must_ask(now), Ask::First);
    }
}
