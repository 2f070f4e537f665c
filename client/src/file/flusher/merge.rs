//! Writing anew what a window shows, so that its list of slices becomes short.

use crate::error::GetError;
use crate::file::inode::Inode;
use crate::file::load::LOADS_MAX;
use crate::file::reader::{GONE_PAUSE, wanted};
use crate::file::resolve::{Segment, Source};
use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use quarry_common::ids::ChunkId;
use quarry_common::limits::SLICES_MAX;
use quarry_common::slices::WINDOW;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::Slice;
use std::sync::Arc;

/// Holes smaller than this are filled with zeros: a merged window has at most 8 slices.
const HOLE_MIN: u32 = WINDOW / 8;
/// Attempts, each with a new layout, while chunks of the window are gone.
const GONE_MAX: u32 = 8;

/// A window's new contents.
pub(crate) struct Merged {
    /// The version of the list that they replace; 0 if there was none.
    pub(crate) replaces: u64,
    pub(crate) data: Bytes,
    /// Those without a chunk are of the data, and it is still to be filled in.
    pub(crate) slices: Vec<Slice>,
}

impl Inode {
    /// Reads what the cluster has of a window, with the flying data on top.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) async fn merged(self: &Arc<Self>, index: u64) -> Result<Merged, FsError> {
        for attempt in 0.. {
            let (version, segments) = self.window(index).await?;
            // A chunk that is gone under every layout is lost.
            match self.assemble(segments, attempt == GONE_MAX).await {
                Ok((data, slices)) => return Ok(Merged { replaces: version, data, slices }),
                Err(GetError::Gone) => {
                    self.state().forget_windows(index..index + 1);
                    tokio::time::sleep(GONE_PAUSE * attempt).await;
                }
                Err(GetError::Fs(error)) => return Err(error),
            }
        }
        unreachable!("the last attempt does not end with a chunk that is gone")
    }

    /// What the window will show, and the version of its list that this is made from.
    async fn window(&self, index: u64) -> Result<(u64, Vec<Segment>), FsError> {
        for _ in 0..LOADS_MAX {
            let known = self.state().resolve_flying(index);
            if let Some(known) = known {
                return Ok(known);
            }
            self.load(index).await?;
        }
        tracing::error!(ino = %self.ino, window = index, "the layout changes faster than it can be read");
        Err(FsError::Io)
    }

    /// Lays the readable bytes out one after the other. Bytes that cannot be read stay where they are: their slices go on naming the
    /// old chunk, so that a lost chunk does not keep the rest of its window from being written.
    async fn assemble(&self, segments: Vec<Segment>, last: bool) -> Result<(Bytes, Vec<Slice>), GetError> {
        let kept: Vec<Segment> = segments.into_iter().filter(|s| !is_hole(s)).collect();
        let parts = try_join_all(kept.iter().map(|segment| self.part(segment, last))).await?;
        let mut data = BytesMut::with_capacity(WINDOW as usize);
        let mut slices: Vec<Slice> = Vec::new();
        for (segment, part) in kept.iter().zip(parts) {
            let Segment { position, length, .. } = *segment;
            let pieces = match part {
                Part::Unreadable { chunk, chunk_offset } => {
                    slices.push(Slice { position, length, chunk: Some(chunk), chunk_offset });
                    continue;
                }
                Part::Bytes(pieces) => pieces,
            };
            match slices.last_mut() {
                Some(last) if last.chunk.is_none() && last.position + last.length == position => {
                    last.length += length
                }
                _ => slices.push(Slice { position, length, chunk: None, chunk_offset: data.len() as u32 }),
            }
            for piece in pieces {
                data.extend_from_slice(&piece);
            }
        }
        if slices.len() > SLICES_MAX {
            tracing::error!(ino = %self.ino, slices = slices.len(), "what can be read of a window is in too many pieces");
            return Err(GetError::Fs(FsError::Io));
        }
        Ok((data.freeze(), slices))
    }

    async fn part(&self, segment: &Segment, last: bool) -> Result<Part, GetError> {
        match (&segment.source, wanted(segment)) {
            (_, Some(wanted)) => match self.shared.fetcher.read(&wanted, false).await {
                Ok(pieces) => Ok(Part::Bytes(pieces)),
                Err(error) if error == GetError::Fs(FsError::Io) || last => {
                    tracing::warn!(ino = %self.ino, chunk = %wanted.id, %error, "a merge leaves out what cannot be read");
                    Ok(Part::Unreadable { chunk: wanted.id, chunk_offset: wanted.range.start })
                }
                Err(error) => Err(error),
            },
            (Source::Local(data), None) => Ok(Part::Bytes(vec![data.clone()])),
            (_, None) => Ok(Part::Bytes(vec![Bytes::from(vec![0; segment.length as usize])])),
        }
    }
}

/// What is to be had of a segment.
enum Part {
    Bytes(Vec<Bytes>),
    /// The chunk is lost or corrupt.
    Unreadable {
        chunk: ChunkId,
        chunk_offset: u32,
    },
}

fn is_hole(segment: &Segment) -> bool {
    let at_an_end = segment.position == 0 || segment.position + segment.length == WINDOW;
    segment.source == Source::Zero && (segment.length >= HOLE_MIN || at_an_end)
}
