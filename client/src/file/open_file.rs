//! A handle of a file.

use super::change::CopyRange;
use super::errors::ErrorCursor;
use super::inode::Inode;
use super::prefetch::Pattern;
use super::seek::Seek;
use super::writer::Position;
use bytes::Bytes;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FallocateMode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a read asks for a lease before it goes ahead without one.
const REFRESHES: u32 = 3;
/// Pause between two of these: a change is carried out in about this time.
const REFRESH_PAUSE: Duration = Duration::from_millis(1);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Writes go behind the last byte: `O_APPEND`.
    pub append: bool,
    /// Past the kernel's cache: `O_DIRECT`.
    pub direct: bool,
    /// Empty it first: `O_TRUNC`.
    pub truncate: bool,
}

/// An open file. All handles of a file share what was written, so each reads what any of them wrote.
///
/// A write returns when the data is in the mount's buffer. If it then cannot be brought into the cluster, every
/// handle that is open reports the error once, at its next write, [`flush`](Self::flush) or
/// [`fsync`](Self::fsync).
pub struct OpenFile {
    inode: Arc<Inode>,
    mode: OpenMode,
    errors: Mutex<ErrorCursor>,
    pattern: Mutex<Pattern>,
    /// What the inode told when the handle was opened.
    opened: u64,
    released: AtomicBool,
}

impl OpenFile {
    pub(crate) fn new(inode: Arc<Inode>, mode: OpenMode) -> Self {
        let (errors, opened) = inode.state().open();
        let released = AtomicBool::new(false);
        Self { inode, mode, errors: Mutex::new(errors), pattern: Mutex::default(), opened, released }
    }

    /// The inode number.
    pub fn ino(&self) -> Ino {
        self.inode.ino
    }

    /// How it was opened.
    pub fn mode(&self) -> OpenMode {
        self.mode
    }

    /// The newest attributes that this mount knows, with what is written and not committed.
    pub fn attr(&self) -> Attr {
        self.inode.state().overlaid()
    }

    /// Reads `size` bytes at `offset`, fewer at the end of the file.
    ///
    /// # Errors
    /// Those of the cluster; `Io` if data is lost.
    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes, FsError> {
        self.inode.refresh().await?;
        self.inode.state().check_locks()?;
        let file_size = self.inode.state().size();
        let access = {
            let mut pattern = self.pattern.lock().unwrap_or_else(PoisonError::into_inner);
            pattern.read(offset, size.into(), file_size, self.inode.shared.prefetch_max())
        };
        if let Some(ahead) = access.ahead {
            self.inode.prefetch(ahead);
        }
        self.inode.read(offset, size, access.onward).await
    }

    /// Writes at `offset`, also if the handle appends. Waits while the mount's write buffer is full.
    ///
    /// # Errors
    /// That of an earlier write, once; `FileTooLarge`.
    pub async fn write(&self, offset: u64, data: Bytes, kill_suidgid: bool) -> Result<u32, FsError> {
        let length = data.len() as u32;
        self.write_to(Position::At(offset), data, kill_suidgid).await?;
        Ok(length)
    }

