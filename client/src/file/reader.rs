//! Reads: what was written here on top of what the cluster has.

use super::fetch::Wanted;
use super::inode::Inode;
use super::load::LOADS_MAX;
use super::resolve::{Segment, Source};
use crate::error::GetError;
use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::slices::WINDOW;
use quarry_common::wire::error::FsError;
use std::sync::Arc;
use std::time::Duration;

/// Each time that a chunk is gone, the layout is read again; a file that changes this often in a row is not read
/// but broken.
const GONE_MAX: u32 = 8;
/// Pause before the layout is read again, growing with each attempt.
pub(crate) const GONE_PAUSE: Duration = Duration::from_millis(5);

/// Zeros for holes: the kernel reads at most this much at once.
static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

impl Inode {
    /// The bytes from `offset` on: `size` of them, or fewer at the end of the file. With `onward`, what is
    /// fetched goes beyond the end of this read.
    ///
    /// # Errors
    /// Those of the cluster; `Io` if chunks are lost.
    pub(crate) async fn read(
        self: &Arc<Self>,
        offset: u64,
        size: u32,
        onward: bool,
    ) -> Result<Bytes, FsError> {
        for attempt in 1..=GONE_MAX {
            let segments = self.plan(offset, u64::from(size)).await?;
            match self.gather(segments, onward).await {
                Ok(data) => return Ok(data),
                Err(GetError::Fs(error)) => return Err(error),
                Err(GetError::Gone) => {
                    tracing::debug!(ino = %self.ino, offset, "a chunk is gone, reading the layout again");
                    self.state().forget_layout();
                    tokio::time::sleep(GONE_PAUSE * (attempt - 1)).await;
                }
            }
        }
        tracing::error!(ino = %self.ino, offset, "a chunk that the layout names does not exist");
        Err(FsError::Io)
    }

    /// Where the bytes of a range come from, as it is at one moment.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub(crate) async fn plan(&self, offset: u64, size: u64) -> Result<Vec<Segment>, FsError> {
        for _ in 0..LOADS_MAX {
            match self.plan_known(offset, size) {
                Ok(segments) => return Ok(segments),
                Err(window) => self.load(window).await?,
            }
        }
        tracing::error!(ino = %self.ino, offset, "the layout changes faster than it can be read");
        Err(FsError::Io)
    }

    /// The plan, or the first window whose layout is needed and not known.
    fn plan_known(&self, offset: u64, size: u64) -> Result<Vec<Segment>, u64> {
        let state = self.state();
        let end = offset.saturating_add(size).min(state.size());
        let mut segments = Vec::new();
        let mut at = offset;
        while at < end {
            let (index, start) = (at / CHUNK_SIZE, (at % CHUNK_SIZE) as u32);
            let length = (end - at).min(u64::from(WINDOW - start)) as u32;
            segments.append(&mut state.resolve(index, start..start + length).ok_or(index)?);
            at += u64::from(length);
        }
        Ok(segments)
    }

    /// Brings the bytes of a plan together: without a copy if they are one piece.
    async fn gather(&self, segments: Vec<Segment>, onward: bool) -> Result<Bytes, GetError> {
        let total = segments.iter().map(|s| s.length as usize).sum();
        let parts = segments.into_iter().map(|segment| self.segment(segment, onward));
        let mut pieces: Vec<Bytes> = try_join_all(parts).await?.into_iter().flatten().collect();
        if pieces.len() == 1 {
            return Ok(pieces.remove(0));
        }
        let mut data = BytesMut::with_capacity(total);
        for piece in pieces {
            data.extend_from_slice(&piece);
        }
        Ok(data.freeze())
    }

    async fn segment(&self, segment: Segment, onward: bool) -> Result<Vec<Bytes>, GetError> {
        match segment.source {
            Source::Local(data) => Ok(vec![data]),
            Source::Zero => Ok(vec![zeros(segment.length as usize)]),
            Source::Chunk { .. } => {
                let wanted = wanted(&segment).expect("it is of a chunk");
                self.shared.fetcher.read(&wanted, onward).await
            }
        }
    }
}

/// What a segment needs of a chunk.
pub(crate) fn wanted(segment: &Segment) -> Option<Wanted> {
    match segment.source {
        Source::Chunk { id, offset, known_end } => {
            Some(Wanted { id, range: offset..offset + segment.length, known_end })
        }
        Source::Local(_) | Source::Zero => None,
    }
}

fn zeros(length: usize) -> Bytes {
    match ZEROS.get(..length) {
        Some(zeros) => Bytes::from_static(zeros),
        None => vec![0; length].into(),
    }
}
