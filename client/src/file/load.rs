//! Asking the NameNode where the data of a file are.

use super::inode::Inode;
use super::layout::is_sound_answer;
use quarry_common::ids::WindowIndex;
use quarry_common::limits::{CHUNK_SIZE, LAYOUT_WINDOWS_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Query, QueryReply};

/// Each attempt that is overtaken by a change costs a round trip; nobody changes a file this often in a row.
pub(crate) const LOADS_MAX: usize = 100;

impl Inode {
    /// Asks for the layout around a window, unless another reader just did. What was asked may be overtaken by a
    /// change and is then still not known: the caller looks again, at most [`LOADS_MAX`] times.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub(crate) async fn load(&self, window: u64) -> Result<(), FsError> {
        let _one = self.loading.lock().await;
        let (epoch, range) = {
            let state = self.state();
            if state.knows_window(window) {
                return Ok(());
            }
            let end = (state.size().div_ceil(CHUNK_SIZE)).max(window + 1);
            (state.layout_epoch(), window..end.min(window + u64::from(LAYOUT_WINDOWS_MAX)))
        };
        let count = (range.end - range.start) as u32;
        let query = Query::Layout { ino: self.ino, first: WindowIndex(range.start), count };
        match self.shared.meta.query(query).await? {
            QueryReply::Layout { attr, windows } if is_sound_answer(&range, &windows) => {
                self.state().learn_layout(&attr, range, windows, epoch);
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The first window at or after one that has slices in the cluster.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub(crate) async fn next_window(&self, from: u64) -> Result<Option<u64>, FsError> {
        let query = Query::NextWindow { ino: self.ino, from: WindowIndex(from) };
        match self.shared.meta.query(query).await? {
            QueryReply::Layout { windows, .. } => {
                Ok(windows.first().map(|w| w.index.0).filter(|i| *i >= from))
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &QueryReply) -> FsError {
    tracing::error!(?reply, "the NameNode's answer about a layout cannot be true");
    FsError::Io
}
