//! Access to the disks behind a small trait, so that tests and simulations can let them fail and lose power at every step.
//!
//! All calls block; they are made on threads that may wait.

#[cfg(any(test, feature = "faulty-disk"))]
pub mod faulty;
mod real;

pub use real::RealDisk;

use crate::world;
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Directories and files of one machine.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory and those above it; one that is there already is fine.
    ///
    /// # Errors
    /// Those of mkdir(2).
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// What a directory holds, in no order.
    ///
    /// # Errors
    /// Those of readdir(3).
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Makes an empty file for reading and writing; a file with that name loses its content.
    ///
    /// # Errors
    /// Those of open(2).
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// Those of open(2).
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Those of open(2).
    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file within its file system; a file with the new name is replaced.
    ///
    /// # Errors
    /// Those of rename(2).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Those of unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of open(2) and fsync(2).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything on the file system durable, also what others wrote to it: that may take long.
    ///
    /// # Errors
    /// Those of syncfs(2).
    fn sync_all(&self, path: &Path) -> io::Result<()>;
    /// Which file a name stands for: another one after the file was replaced, or its file system unmounted.
    ///
    /// # Errors
    /// Those of stat(2).
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// How large and how full the file system is.
    ///
    /// # Errors
    /// Those of statvfs(3).
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the lock file, which is made if it is missing, until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it; those of open(2) and flock(2).
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Tells one run of the machine from the next: what was written but not synced is only lost between two runs.
    fn boot_id(&self) -> String;
}

/// An open file. Several threads may use it.
pub trait DiskFile: Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// Those of fstat(2).
    fn length(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it by zeros.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Writes all parts, one after the other, from `offset` on.
    ///
    /// # Errors
    /// Those of pwritev(2); a part may have been written then.
    fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Those of pwrite(2); a part may have been written then.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the file; those of pread(2).
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the file; those of pread(2).
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Begins to write the content to the disk, and does not wait. A hint.
    fn begin_sync(&self);
    /// Makes the content durable, as fdatasync(2) does.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    fn sync(&self) -> io::Result<()>;
    /// Forgets what is cached of the file, so that a read shows what is really on the disk.
    fn drop_cache(&self);
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names that are no UTF-8 are shown lossily: none of ours is like that.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The length of a file in bytes.
    pub size: u64,
}

/// Tells files apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The file system's device.
    pub device: u64,
    /// The file's inode number.
    pub inode: u64,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Tells file systems apart, as several directories may share one.
    pub device: u64,
    /// All bytes.
    pub total: u64,
    /// Bytes that unprivileged users may still take.
    pub free: u64,
}

/// The disks of the machine that the running task is on.
pub fn current() -> Arc<dyn Disk> {
    world::ask(|world| world.disk()).unwrap_or_else(|| Arc::new(RealDisk))
}
