//! The log's directory on a disk.

use crate::LogError;
use quarry_host::crashsafe;
use quarry_host::disk::{Disk, DiskFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Held with an exclusive lock by the process that has the log open.
const LOCK: &str = "lock";
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// A locked directory. Changes of names are durable after [`sync_dir`](Directory::sync_dir).
pub(crate) struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _lock: Box<dyn Send + Sync>,
}

impl Directory {
    /// Opens and locks `path`, making it first if it is missing.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, LogError> {
        let shown = path.display().to_string();
        crashsafe::create_dir(&*disk, path).map_err(LogError::io("create", &shown))?;
        match disk.lock(&path.join(LOCK)) {
            Ok(lock) => Ok(Self { disk, path: path.to_owned(), _lock: lock }),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(LogError::InUse(shown)),
            Err(source) => Err(LogError::io("lock", LOCK)(source)),
        }
    }

    /// The names of all files, ascending.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        let entries = self.disk.list(&self.path)?.into_iter();
        let mut names: Vec<String> = entries.map(|entry| entry.name).filter(|name| name != LOCK).collect();
        names.sort();
        Ok(names)
    }

    /// Makes a file of `length` zeros that have really been written, replacing one of that name. Not synced.
    ///
    /// Written zeros, not a hole: a later fdatasync finds its blocks allocated and initialised, and need not wait for the
    /// file system's journal.
    pub(crate) fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.create(&self.path.join(name))?;
        let zeros = vec![0; ZEROS.min(length as usize)];
        let mut offset = 0;
        while offset < length {
            let piece = zeros.len().min((length - offset) as usize);
            file.write_at(offset, &zeros[..piece])?;
            offset += piece as u64;
        }
        Ok(file)
    }

    /// Opens a file for reading and writing.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_writable(&self.path.join(name))
    }

    /// Replaces a file: after a crash it has its old content or the new one.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        crashsafe::write_file(&*self.disk, &self.path.join(name), content)
    }

    /// Renames a file, replacing one of the new name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.path.join(from), &self.path.join(to))
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(&self.path.join(name))
    }

    /// Makes all creations, renames and removals durable.
    pub(crate) fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_host::disk::RealDisk;

    fn open(path: &Path) -> Result<Directory, LogError> {
        Directory::open(Arc::new(RealDisk), path)
    }

    #[test]
    fn a_directory_is_locked_and_keeps_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let disk = open(&path).unwrap();
        assert!(matches!(open(&path), Err(LogError::InUse(_))));
        let file = disk.create("a", 10_000).unwrap();
        file.write_at(5000, b"hello").unwrap();
        file.sync().unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        let file = disk.open_file("b").unwrap();
        let mut read = [1; 7];
        file.read_at(4999, &mut read).unwrap();
        assert_eq!((&read, file.length().unwrap()), (b"\0hello\0", 10_000));
        assert!(file.read_at(9_999, &mut read).is_err());
        disk.remove("b").unwrap();
        drop(disk);
        assert!(open(&path).unwrap().list().unwrap().is_empty());
    }
}
