//! Access to a disk behind a small trait, so that tests can let it fail and lose power at every step.
//!
//! All calls block; they are made on threads that may wait.

#[cfg(test)]
pub(crate) mod faulty;
mod real;

pub(crate) use real::RealDisk;

use bytes::Bytes;
use std::io;
use std::path::Path;

/// Directories and files of one machine.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Makes a directory and those above it; one that is there already is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// What a directory holds, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Makes a file for writing, empty.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file within its file system; a file with the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything on the file system durable, also what others wrote to it: that may take long.
    fn sync_all(&self, path: &Path) -> io::Result<()>;
    /// How large and how full the file system is.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the lock file, until the guard is dropped or the process ends; `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Tells one run of the machine from the next: what was written but not synced is only lost between two runs.
    fn boot_id(&self) -> String;
}

/// An open file.
pub(crate) trait DiskFile: Send + Sync {
    /// Writes all parts, one after the other, at the start of the file.
    fn write(&self, parts: &[Bytes]) -> io::Result<()>;
    /// Reads exactly so many bytes, or fails with `UnexpectedEof`.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Begins to write the content to the disk, and does not wait. A hint.
    fn begin_sync(&self);
    /// Makes the content durable.
    fn sync(&self) -> io::Result<()>;
    /// Forgets what is cached of the file, so that a read shows what is really on the disk.
    fn drop_cache(&self);
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Names that are no UTF-8 are shown lossily: none of ours is like that.
    pub(crate) name: String,
    pub(crate) is_dir: bool,
    pub(crate) size: u64,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Tells file systems apart, as several directories may share one.
    pub(crate) device: u64,
    pub(crate) total: u64,
    /// For unprivileged users.
    pub(crate) free: u64,
}

/// Reads a whole small file.
pub(crate) fn read_small(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(entry) = disk.list(dir)?.into_iter().find(|e| e.name == name) else { return Ok(None) };
    if entry.size > 64 << 10 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is too large to be ours")));
    }
    disk.open(&dir.join(name))?.read(0, entry.size as usize).map(Some)
}

/// Writes a whole small file, so that after a crash the old or the new content is there.
pub(crate) fn write_small(disk: &dyn Disk, dir: &Path, name: &str, content: Vec<u8>) -> io::Result<()> {
    let temporary = dir.join(format!("{name}{TEMPORARY}"));
    let file = disk.create(&temporary)?;
    file.write(&[content.into()])?;
    file.sync()?;
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// The end of every temporary name.
pub(crate) const TEMPORARY: &str = ".tmp";
