//! Files that are whole or absent after a crash.
//!
//! A new file is written under a temporary name, synced, renamed, and its directory synced. In this order: a name that
//! was durable before its content could show an empty file; a rename that was not synced could be undone.

use crate::disk::Disk;
use std::io;
use std::path::{Path, PathBuf};

/// The end of every temporary name.
pub const TEMPORARY: &str = ".tmp";

/// Reads a whole file; `None` if it is missing.
///
/// # Errors
/// `InvalidData` when it has more than `max` bytes; those of the system calls.
pub fn read_file(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = file.length()?;
    if length > max {
        let what = format!("{} has {length} bytes, more than the {max} that it may have", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    file.read(0, length as usize).map(Some)
}

/// Writes a file as a whole: after a crash the old or the new content is there.
///
/// # Errors
/// Those of the system calls; the old content is untouched then.
pub fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    let file = disk.create(&temporary)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    rename_durable(disk, &temporary, path)
}

/// Renames within one directory, durably.
///
/// # Errors
/// Those of rename(2) and fsync(2).
pub fn rename_durable(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.rename(from, to)?;
    disk.sync_dir(parent(to))
}

/// Makes a directory and those above it, durably; one that is there already is fine.
///
/// # Errors
/// Those of mkdir(2) and fsync(2).
pub fn create_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let is_missing = |dir: &&Path| dir.parent().is_some() && disk.list(dir).is_err();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    disk.create_dir(path)?;
    for made in missing {
        disk.sync_dir(parent(made))?;
    }
    match disk.sync_dir(parent(path)) {
        // A process that was killed may have made the directory and not synced its name. Where this process may not even look,
        // an administrator made it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// The directory that a path is in; the current one for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(TEMPORARY);
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::faulty::{FaultyDisk, Survival};

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read_file(&RealDisk, &path, 10).unwrap(), None);
        write_file(&RealDisk, &path, b"old").unwrap();
        write_file(&RealDisk, &path, b"new").unwrap();
        assert_eq!(read_file(&RealDisk, &path, 3).unwrap().unwrap(), b"new");
        assert_eq!(read_file(&RealDisk, &path, 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_directory_outlives_a_loss_of_power_with_those_above_it() {
        let disk = FaultyDisk::default();
        create_dir(&disk, Path::new("/a/b/c")).unwrap();
        create_dir(&disk, Path::new("/a/b/c")).unwrap();
        write_file(&disk, Path::new("/a/b/c/f"), b"content").unwrap();
        let disk = disk.after_power_loss(Survival::Each(0.0), 0);
        assert_eq!(read_file(&disk, Path::new("/a/b/c/f"), 10).unwrap().unwrap(), b"content");
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_content_or_the_new() {
        let path = Path::new("/d/f");
        for step in 1.. {
            let disk = FaultyDisk::default();
            create_dir(&disk, Path::new("/d")).unwrap();
            write_file(&disk, path, b"old").unwrap();
            disk.kill_at(disk.steps() + step);
            let done = write_file(&disk, path, b"new").is_ok();
            for seed in 0..20 {
                let disk = disk.after_power_loss(Survival::Any, seed);
                let content = read_file(&disk, path, 10).unwrap().unwrap();
                assert!(content == b"new" || !done && content == b"old", "step {step}, seed {seed}");
            }
            if done {
                return;
            }
        }
    }
}
