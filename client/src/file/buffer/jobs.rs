//! What to send next: which dirty windows go together into one chunk.

use super::WriteBuffer;
use super::extents::{ExtentMap, runs};
use crate::file::layout::{Known, LayoutCache};
use bytes::Bytes;
use quarry_common::ids::LeaseGeneration;
use quarry_common::limits::{CHUNK_SIZE, SLICES_MAX, SLICES_MERGE_AT};
use quarry_common::slices::WINDOW;
use quarry_common::wire::fs::Timestamp;
use std::ops::Range;

/// Slices of one chunk: twice of this still fits a commit, so that chunks can be committed together.
const JOB_SLICES_MAX: usize = 512;

/// Dirty data that becomes one chunk.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) windows: Vec<JobWindow>,
    pub(crate) about: About,
    /// The one window has too many slices already: what it shows is written anew, whole.
    pub(crate) merge: bool,
}

/// What a commit says beside the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// The chunk must be on the disks before it counts as put.
    pub(crate) durable: bool,
    /// The file is at least this long.
    pub(crate) size: u64,
    /// `None`: times were set since.
    pub(crate) mtime: Option<Timestamp>,
    /// The write that clears suid and sgid.
    pub(crate) kill_at: Option<u64>,
    /// The lease under which the calls have returned.
    pub(crate) lease: Option<LeaseGeneration>,
}

/// The part of a job that is in one window.
#[derive(Clone, Debug)]
pub(crate) struct JobWindow {
    pub(crate) index: u64,
    pub(crate) pieces: Vec<(u32, Bytes)>,
}

impl JobWindow {
    /// Ranges without a gap.
    pub(crate) fn runs(&self) -> Vec<Range<u32>> {
        runs(self.pieces.iter().map(|(at, data)| *at..at + data.len() as u32))
    }
}

/// Chooses the windows of the next job, and whether the one window is merged.
pub(super) fn choose(buffer: &WriteBuffer, layout: &LayoutCache) -> Option<(Vec<u64>, bool)> {
    let idle = |index: &u64| buffer.windows.get(index).is_some_and(|w| w.flying.is_none());
    if let Some(index) = buffer.complete.iter().copied().find(|index| idle(index)) {
        let merge = must_merge(layout.known(index), &buffer.windows[&index].active);
        return Some((vec![index], merge));
    }
    let mut together = Vec::new();
    let (mut bytes, mut slices) = (0, 0);
    for (&index, window) in &buffer.windows {
        let due = window.first.is_some_and(|(first, _)| first <= buffer.flush_to);
        if !due || window.flying.is_some() {
            continue;
        }
        if must_merge(layout.known(index), &window.active) {
            if together.is_empty() {
                return Some((vec![index], true));
            }
            continue;
        }
        bytes += window.active.bytes();
        slices += window.active.runs().len();
        if !together.is_empty() && (bytes > CHUNK_SIZE as usize || slices > JOB_SLICES_MAX) {
            break;
        }
        together.push(index);
    }
    (!together.is_empty()).then_some((together, false))
}

/// Whether the window should be merged rather than get more slices.
///
/// A merge writes all that the window shows. Up to `SLICES_MERGE_AT` slices, readers lose next to nothing; above, a
/// merge has to be worth it: what was gathered beside the largest slice must be a third of that one, so that merges
/// write at most about four times what the program wrote. In any case lists stay well below what the NameNode
/// refuses.
fn must_merge(known: Option<&Known>, active: &ExtentMap) -> bool {
    let runs = active.runs();
    if runs.len() == 1 && runs[0] == (0..WINDOW) {
        return false;
    }
    let count = known.map_or(0, |known| known.count) + runs.len();
    if count <= SLICES_MERGE_AT || count > SLICES_MAX / 2 {
        return count > SLICES_MERGE_AT;
    }
    let Some(slices) = known.and_then(|known| known.slices.as_deref()) else { return false };
    let lengths = || slices.iter().map(|s| s.length as usize);
    let largest = lengths().max().unwrap_or(0);
    let gathered = lengths().sum::<usize>() - largest + active.bytes();
    gathered * 3 >= largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::ChunkId;
    use quarry_common::wire::fs::Slice;

    fn known(lengths: &[u32]) -> Known {
        let slice = |&length: &u32| Slice { position: 0, length, chunk: Some(ChunkId(1)), chunk_offset: 0 };
        let slices = lengths.iter().map(slice).collect();
        Known { version: 1, count: lengths.len(), slices: Some(slices) }
    }

    fn pages(count: u32) -> ExtentMap {
        let mut map = ExtentMap::default();
        for i in 0..count {
            map.write(i * 8192, Bytes::from(vec![1; 4096]));
        }
        map
    }

    #[test]
    fn a_merge_is_worth_what_it_writes() {
        assert!(!must_merge(None, &pages(100)));
        assert!(must_merge(None, &pages(129)));
        assert!(!must_merge(Some(&known(&[4096; 15])), &pages(1)), "short");
        assert!(must_merge(Some(&known(&[4096; 16])), &pages(1)), "little to write");
        let mut full = vec![4096; 60];
        full.insert(0, WINDOW);
        assert!(!must_merge(Some(&known(&full)), &pages(10)), "much to write for little");
        assert!(must_merge(Some(&known(&full)), &pages(70)));
        let mut map = ExtentMap::default();
        map.write(0, Bytes::from(vec![1; WINDOW as usize]));
        assert!(!must_merge(Some(&known(&full)), &map), "it replaces all");
    }
}
