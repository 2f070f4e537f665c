//! What this mount knows of a file's windows.
//!
//! A window's list is valid for the newest attributes that are known of its inode: whoever learns of a change that
//! was not made here calls [`LayoutCache::clear`]. Answers that were asked for before a change may arrive after it;
//! `epoch` tells them.

use quarry_common::limits::SLICES_MAX;
use quarry_common::slices::is_sound;
use quarry_common::wire::fs::{Slice, Window};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Windows and slices that one inode keeps at most, about 2 MiB: 64 GiB of an ordinary file, or 1 GiB of one that
/// was written at random.
const ENTRIES_MAX: usize = 65_536;

/// A window.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// As the NameNode counts it; 0 is a window without slices.
    pub(crate) version: u64,
    /// Slices that the NameNode has.
    pub(crate) count: usize,
    /// The slices, if they are known as well.
    pub(crate) slices: Option<Arc<[Slice]>>,
}

impl Known {
    fn weight(&self) -> usize {
        1 + self.slices.as_ref().map_or(0, |slices| slices.len())
    }
}

/// The windows of one inode.
#[derive(Debug, Default)]
pub(crate) struct LayoutCache {
    windows: BTreeMap<u64, Known>,
    weight: usize,
    epoch: u64,
}

impl LayoutCache {
    /// The window's slices, if known.
    pub(crate) fn slices(&self, window: u64) -> Option<&Arc<[Slice]>> {
        self.windows.get(&window)?.slices.as_ref()
    }

    /// What is known of the window.
    pub(crate) fn known(&self, window: u64) -> Option<&Known> {
        self.windows.get(&window)
    }

    /// Changes whenever something is forgotten.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.windows.clear();
        self.weight = 0;
        self.epoch += 1;
    }

    /// Forgets some windows.
    pub(crate) fn forget(&mut self, windows: Range<u64>) {
        let gone: Vec<u64> = self.windows.range(windows).map(|(index, _)| *index).collect();
        for index in gone {
            self.remove(index);
        }
        self.epoch += 1;
    }

    /// Takes in what the NameNode says of a range of windows, asked for in `epoch`. Returns false if something
    /// changed since, so that the answer may be old.
    pub(crate) fn insert(&mut self, range: Range<u64>, windows: Vec<Window>, epoch: u64) -> bool {
        if epoch != self.epoch {
            return false;
        }
        self.make_room(&range, &windows);
        let mut said = windows.into_iter().peekable();
        for index in range {
            let window = said.next_if(|w| w.index.0 == index);
            let (version, slices) = window.map_or((0, Vec::new()), |w| (w.version, w.slices));
            let newer = match self.windows.get(&index) {
                None => true,
                Some(known) => {
                    known.version < version || (known.version == version && known.slices.is_none())
                }
            };
            if newer {
                self.put(index, Known { version, count: slices.len(), slices: Some(slices.into()) });
            }
        }
        true
    }

    /// Slices were committed here; the NameNode said the window's new version and count. `append` is set if nobody
    /// else has changed the file since the window's list was read, so that the new list can be made here.
    pub(crate) fn committed(&mut self, window: u64, version: u64, count: usize, change: Change<'_>) {
        let known = self.windows.get(&window);
        if known.is_some_and(|known| known.version >= version) {
            return;
        }
        let slices = match change {
            Change::Replace(new) => Some(new.into()),
            Change::Append(new) => {
                known.and_then(|known| known.slices.as_ref()).and_then(|old| append(old, new))
            }
            Change::Unknown => None,
        };
        self.put(window, Known { version, count, slices });
        if self.weight > ENTRIES_MAX {
            self.make_room(&(window..window + 1), &[]);
        }
    }

    fn put(&mut self, index: u64, known: Known) {
        self.remove(index);
        self.weight += known.weight();
        self.windows.insert(index, known);
    }

    fn remove(&mut self, index: u64) {
        if let Some(known) = self.windows.remove(&index) {
            self.weight -= known.weight();
        }
    }

    /// Forgets the windows that are furthest from a range until an answer about it fits.
    fn make_room(&mut self, range: &Range<u64>, windows: &[Window]) {
        let needed =
            (range.end - range.start) as usize + windows.iter().map(|w| w.slices.len()).sum::<usize>();
        let mut forgot = false;
        while self.weight + needed > ENTRIES_MAX {
            let first = self.windows.first_key_value().map(|(index, _)| *index);
            let last = self.windows.last_key_value().map(|(index, _)| *index);
            let (Some(first), Some(last)) = (first, last) else { break };
            let far_end = last.saturating_sub(range.end) > range.start.saturating_sub(first);
            self.remove(if far_end { last } else { first });
            forgot = true;
        }
        // The answer at hand was checked against the epoch already; others under way are not.
        self.epoch += u64::from(forgot);
    }
}

