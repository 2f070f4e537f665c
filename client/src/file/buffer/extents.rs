//! Written bytes of one window that are not in the cluster yet.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;

/// What one extent costs beside its bytes (tree node, buffer header): charged to the write buffer, so that a
/// program that writes single bytes cannot use many times the memory that the buffer may have.
pub(crate) const EXTENT_OVERHEAD: usize = 128;

/// Neighbouring writes up to this size are copied into one buffer: copying 32 KiB takes about a microsecond, and
/// programs that write line by line would else leave thousands of extents.
const JOIN_MAX: usize = 32 << 10;
/// Joined buffers do not grow beyond this, so that growing one never copies much.
const JOINED_MAX: usize = 256 << 10;

/// Extents that do not overlap, by position.
#[derive(Debug, Default)]
pub(crate) struct ExtentMap {
    extents: BTreeMap<u32, Extent>,
    bytes: usize,
}

#[derive(Debug)]
enum Extent {
    /// As it was written, or what is left of it; `backing` are the bytes that it keeps alive.
    Shared { data: Bytes, backing: usize },
    /// Several small writes in one buffer of our own.
    Joined(Vec<u8>),
}

impl Extent {
    fn shared(data: Bytes) -> Self {
        Self::Shared { backing: data.len(), data }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared { data, .. } => data,
            Self::Joined(data) => data,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// A part of it. What keeps more than twice its size alive is copied, so that memory stays within a small
    /// factor of the bytes that count.
    fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::Shared { data, backing } if range.len() * 2 >= *backing => {
                Self::Shared { data: data.slice(range), backing: *backing }
            }
            _ => Self::shared(Bytes::copy_from_slice(&self.as_slice()[range])),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Shared { data, .. } => data,
            Self::Joined(data) => data.into(),
        }
    }
}

impl ExtentMap {
    /// Takes written bytes in; they hide what was there.
    pub(crate) fn write(&mut self, start: u32, data: Bytes) {
        debug_assert!(!data.is_empty());
        if self.overwrite(start, &data) {
            return;
        }
        self.clear(start..start + data.len() as u32);
        self.bytes += data.len();
        if !self.join(start, &data) {
            self.extents.insert(start, Extent::shared(data));
        }
    }

    /// Writes into a buffer of our own that covers all of the range.
    fn overwrite(&mut self, start: u32, data: &[u8]) -> bool {
        if let Some((at, Extent::Joined(buffer))) = self.extents.range_mut(..=start).next_back() {
            let from = (start - at) as usize;
            if let Some(target) = buffer.get_mut(from..from + data.len()) {
                target.copy_from_slice(data);
                return true;
            }
        }
        false
    }

    /// Appends to the buffer that ends where the range begins.
    fn join(&mut self, start: u32, data: &[u8]) -> bool {
        if data.len() > JOIN_MAX {
            return false;
        }
        let Some((at, extent)) = self.extents.range_mut(..start).next_back() else { return false };
        let together = extent.len() + data.len();
        if at + extent.len() as u32 != start || together > JOINED_MAX {
            return false;
        }
        match extent {
            Extent::Joined(buffer) => buffer.extend_from_slice(data),
            Extent::Shared { data: first, .. } if first.len() <= JOIN_MAX => {
                let mut buffer = Vec::with_capacity(together.next_power_of_two());
                buffer.extend_from_slice(first);
                buffer.extend_from_slice(data);
                *extent = Extent::Joined(buffer);
            }
            Extent::Shared { .. } => return false,
        }
        true
    }

    /// Forgets a range.
    fn clear(&mut self, range: Range<u32>) {
        if let Some((&at, extent)) = self.extents.range(..range.start).next_back() {
            let end = at + extent.len() as u32;
            if end > range.start {
                let left = extent.part(0..(range.start - at) as usize);
                let right =
                    (end > range.end).then(|| extent.part((range.end - at) as usize..(end - at) as usize));
                self.bytes -= (end.min(range.end) - range.start) as usize;
                self.extents.insert(at, left);
                if let Some(right) = right {
                    self.extents.insert(range.end, right);
                }
            }
        }
        while let Some((&at, _)) = self.extents.range(range.clone()).next() {
            let extent = self.extents.remove(&at).expect("it was just found");
            let end = at + extent.len() as u32;
            self.bytes -= (end.min(range.end) - at) as usize;
            if end > range.end {
                self.extents.insert(range.end, extent.part((range.end - at) as usize..extent.len()));
            }
        }
    }

