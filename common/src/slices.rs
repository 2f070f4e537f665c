//! The slice list of a window: newest last, later slices hide earlier ones, what no slice covers is zero.
//!
//! Lists are kept short: a slice that is hidden altogether is dropped, one that is cut at an end is shortened, zeros
//! that hide nothing are dropped, and neighbours that continue one another in the same chunk become one.

use crate::limits::CHUNK_SIZE;
use crate::wire::fs::Slice;
use std::ops::Range;

/// Bytes of a window.
pub const WINDOW: u32 = CHUNK_SIZE as u32;

/// The slice's bytes within the window.
pub fn range(slice: &Slice) -> Range<u32> {
    slice.position..slice.position + slice.length
}

/// Whether a slice from the network is within its window and, as far as that can be told, within its chunk.
pub fn is_sound(slice: &Slice) -> bool {
    let fits = |start: u32| start.checked_add(slice.length).is_some_and(|end| end <= WINDOW);
    slice.length > 0 && fits(slice.position) && fits(slice.chunk_offset)
}

/// Drops, shortens and joins what can be, without changing the data. Returns the bytes that are no hole.
pub fn normalise(list: &mut Vec<Slice>) -> u64 {
    drop_hidden(list);
    drop_idle_zeros(list);
    join_neighbours(list);
    visible(list).iter().map(|piece| u64::from(piece.length)).sum()
}

/// What the list shows: pieces with data, disjoint and in order of position.
pub fn visible(list: &[Slice]) -> Vec<Slice> {
    let mut pieces = Vec::with_capacity(list.len());
    let mut gaps = Gaps::new(0..WINDOW);
    for slice in list.iter().rev() {
        gaps.cover(range(slice), |gap| {
            if slice.chunk.is_some() {
                pieces.push(part(slice, gap));
            }
        });
    }
    pieces.sort_unstable_by_key(|piece| piece.position);
    pieces
}

/// Makes a range zero.
pub fn punch(list: &mut Vec<Slice>, hole: Range<u32>) {
    let mut inside = false;
    list.retain_mut(|slice| {
        let have = range(slice);
        if have.end <= hole.start || have.start >= hole.end {
            return true;
        }
        match (have.start < hole.start, have.end > hole.end) {
            (true, true) => inside = true,
            (true, false) => *slice = part(slice, have.start..hole.start),
            (false, true) => *slice = part(slice, hole.end..have.end),
            (false, false) => return false,
        }
        true
    });
    if inside {
        list.push(Slice {
            position: hole.start,
            length: hole.end - hole.start,
            chunk: None,
            chunk_offset: 0,
        });
    }
}

/// The part of a slice that lies in `within`, a range inside it.
pub fn part(slice: &Slice, within: Range<u32>) -> Slice {
    let skipped = within.start - slice.position;
    Slice {
        position: within.start,
        length: within.end - within.start,
        chunk: slice.chunk,
        chunk_offset: if slice.chunk.is_some() { slice.chunk_offset + skipped } else { 0 },
    }
}

/// Drops every slice of which newer ones leave nothing to see.
fn drop_hidden(list: &mut Vec<Slice>) {
    let mut gaps = Gaps::new(0..WINDOW);
    let mut seen = vec![false; list.len()];
    for (slice, seen) in list.iter().zip(&mut seen).rev() {
        gaps.cover(range(slice), |_| *seen = true);
    }
    let mut seen = seen.into_iter();
    list.retain(|_| seen.next().expect("one flag per slice"));
}

/// Drops zeros below which there is no data.
fn drop_idle_zeros(list: &mut Vec<Slice>) {
    let mut at = 0;
    while at < list.len() {
        let here = range(&list[at]);
        let hides = |older: &Slice| {
            older.chunk.is_some() && older.position < here.end && range(older).end > here.start
        };
        if list[at].chunk.is_none() && !list[..at].iter().any(hides) {
            list.remove(at);
        } else {
            at += 1;
        }
    }
}

/// Joins slices that are next to each other in the list, in the window and in their chunk.
fn join_neighbours(list: &mut Vec<Slice>) {
    list.dedup_by(|next, slice| {
        let continues = next.chunk.is_some()
            && next.chunk == slice.chunk
            && next.position == slice.position + slice.length
            && next.chunk_offset == slice.chunk_offset + slice.length;
        if continues {
            slice.length += next.length;
        }
        continues
    });
}

