//! Writing anew what a window shows, so that its list of slices becomes short.

use crate::error::GetError;
use crate::file::inode::Inode;
use crate::file::load::LOADS_MAX;
use crate::file::reader::{GONE_PAUSE, wanted};
use crate::file::resolve::{Segment, Source};
use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
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
    /// Their chunk is still to be filled in.
    pub(crate) slices: Vec<Slice>,
}

impl Inode {
    /// Reads what the cluster has of a window, with the flying data on top.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) async fn merged(self: &Arc<Self>, index: u64) -> Result<Merged, FsError> {
        for attempt in 0..GONE_MAX {
            let (version, segments) = self.window(index).await?;
            match self.assemble(segments).await {
                Ok((data, slices)) => return Ok(Merged { replaces: version, data, slices }),
                Err(GetError::Gone) => {
                    self.state().forget_windows(index..index + 1);
                    tokio::time::sleep(GONE_PAUSE * attempt).await;
                }
                Err(GetError::Fs(error)) => return Err(error),
            }
        }
        tracing::error!(ino = %self.ino, window = index, "a chunk that the layout names does not exist");
        Err(FsError::Io)
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

    async fn assemble(&self, segments: Vec<Segment>) -> Result<(Bytes, Vec<Slice>), GetError> {
        let kept: Vec<Segment> = segments.into_iter().filter(|s| !is_hole(s)).collect();
        let parts = kept.iter().map(|segment| async move {
            match (&segment.source, wanted(segment)) {
                (_, Some(wanted)) => self.shared.fetcher.read(&wanted, false).await,
                (Source::Local(data), None) => Ok(vec![data.clone()]),
                (_, None) => Ok(vec![Bytes::from(vec![0; segment.length as usize])]),
            }
        });
        let parts = try_join_all(parts).await?;
        let mut data = BytesMut::with_capacity(WINDOW as usize);
        let mut slices: Vec<Slice> = Vec::new();
        for (segment, pieces) in kept.iter().zip(parts) {
            match slices.last_mut() {
                Some(last) if last.position + last.length == segment.position => {
                    last.length += segment.length
                }
                _ => slices.push(Slice {
                    position: segment.position,
                    length: segment.length,
                    chunk: None,
                    chunk_offset: data.len() as u32,
                }),
            }
            for piece in pieces {
                data.extend_from_slice(&piece);
            }
        }
        Ok((data.freeze(), slices))
    }
}

fn is_hole(segment: &Segment) -> bool {
    let at_an_end = segment.position == 0 || segment.position + segment.length == WINDOW;
    segment.source == Source::Zero && (segment.length >= HOLE_MIN || at_an_end)
}
