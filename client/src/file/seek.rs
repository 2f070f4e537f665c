//! SEEK_DATA and SEEK_HOLE: what was written here counts as data, as do the slices in the cluster.

use super::inode::{Inode, State};
use super::load::LOADS_MAX;
use super::resolve::Source;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::slices::WINDOW;
use quarry_common::wire::error::FsError;

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seek {
    Data,
    Hole,
}

/// Where a search stands.
enum Step {
    Found(u64),
    /// The window's layout must be known first.
    Load(u64),
    /// No data in this window and those before; the next window that has some here, if any.
    Sparse {
        from: u64,
        local: Option<u64>,
    },
}

impl Inode {
    /// The first data or hole at or after an offset. The end of the file is a hole.
    ///
    /// # Errors
    /// `NoSuchOffset` at or past the end, or when only a hole follows the offset of a search for data.
    pub(crate) async fn seek(&self, what: Seek, offset: u64) -> Result<u64, FsError> {
        let mut at = offset;
        let mut loads = 0;
        loop {
            let step = self.state().seek(what, at)?;
            let next = match step {
                Step::Found(found) => return Ok(found),
                Step::Load(window) => {
                    self.load(window).await?;
                    at.max(window * CHUNK_SIZE)
                }
                Step::Sparse { from, local } => {
                    let remote = self.next_window(from).await?;
                    let next = [local, remote].into_iter().flatten().min().ok_or(FsError::NoSuchOffset)?;
                    next.max(from).saturating_mul(CHUNK_SIZE)
                }
            };
            loads = if next > at { 0 } else { loads + 1 };
            if loads > LOADS_MAX {
                tracing::error!(ino = %self.ino, at, "the layout changes faster than it can be read");
                return Err(FsError::Io);
            }
            at = next;
        }
    }
}

impl State {
    /// Goes on from `at`, over windows that are known, for as long as they have nothing of what is looked for.
    fn seek(&self, what: Seek, at: u64) -> Result<Step, FsError> {
        let size = self.size();
        let mut at = at;
        // Looking on window by window pays while the windows are known; beyond, the NameNode knows the next one.
        let mut last_known = None;
        while at < size {
            let (index, start) = (at / CHUNK_SIZE, (at % CHUNK_SIZE) as u32);
            match self.find_in_window(what, index, start) {
                None if what == Seek::Data && last_known.is_some() => {
                    let local = self.next_dirty_window(index);
                    return Ok(Step::Sparse { from: index, local });
                }
                None => return Ok(Step::Load(index)),
                Some(Some(found)) => {
                    let found = index * CHUNK_SIZE + u64::from(found);
                    return match what {
                        Seek::Data if found >= size => Err(FsError::NoSuchOffset),
                        Seek::Data | Seek::Hole => Ok(Step::Found(found.min(size))),
                    };
                }
                Some(None) => last_known = Some(index),
            }
            at = (index + 1).saturating_mul(CHUNK_SIZE);
        }
        match what {
            // Behind data up to the end.
            Seek::Hole if last_known.is_some() => Ok(Step::Found(size)),
            Seek::Hole | Seek::Data => Err(FsError::NoSuchOffset),
        }
    }

    /// The first byte of the kind at or after `start`; the outer `None` if the layout is not known.
    fn find_in_window(&self, what: Seek, index: u64, start: u32) -> Option<Option<u32>> {
        let wanted = |source: &Source| match what {
            Seek::Data => *source != Source::Zero,
            Seek::Hole => *source == Source::Zero,
        };
        let segments = self.resolve(index, start..WINDOW)?;
        Some(segments.into_iter().find(|s| wanted(&s.source)).map(|s| s.position))
    }
}