/// What a commit did to a window's list.
pub(crate) enum Change<'a> {
    /// The list is now this.
    Replace(&'a [Slice]),
    /// These were put on top.
    Append(&'a [Slice]),
    /// Somebody else may have changed it as well.
    Unknown,
}

/// The list with new slices on top, without those that a new one hides altogether.
fn append(old: &[Slice], new: &[Slice]) -> Option<Arc<[Slice]>> {
    let hides = |older: &Slice| {
        let end = older.position + older.length;
        new.iter().any(|n| n.position <= older.position && end <= n.position + n.length)
    };
    let list: Arc<[Slice]> = old.iter().filter(|slice| !hides(slice)).chain(new).copied().collect();
    (list.len() <= SLICES_MAX).then_some(list)
}

/// Whether an answer of the NameNode can be true: within the range, in order, with sound slices.
pub(crate) fn is_sound_answer(range: &Range<u64>, windows: &[Window]) -> bool {
    windows.is_sorted_by(|a, b| a.index < b.index)
        && windows.iter().all(|w| range.contains(&w.index.0) && w.slices.iter().all(is_sound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{ChunkId, WindowIndex};

    fn slice(position: u32, length: u32, chunk: u64) -> Slice {
        Slice { position, length, chunk: Some(ChunkId(chunk)), chunk_offset: 0 }
    }

    fn window(index: u64, version: u64, slices: Vec<Slice>) -> Window {
        Window { index: WindowIndex(index), version, slices }
    }

    #[test]
    fn an_answer_from_before_a_change_is_not_taken() {
        let mut layout = LayoutCache::default();
        let asked = layout.epoch();
        layout.forget(0..1);
        assert!(!layout.insert(0..4, vec![window(0, 1, vec![slice(0, 10, 1)])], asked));
        assert!(layout.slices(0).is_none());
        assert!(layout.insert(0..4, vec![window(1, 1, vec![slice(0, 10, 1)])], layout.epoch()));
        assert_eq!(layout.slices(0).map(|s| s.len()), Some(0));
        assert_eq!(layout.slices(1).map(|s| s.len()), Some(1));
    }

    #[test]
    fn a_commit_that_the_answer_does_not_know_stays() {
        let mut layout = LayoutCache::default();
        let asked = layout.epoch();
        layout.committed(0, 5, 1, Change::Replace(&[slice(0, 10, 9)]));
        assert!(layout.insert(0..1, vec![window(0, 4, vec![slice(0, 10, 1)])], asked));
        assert_eq!(layout.slices(0).unwrap()[0].chunk, Some(ChunkId(9)));
        layout.committed(0, 6, 2, Change::Append(&[slice(2, 3, 10)]));
        assert_eq!(layout.slices(0).unwrap().len(), 2);
        layout.committed(0, 7, 1, Change::Append(&[slice(0, 100, 11)]));
        assert_eq!(layout.slices(0).unwrap().as_ref(), &[slice(0, 100, 11)]);
        layout.committed(0, 8, 3, Change::Unknown);
        assert!(layout.slices(0).is_none());
        assert_eq!(layout.known(0).unwrap().count, 3);
    }

    #[test]
    fn memory_is_bounded_and_the_near_stays() {
        let mut layout = LayoutCache::default();
        for first in (0..100_000u64).step_by(100) {
            let windows = (first..first + 100).map(|i| window(i, 1, vec![slice(0, 1, 1)])).collect();
            assert!(layout.insert(first..first + 100, windows, layout.epoch()));
            assert!(layout.weight <= ENTRIES_MAX);
        }
        assert!(layout.slices(99_999).is_some() && layout.slices(0).is_none());
    }
}