    /// Writes a page of the kernel's cache that a program has changed through mmap.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_page(&self, offset: u64, data: Bytes, kill_suidgid: bool) -> Result<u32, FsError> {
        let length = data.len() as u32;
        self.write_to(Position::Page(offset), data, kill_suidgid).await?;
        Ok(length)
    }

    /// Writes behind the last byte. Returns the offset at which the data begins.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn append(&self, data: Bytes, kill_suidgid: bool) -> Result<u64, FsError> {
        self.write_to(Position::End, data, kill_suidgid).await
    }

    async fn write_to(&self, position: Position, data: Bytes, kill_suidgid: bool) -> Result<u64, FsError> {
        self.report()?;
        if data.len() > u32::MAX as usize {
            return Err(FsError::Invalid);
        }
        self.inode.work_for_current();
        let at = self.inode.write(position, data, kill_suidgid).await?;
        // If the write went through, its own error is on record.
        self.report()?;
        Ok(at)
    }

    /// What `close` does: nothing, if what was written may wait in the mount until somebody looks. Otherwise as
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// That of an earlier write, once.
    pub async fn closing(&self) -> Result<(), FsError> {
        if self.mode.write && !self.inode.may_wait() {
            self.inode.work_for_current();
            self.inode.flush(false).await;
        }
        self.report()
    }

    /// Waits until everything that was written to the file through this mount is in the cluster.
    ///
    /// # Errors
    /// That of an earlier write, once.
    pub async fn flush(&self) -> Result<(), FsError> {
        if self.mode.write {
            self.inode.flush(false).await;
        }
        self.report()
    }

    /// Waits until everything that was written to the file through this mount is on the disks of every DataNode
    /// that holds it, and in the NameNode's log.
    ///
    /// # Errors
    /// That of an earlier write, once, or of reaching the disks.
    pub async fn fsync(&self) -> Result<(), FsError> {
        self.inode.work_for_current();
        let synced = self.inode.sync().await;
        self.report()?;
        synced
    }

    /// fallocate(2). Returns the new attributes.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn fallocate(
        &self,
        mode: FallocateMode,
        offset: u64,
        length: u64,
        kill_suidgid: bool,
    ) -> Result<Attr, FsError> {
        self.inode.fallocate(mode, offset, length, kill_suidgid).await
    }

    /// Copies from another file, or within this one, by reference. Returns how many bytes were copied: fewer than
    /// asked for at the end of the source, or when the rest is left for another call.
    ///
    /// # Errors
    /// Those of the NameNode; `NotSupported` where the bytes themselves must be copied.
    pub async fn copy_from(
        &self,
        from: &Self,
        from_offset: u64,
        to_offset: u64,
        length: u64,
        kill_suidgid: bool,
    ) -> Result<u64, FsError> {
        let copy = CopyRange { from_offset, to_offset, length, kill_suidgid };
        self.inode.copy_from(&from.inode, copy).await
    }

    /// The first data at or after an offset.
    ///
    /// # Errors
    /// `NoSuchOffset` if there is none.
    pub async fn seek_data(&self, offset: u64) -> Result<u64, FsError> {
        self.inode.refresh().await?;
        self.inode.seek(Seek::Data, offset).await
    }

    /// The first hole at or after an offset; the end of the file is one.
    ///
    /// # Errors
    /// `NoSuchOffset` at or past the end.
    pub async fn seek_hole(&self, offset: u64) -> Result<u64, FsError> {
        self.inode.refresh().await?;
        self.inode.seek(Seek::Hole, offset).await
    }

    /// Closes the handle; what is still in the buffer is written in the background. Dropping it does the same.
    pub async fn release(&self) {
        self.close();
    }

    fn close(&self) {
        if !self.released.swap(true, Ordering::Relaxed) {
            self.inode.close(self.opened);
        }
    }

    /// The error of an earlier write that this handle has not reported.
    fn report(&self) -> Result<(), FsError> {
        let mut cursor = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        self.inode.state().report(&mut cursor)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inode {
    /// Makes sure that what is known of the file is as new as this call: asks, unless a lease says so.
    async fn refresh(&self) -> Result<(), FsError> {
        let meta = &self.shared.meta;
        if meta.exclusive(self.ino).is_some() {
            return Ok(());
        }
        for attempt in 0..REFRESHES {
            if let Some(attr) = meta.current(self.ino) {
                self.state().observe(&attr);
                break;
            }
            // No lease came with the answer: others are changing the file at this moment. With one, what is read may be kept.
            if attempt > 0 {
                tokio::time::sleep(REFRESH_PAUSE).await;
            }
            let attr = meta.attr(self.ino).await?;
            self.state().observe(&attr);
        }
        Ok(())
    }

    /// Whether data may stay in the buffer when the file is closed. What replaces an older content may not: programs
    /// rely on finding the one or the other after a crash, not an empty file.
    fn may_wait(&self) -> bool {
        !self.state().is_replacement() && self.shared.meta.exclusive(self.ino).is_some()
    }

    /// One handle less. The NameNode hears of it when the data is committed: until then an unlinked file must live.
    fn close(&self, opened: u64) {
        let later = {
            let mut state = self.state();
            state.close(opened);
            state.close_later()
        };
        if !later {
            (self.shared.closed)(self.ino);
        }
    }
}