/// The positions of a range that no layer has covered yet, as disjoint ranges in order. Layers come newest first, so each
/// shows where the ones before it left a gap.
#[derive(Clone, Debug)]
pub struct Gaps(Vec<Range<u32>>);

impl Gaps {
    /// All of a range.
    pub fn new(range: Range<u32>) -> Self {
        Self(vec![range])
    }

    /// Whether older layers show nowhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Covers a range and passes the parts of it that were gaps to `shown`, in order.
    pub fn cover(&mut self, range: Range<u32>, mut shown: impl FnMut(Range<u32>)) {
        let first = self.0.partition_point(|gap| gap.end <= range.start);
        let last = self.0.partition_point(|gap| gap.start < range.end);
        if first >= last {
            return;
        }
        let mut left = Vec::new();
        for gap in &self.0[first..last] {
            let part = gap.start.max(range.start)..gap.end.min(range.end);
            if gap.start < part.start {
                left.push(gap.start..part.start);
            }
            if part.end < gap.end {
                left.push(part.end..gap.end);
            }
            shown(part);
        }
        self.0.splice(first..last, left);
    }
}

impl IntoIterator for Gaps {
    type Item = Range<u32>;
    type IntoIter = std::vec::IntoIter<Range<u32>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ChunkId;
    use proptest::prelude::*;

    /// What each byte of a small window shows: its chunk and the offset there.
    fn model(list: &[Slice]) -> Vec<Option<(u64, u32)>> {
        let mut bytes = vec![None; 64];
        for slice in list {
            for i in 0..slice.length {
                bytes[(slice.position + i) as usize] = slice.chunk.map(|c| (c.0, slice.chunk_offset + i));
            }
        }
        bytes
    }

    fn slices() -> impl Strategy<Value = Vec<Slice>> {
        let one =
            (0u32..63, 1u32..32, 0u64..5, 0u32..100).prop_map(|(position, length, chunk, offset)| Slice {
                position,
                length: length.min(64 - position),
                chunk: (chunk > 0).then_some(ChunkId(chunk)),
                chunk_offset: if chunk > 0 { offset } else { 0 },
            });
        prop::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn normalising_changes_no_byte(list in slices()) {
            let mut short = list.clone();
            let allocated = normalise(&mut short);
            prop_assert_eq!(model(&list), model(&short));
            prop_assert_eq!(allocated as usize, model(&list).iter().flatten().count());
            prop_assert!(short.len() <= list.len());
            let again = normalise(&mut short.clone());
            prop_assert_eq!(allocated, again);
        }

        #[test]
        fn pieces_are_disjoint_and_show_the_same(list in slices()) {
            let pieces = visible(&list);
            prop_assert!(pieces.windows(2).all(|w| range(&w[0]).end <= w[1].position));
            prop_assert_eq!(model(&list), model(&pieces));
        }

        #[test]
        fn a_hole_is_zero_and_the_rest_stays(list in slices(), start in 0u32..63, length in 1u32..64) {
            let hole = start..(start + length).min(64);
            let mut expected = model(&list);
            expected[hole.start as usize..hole.end as usize].fill(None);
            let mut list = list;
            punch(&mut list, hole);
            prop_assert_eq!(&model(&list), &expected);
            normalise(&mut list);
            prop_assert_eq!(model(&list), expected);
        }
    }

    #[test]
    fn only_neighbours_in_one_chunk_are_joined() {
        let slice = |position, chunk, chunk_offset| Slice {
            position,
            length: 10,
            chunk: Some(ChunkId(chunk)),
            chunk_offset,
        };
        let joined = |second: Slice| {
            let mut list = vec![slice(0, 1, 0), second];
            normalise(&mut list);
            list.len()
        };
        assert_eq!(joined(slice(10, 1, 10)), 1);
        assert_eq!(joined(slice(10, 2, 10)), 2, "of another chunk");
        assert_eq!(joined(slice(10, 1, 11)), 2, "not next to each other in the chunk");
        assert_eq!(joined(slice(11, 1, 10)), 2, "not next to each other in the window");
    }

    #[test]
    fn unsound_slices_are_told() {
        let slice = |position, length, chunk_offset| Slice { position, length, chunk: None, chunk_offset };
        assert!(is_sound(&slice(0, WINDOW, 0)));
        for bad in [slice(0, 0, 0), slice(1, WINDOW, 0), slice(u32::MAX, 2, 0), slice(0, 2, WINDOW - 1)] {
            assert!(!is_sound(&bad), "{bad:?}");
        }
    }
}
