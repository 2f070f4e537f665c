//! What to send next: which dirty windows go together into one chunk.

use super::extents::{ExtentMap, runs};
use super::inode::{Flying, State};
use super::layout::Known;
use bytes::Bytes;
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

impl State {
    /// Takes the next data to send off the dirty windows: complete windows, and everything that was asked for.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        let idle = |index: &u64| self.dirty.get(index).is_some_and(|w| w.flying.is_none());
        if let Some(index) = self.complete.iter().copied().find(|index| idle(index)) {
            let window = &self.dirty[&index].active;
            let merge = must_merge(self.layout.known(index), window);
            return Some(self.take(&[index], merge));
        }
        let mut together = Vec::new();
        let (mut bytes, mut slices) = (0, 0);
        for (&index, window) in &self.dirty {
            let asked_for = window.first.is_some_and(|(first, _)| first <= self.flush_to);
            if !asked_for || window.flying.is_some() {
                continue;
            }
            if must_merge(self.layout.known(index), &window.active) {
                if together.is_empty() {
                    return Some(self.take(&[index], true));
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
        (!together.is_empty()).then(|| self.take(&together, false))
    }

    fn take(&mut self, indexes: &[u64], merge: bool) -> Job {
        let mut windows = Vec::with_capacity(indexes.len());
        let (mut durable, mut size) = (false, 0);
        let mtime = self.pending_time();
        for &index in indexes {
            self.complete.remove(&index);
            let window = self.dirty.get_mut(&index).expect("it was just found");
            let (first, _) = window.first.take().expect("it has data");
            let active = std::mem::take(&mut window.active);
            durable |= first <= self.durable_to;
            size = size.max(index * CHUNK_SIZE + u64::from(active.end()));
            let (bytes, cost) = (active.bytes(), active.cost());
            let pieces = active.freeze();
            window.flying = Some(Flying { first, pieces: pieces.clone(), bytes, cost });
            windows.push(JobWindow { index, pieces });
        }
        let about = About { durable, size, mtime, kill_at: self.kill_at };
        Job { windows, about, merge }
    }
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
