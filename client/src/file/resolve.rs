//! Which source shows at each byte of a range: newer layers hide older ones, what none covers is zero.

use bytes::Bytes;
use quarry_common::ids::ChunkId;
use quarry_common::slices::{self, Gaps};
use quarry_common::wire::fs::Slice;
use std::ops::Range;

/// Where the bytes of a segment come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Written here and not committed yet.
    Local(Bytes),
    /// `offset` within the chunk; bytes up to `known_end` are known to be there.
    Chunk { id: ChunkId, offset: u32, known_end: u32 },
    /// A hole.
    Zero,
}

/// A run of bytes from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First byte within the window.
    pub(crate) position: u32,
    pub(crate) length: u32,
    pub(crate) source: Source,
}

/// What is still to be found of a range of a window, newest layer first.
pub(crate) struct Resolver {
    gaps: Gaps,
    found: Vec<Segment>,
}

impl Resolver {
    pub(crate) fn new(range: Range<u32>) -> Self {
        Self { gaps: Gaps::new(range), found: Vec::new() }
    }

    /// Nothing is left to look for in older layers.
    pub(crate) fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Puts a layer of local bytes under what is there.
    pub(crate) fn local(&mut self, pieces: &[(u32, Bytes)]) {
        for (at, data) in pieces {
            self.layer(*at..at + data.len() as u32, |part| {
                let start = (part.start - at) as usize;
                Source::Local(data.slice(start..start + part.len()))
            });
        }
    }

    /// Puts the slices of a window, newest last, under what is there.
    pub(crate) fn slices(&mut self, list: &[Slice]) {
        for slice in list.iter().rev() {
            if self.is_complete() {
                break;
            }
            self.layer(slices::range(slice), |part| match slice.chunk {
                None => Source::Zero,
                Some(id) => {
                    let offset = slice.chunk_offset + (part.start - slice.position);
                    Source::Chunk { id, offset, known_end: known_end(list, id) }
                }
            });
        }
    }

    /// Everything in order; what no layer has is zero.
    pub(crate) fn finish(mut self) -> Vec<Segment> {
        for gap in self.gaps {
            self.found.push(Segment {
                position: gap.start,
                length: gap.end - gap.start,
                source: Source::Zero,
            });
        }
        self.found.sort_unstable_by_key(|segment| segment.position);
        self.found
    }

    fn layer(&mut self, range: Range<u32>, source: impl Fn(Range<u32>) -> Source) {
        let Self { gaps, found } = self;
        gaps.cover(range, |part| {
            let (position, length) = (part.start, part.end - part.start);
            found.push(Segment { position, length, source: source(part) });
        });
    }
}

/// How much of a chunk is known to exist: as far as any slice of the window reaches.
fn known_end(slices: &[Slice], id: ChunkId) -> u32 {
    let same = slices.iter().filter(|s| s.chunk == Some(id));
    same.map(|s| s.chunk_offset + s.length).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_byte_shows_its_newest_layer(
            slices in prop::collection::vec((0u32..100, 1u32..50, 0u64..4, 0u32..1000), 0..20),
            local in (0u32..100, 1usize..50),
            from in 0u32..140, length in 1u32..60,
        ) {
            let slices: Vec<Slice> = slices.into_iter().map(|(position, length, id, chunk_offset)| Slice {
                position, length, chunk: (id > 0).then_some(ChunkId(id)), chunk_offset,
            }).collect();
            let mut model = vec![(0, 0); 200];
            for slice in &slices {
                for i in 0..slice.length {
                    let value = slice.chunk.map_or((0, 0), |id| (id.0, slice.chunk_offset + i));
                    model[(slice.position + i) as usize] = value;
                }
            }
            model[local.0 as usize..local.0 as usize + local.1].fill((99, 0));

            let mut resolver = Resolver::new(from..from + length);
            resolver.local(&[(local.0, Bytes::from(vec![7; local.1]))]);
            resolver.slices(&slices);
            let mut at = from;
            for segment in resolver.finish() {
                prop_assert_eq!(segment.position, at);
                for i in 0..segment.length {
                    let shown = match &segment.source {
                        Source::Local(_) => (99, 0),
                        Source::Zero => (0, 0),
                        Source::Chunk { id, offset, known_end } => {
                            prop_assert!(offset + segment.length <= *known_end);
                            (id.0, offset + i)
                        }
                    };
                    prop_assert_eq!(shown, model[(at + i) as usize]);
                }
                at += segment.length;
            }
            prop_assert_eq!(at, from + length);
        }
    }
}