    /// Written bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What they are charged with.
    pub(crate) fn cost(&self) -> usize {
        self.bytes + self.extents.len() * EXTENT_OVERHEAD
    }

    /// Nothing was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The end of the last extent, 0 without any.
    pub(crate) fn end(&self) -> u32 {
        self.extents.last_key_value().map_or(0, |(at, extent)| at + extent.len() as u32)
    }

    /// Ranges without a gap, in order.
    pub(crate) fn runs(&self) -> Vec<Range<u32>> {
        runs(self.extents.iter().map(|(at, extent)| *at..at + extent.len() as u32))
    }

    /// Where the last run begins.
    pub(crate) fn last_run_start(&self) -> u32 {
        let mut start = self.end();
        for (at, extent) in self.extents.iter().rev() {
            if at + extent.len() as u32 != start {
                break;
            }
            start = *at;
        }
        start
    }

    /// What was written within a range, in order.
    pub(crate) fn within(&self, range: Range<u32>) -> Vec<(u32, Bytes)> {
        let from = match self.extents.range(..=range.start).next_back() {
            Some((&at, _)) => at,
            None => range.start,
        };
        let mut found = Vec::new();
        for (&at, extent) in self.extents.range(from..range.end) {
            let start = at.max(range.start);
            let end = (at + extent.len() as u32).min(range.end);
            if start < end {
                let part = (start - at) as usize..(end - at) as usize;
                let data = match extent {
                    Extent::Shared { data, .. } => data.slice(part),
                    Extent::Joined(buffer) => Bytes::copy_from_slice(&buffer[part]),
                };
                found.push((start, data));
            }
        }
        found
    }

    /// The extents as they are now, for sending; nothing is copied.
    pub(crate) fn freeze(self) -> Vec<(u32, Bytes)> {
        self.extents.into_iter().map(|(at, extent)| (at, extent.into_bytes())).collect()
    }
}

/// Joins ranges in order where one begins at the other's end.
pub(crate) fn runs(ranges: impl IntoIterator<Item = Range<u32>>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(map: &ExtentMap, size: u32) -> Vec<Option<u8>> {
        let mut bytes = vec![None; size as usize];
        for (at, data) in map.within(0..size) {
            for (i, byte) in data.iter().enumerate() {
                bytes[at as usize + i] = Some(*byte);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn newest_bytes_win(writes in prop::collection::vec((0u32..200, 1usize..60, any::<u8>()), 1..40),
                            from in 0u32..260, len in 1u32..100) {
            let mut map = ExtentMap::default();
            let mut model = vec![None; 260];
            for (start, len, byte) in writes {
                map.write(start, Bytes::from(vec![byte; len]));
                model[start as usize..start as usize + len].fill(Some(byte));
            }
            prop_assert_eq!(contents(&map, 260), model.clone());
            prop_assert_eq!(map.bytes(), model.iter().flatten().count());
            let end = model.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
            prop_assert_eq!(map.end() as usize, end);
            let runs = map.runs();
            prop_assert_eq!(runs.iter().map(|r| r.len()).sum::<usize>(), map.bytes());
            prop_assert_eq!(runs.last().map(|r| r.start), Some(map.last_run_start()));
            let end = (from + len).min(260);
            let part: usize = map.within(from..end).iter().map(|(_, d)| d.len()).sum();
            let expected = model.get(from as usize..end as usize).unwrap_or_default().iter().flatten().count();
            prop_assert_eq!(part, expected);
            let frozen: usize = map.freeze().iter().map(|(_, d)| d.len()).sum();
            prop_assert_eq!(frozen, model.iter().flatten().count());
        }
    }

    #[test]
    fn small_neighbours_become_one_extent() {
        let mut map = ExtentMap::default();
        for i in 0..1000u32 {
            map.write(i * 10, Bytes::from(vec![i as u8; 10]));
        }
        assert_eq!(map.cost(), 10_000 + EXTENT_OVERHEAD);
    }

    #[test]
    fn a_sliver_does_not_keep_its_buffer() {
        let mut map = ExtentMap::default();
        map.write(0, Bytes::from(vec![1; 100_000]));
        map.write(100, Bytes::from(vec![2; 99_900]));
        assert!(matches!(map.extents[&0], Extent::Shared { backing: 100, .. }));
    }
}
