//! A directory of the local file system as a [`Disk`].

use crate::LogError;
use crate::disk::{Disk, DiskFile};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Held with an exclusive lock by the process that has the log open.
const LOCK: &str = "lock";
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// A locked directory.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    _lock: File,
}

impl Directory {
    /// Opens and locks `path`, making it first if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, LogError> {
        let shown = path.display().to_string();
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(LogError::io("create", &shown))?;
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(parent).and_then(|d| d.sync_all()).map_err(LogError::io("sync", &shown))?;
            }
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(LogError::io("open", LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::InUse(shown)),
            Err(TryLockError::Error(source)) => return Err(LogError::io("lock", LOCK)(source)),
        }
        let handle = File::open(path).map_err(LogError::io("open", &shown))?;
        Ok(Self { path: path.to_owned(), handle, _lock: lock })
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        // Written zeros, not a hole: a later fdatasync finds its blocks allocated and initialised, and need not
        // wait for the file system's journal.
        let zeros = vec![0; ZEROS.min(length as usize)];
        let mut offset = 0;
        while offset < length {
            let piece = zeros.len().min((length - offset) as usize);
            file.write_all_at(&zeros[..piece], offset)?;
            offset += piece as u64;
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::options().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_and_keeps_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let disk = Directory::open(&path).unwrap();
        assert!(matches!(Directory::open(&path), Err(LogError::InUse(_))));
        let file = disk.create("a", 10_000).unwrap();
        file.write_at(5000, b"hello").unwrap();
        file.sync().unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        let file = disk.open("b").unwrap();
        let mut read = [1; 7];
        file.read_at(4999, &mut read).unwrap();
        assert_eq!((&read, file.length().unwrap()), (b"\0hello\0", 10_000));
        assert!(file.read_at(9_999, &mut read).is_err());
        disk.remove("b").unwrap();
        drop(disk);
        assert!(Directory::open(&path).unwrap().list().unwrap().is_empty());
    }
}
