//! Files that are whole or absent after a crash.
//!
//! A new file is written under a temporary name, synced, renamed, and its directory synced. In this order: a name that
//! was durable before its content could show an empty file; a rename that was not synced could be undone.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Makes entries of a directory durable.
///
/// # Errors
/// Those of open(2) and fsync(2).
pub fn fsync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file as a whole: after a crash the old or the new content is there.
///
/// # Errors
/// Those of the system calls; the old content is untouched then.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename_durable(&temporary, path)
}

/// Renames within one directory, durably.
///
/// # Errors
/// Those of rename(2) and fsync(2).
pub fn rename_durable(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    fsync_dir(parent(to))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_file(&path, b"old").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
