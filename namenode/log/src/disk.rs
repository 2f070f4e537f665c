//! The seam to the disk: a directory of files, small enough for a faulty twin in memory.

use std::io;
use std::sync::Arc;

/// One directory. Changes of names are durable after [`sync_dir`](Disk::sync_dir).
pub(crate) trait Disk: Send + Sync {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of `length` zeros that have really been written, replacing one of that name. Not synced.
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing one of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. All or nothing is read and written; several threads may do both.
pub(crate) trait DiskFile: Send + Sync {
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable, as fdatasync does.
    fn sync(&self) -> io::Result<()>;
}
