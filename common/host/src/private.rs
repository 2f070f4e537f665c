//! Files that only their owner may read: keys, logs, databases and chunks.
//!
//! Permission bits are the only protection of data at rest against other users of a host. So every process makes its files
//! with [`restrict_new_files`] in force, opens its folders with [`open_folder`], and refuses keys that others may read.

use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::process::{geteuid, umask};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Permissions of a folder that holds keys or data.
const FOLDER_MODE: u32 = 0o700;
/// Permissions that nobody but the owner may have on a key.
const OTHERS: u32 = 0o077;
/// Permissions that let other users change a folder.
const OTHERS_WRITE: u32 = 0o022;
/// The same as [`OTHERS`] for a key of root: systemd's credentials and Debian's `ssl-cert` give the service's group the right to read.
const OTHERS_OF_ROOT: u32 = 0o037;

/// Why a file or folder is not safe to use.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// Other users may read a key.
    #[error("{} may be read by other users (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    Loose {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A folder, or an entry of it, belongs to another user, who could exchange it at any time.
    #[error(
        "{} belongs to user {owner}, and this process runs as user {user}; run as that user, or chown it, or choose another folder",
        path.display()
    )]
    Foreign {
        /// The folder or its entry.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// Other users may add entries to a folder, or exchange them.
    #[error("{} may be changed by other users (mode {mode:04o}); run: chmod go-w {}", path.display(), path.display())]
    Writable {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link, through which keys or data would land elsewhere.
    #[error("{} is a symbolic link; remove it, or give the folder that it leads to", .0.display())]
    Link(PathBuf),
    /// A path that is no folder.
    #[error("{} is not a directory", .0.display())]
    NotFolder(PathBuf),
    /// A system call failed.
    #[error("cannot use {}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        error: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PrivateError + '_ {
    |error| PrivateError::Io { path: path.to_owned(), error }
}

/// From now on files of this process get mode 0600 and folders 0700 at most, from their first byte on.
pub fn restrict_new_files() {
    umask(Mode::from_raw_mode(OTHERS));
}

/// Checks that only its owner may read a key. Keys of root may be read by one group as well.
///
/// # Errors
/// [`PrivateError::Loose`], or `Io` when there is no such file.
pub fn check_key(path: &Path) -> Result<(), PrivateError> {
    let metadata = fs::metadata(path).map_err(io_error(path))?;
    let others = if metadata.uid() == 0 && geteuid().as_raw() != 0 { OTHERS_OF_ROOT } else { OTHERS };
    let mode = metadata.mode() & 0o7777;
    if mode & others == 0 { Ok(()) } else { Err(PrivateError::Loose { path: path.to_owned(), mode }) }
}

/// Makes a folder with those above it, mode 0700, or takes one that is there if other users cannot change it.
///
/// # Errors
/// `Foreign`, `Writable`, `NotFolder` or `Io`.
pub fn make_folder(path: &Path) -> Result<(), PrivateError> {
    let metadata = create(path)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(PrivateError::Writable { path: path.to_owned(), mode })
}

/// Makes a folder with those above it, or takes one that is there: it gets mode 0700, and neither it nor its entries may
/// belong to other users (except root) or be symbolic links. The entries' own entries are not looked at.
///
/// # Errors
/// See [`PrivateError`].
pub fn open_folder(path: &Path) -> Result<(), PrivateError> {
    create(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty()).map_err(|e| io_error(path)(e.into()))?;
    fchmod(&folder, Mode::from_raw_mode(FOLDER_MODE)).map_err(|e| io_error(path)(e.into()))?;
    // Nobody else can add entries any more, so what is checked now stays true.
    check_entries(path)
}

/// A folder that is there afterwards and belongs to the user of this process.
fn create(path: &Path) -> Result<fs::Metadata, PrivateError> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => PrivateError::NotFolder(path.to_owned()),
        _ => PrivateError::Io { path: path.to_owned(), error },
    })?;
    let metadata = fs::metadata(path).map_err(io_error(path))?;
    check_owner(path, metadata.uid())?;
    Ok(metadata)
}

/// Refuses symbolic links and entries of other users in a folder.
///
/// # Errors
/// `Link`, `Foreign` or `Io`.
pub fn check_entries(folder: &Path) -> Result<(), PrivateError> {
    for entry in fs::read_dir(folder).map_err(io_error(folder))? {
        let path = entry.map_err(io_error(folder))?.path();
        let metadata = match fs::symlink_metadata(&path) {
            // Removed meanwhile, or the mount point of a mount whose server is gone.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotConnected) => continue,
            other => other.map_err(io_error(&path))?,
        };
        if metadata.is_symlink() {
            return Err(PrivateError::Link(path));
        }
        // What root owns (`lost+found`, say) is no danger: root needs no tricks.
        if metadata.uid() != 0 {
            check_owner(&path, metadata.uid())?;
        }
    }
    Ok(())
}

/// Refuses a symbolic link as the last part of a path. A path that leads nowhere yet is fine.
///
/// # Errors
/// `Link`, or `Io`.
pub fn refuse_link(path: &Path) -> Result<(), PrivateError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(PrivateError::Link(path.to_owned())),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(path)(e)),
        _ => Ok(()),
    }
}

fn check_owner(path: &Path, owner: u32) -> Result<(), PrivateError> {
    let user = geteuid().as_raw();
    if owner == user { Ok(()) } else { Err(PrivateError::Foreign { path: path.to_owned(), owner, user }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        fs::write(&key, "secret").unwrap();
        for loose in [0o644, 0o640, 0o604, 0o620, 0o601] {
            set_mode(&key, loose);
            let error = check_key(&key).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", key.display())), "{error}");
        }
        for tight in [0o600, 0o400] {
            set_mode(&key, tight);
            check_key(&key).unwrap();
        }
        assert!(matches!(check_key(&dir.path().join("none")), Err(PrivateError::Io { .. })));
    }

    #[test]
    fn folders_are_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        open_folder(&new).unwrap();
        assert_eq!((mode(&new), mode(&dir.path().join("a"))), (0o700, 0o700));
        set_mode(&new, 0o777);
        open_folder(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        set_mode(&new, 0o777);
        assert!(make_folder(&new).unwrap_err().to_string().contains("chmod go-w"));
        set_mode(&new, 0o755);
        make_folder(&new).unwrap();
        assert_eq!(mode(&new), 0o755, "only new folders get a mode");
        fs::write(dir.path().join("f"), "").unwrap();
        assert!(matches!(open_folder(&dir.path().join("f")), Err(PrivateError::NotFolder(_))));
    }

    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("certs")).unwrap();
        assert!(matches!(open_folder(dir.path()), Err(PrivateError::Link(path)) if path.ends_with("certs")));
        assert!(refuse_link(&dir.path().join("certs")).is_err());
        assert!(refuse_link(&dir.path().join("none")).is_ok());
    }

    #[test]
    fn folders_and_entries_of_others_are_refused() {
        if !geteuid().is_root() {
            // Only root can make files of other users.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("planted");
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(12_345), None).unwrap();
        let error = open_folder(&folder).unwrap_err().to_string();
        assert!(error.contains("user 12345"), "{error}");
        let error = open_folder(dir.path()).unwrap_err().to_string();
        assert!(error.contains("planted"), "{error}");
    }
}
