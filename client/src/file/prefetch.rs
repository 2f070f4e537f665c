//! Reading ahead of a sequential reader.

use super::inode::Inode;
use super::reader::wanted;
use quarry_common::limits::CHUNK_SIZE;
use std::ops::Range;
use std::sync::Arc;

/// The kernel sends several reads at once, and they arrive in any order: this far from the expected offset is
/// still in sequence.
const SLACK: u64 = 1 << 20;
/// A reader that has read this much in sequence will go on. Two reads of the kernel's 128 KiB.
const RUN_MIN: u64 = 256 << 10;
/// A file up to this size is fetched whole when its beginning is read.
const SMALL_FILE: u64 = 512 << 10;

/// How one handle reads.
#[derive(Debug, Default)]
pub(crate) struct Pattern {
    /// Where the next read is expected.
    next: u64,
    /// Bytes read in sequence.
    run: u64,
    /// Up to here, data was asked for.
    ahead_to: u64,
}

/// What a read should do beside reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Fetch more than asked for.
    pub(crate) onward: bool,
    /// Begin to fetch this.
    pub(crate) ahead: Option<Range<u64>>,
}

impl Pattern {
    /// A read arrives. At most `ahead_max` bytes are fetched ahead.
    pub(crate) fn read(&mut self, offset: u64, length: u64, file_size: u64, ahead_max: u64) -> Access {
        let end = offset.saturating_add(length);
        if offset.abs_diff(self.next) <= SLACK {
            self.run = self.run.saturating_add(length);
            self.next = self.next.max(end);
        } else {
            *self = Self { next: end, run: 0, ahead_to: 0 };
        }
        let onward = self.run >= RUN_MIN || (offset == 0 && file_size <= SMALL_FILE);
        Access { onward, ahead: self.ahead(file_size, ahead_max) }
    }

    /// In steps of a chunk, so that most reads need not look further.
    fn ahead(&mut self, file_size: u64, ahead_max: u64) -> Option<Range<u64>> {
        if self.run < RUN_MIN {
            return None;
        }
        let distance = self.run.saturating_mul(2).min(ahead_max);
        let target = self.next.saturating_add(distance).min(file_size);
        let start = self.ahead_to.max(self.next);
        let enough = target >= start.saturating_add(CHUNK_SIZE) || target == file_size;
        if target <= start || !enough {
            return None;
        }
        self.ahead_to = target;
        Some(start..target)
    }
}

impl Inode {
    /// Begins to fetch a range in the background. Errors are left to the reader who comes there.
    pub(crate) fn prefetch(self: &Arc<Self>, range: Range<u64>) {
        let inode = Arc::clone(self);
        self.shared.runtime.spawn(async move {
            let Ok(segments) = inode.plan(range.start, range.end - range.start).await else { return };
            for wanted in segments.iter().filter_map(wanted) {
                inode.shared.fetcher.prefetch(&wanted);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const GIB: u64 = 1 << 30;

    #[test]
    fn a_sequential_reader_gets_a_growing_window_without_overlap() {
        let mut pattern = Pattern::default();
        let mut asked_to = 0;
        for i in 0..1000 {
            let access = pattern.read(i * 128 * KIB, 128 * KIB, GIB, 16 << 20);
            assert_eq!(access.onward, i > 0);
            if let Some(ahead) = access.ahead {
                assert!(ahead.start >= asked_to && ahead.end <= (i + 1) * 128 * KIB + (16 << 20));
                asked_to = ahead.end;
            }
        }
        assert!(asked_to >= 1000 * 128 * KIB + (14 << 20), "{asked_to}");
    }

    #[test]
    fn reads_out_of_order_are_still_in_sequence() {
        let mut pattern = Pattern::default();
        for i in [1u64, 0, 3, 2, 5, 4] {
            pattern.read(i * 128 * KIB, 128 * KIB, GIB, 16 << 20);
        }
        assert!(pattern.read(768 * KIB, 128 * KIB, GIB, 16 << 20).onward);
    }

    #[test]
    fn random_reads_fetch_what_they_need() {
        let mut pattern = Pattern::default();
        for i in 1..100u64 {
            let offset = (i * 7_777_777) % 97 * (10 << 20) + (4 << 20);
            let access = pattern.read(offset, 4 * KIB, GIB, 16 << 20);
            assert_eq!(access, Access { onward: false, ahead: None }, "read {i}");
        }
    }

    #[test]
    fn a_small_file_is_fetched_whole_and_nothing_beyond_the_end() {
        let mut pattern = Pattern::default();
        assert!(pattern.read(0, 4 * KIB, 300 * KIB, 16 << 20).onward);
        let mut pattern = Pattern::default();
        pattern.read(0, 128 * KIB, 3 << 20, 16 << 20);
        pattern.read(128 * KIB, 128 * KIB, 3 << 20, 16 << 20);
        let last = pattern.read(256 * KIB, 2 << 20, 3 << 20, 16 << 20);
        assert_eq!(last.ahead.map(|r| r.end), Some(3 << 20));
        assert_eq!(pattern.read((2 << 20) + 256 * KIB, 128 * KIB, 3 << 20, 16 << 20).ahead, None);
    }
}
