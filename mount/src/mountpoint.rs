//! The directory that a cluster is mounted on: before, at the start and at the end.

use crate::MountError;
use crate::options::MountOptions;
use rustix::fs::{Mode, OFlags, major, minor};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount as umount2};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel asks for this much ahead of a sequential reader, in pieces of 128 KiB: two chunks, so that the next one
/// is on its way while one is read.
const READ_AHEAD_KIB: u32 = 4096;
/// A mount point whose server hangs must not hang us.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the kernel may take to hand over pages that programs changed through mmap.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// How an unmount went.
pub(crate) enum Unmounted {
    /// Nobody used it.
    Now,
    /// It is out of the tree; programs inside still use it.
    WhenIdle,
}

/// Makes sure that the directory can be mounted on, and returns its absolute path. A mount there whose server died is
/// taken away; a living one is an error, and so are entries in the directory unless the mount may lie `over` them.
pub(crate) async fn prepare(path: &Path, over: bool) -> Result<PathBuf, MountError> {
    let given = path.to_path_buf();
    let refuse = |reason: &str| MountError::Mountpoint { path: given.clone(), reason: reason.to_owned() };
    let look = {
        let path = path.to_path_buf();
        tokio::task::spawn_blocking(move || look(&path, over))
    };
    match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Err(_) => Err(refuse("what is mounted there does not answer; unmount it first (umount -l)")),
        Ok(joined) => {
            joined.expect("looking at a directory does not panic").map_err(|reason| refuse(&reason))
        }
    }
}

fn look(path: &Path, over: bool) -> Result<PathBuf, String> {
    // Asked first, since the kernel never remembers its answer, as it does attributes.
    let dead = rustix::fs::statfs(path).is_err_and(|e| e == Errno::NOTCONN);
    let metadata = match std::fs::metadata(path) {
        _ if dead => {
            tracing::warn!(mountpoint = %path.display(), "taking away a mount whose server is gone");
            umount2(path, UnmountFlags::DETACH)
                .map_err(|e| format!("the dead mount there cannot be removed: {e}"))?;
            std::fs::metadata(path)
        }
        other => other,
    };
    match metadata {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err("no such directory; make it first".into());
        }
        Err(e) => return Err(e.to_string()),
        Ok(m) if !m.is_dir() => return Err("it is not a directory".into()),
        Ok(_) => {}
    }
    let path = path.canonicalize().map_err(|e| e.to_string())?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if mounts.lines().any(|line| is_quarry_on(line, &path)) {
        return Err("a cluster is mounted there already".into());
    }
    if !over && path.read_dir().map_err(|e| e.to_string())?.next().is_some() {
        return Err("it is not empty; give --over (or -o nonempty) to hide what is in it".into());
    }
    Ok(path)
}

/// Whether a line of mountinfo(5) shows a Quarry mount on the path.
fn is_quarry_on(line: &str, path: &Path) -> bool {
    let mut fields = line.split(' ');
    let on = fields.nth(4).map(unescape);
    let kind = fields.skip_while(|f| *f != "-").nth(1);
    kind == Some("fuse.quarry") && on.as_deref() == path.to_str()
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Gives the mount that is there the flags that options ask for. What it serves goes on.
///
/// # Errors
/// When there is no mount of a cluster.
pub fn remount(path: &Path, options: &MountOptions) -> Result<(), MountError> {
    let refuse = |reason: String| MountError::Mountpoint { path: path.to_path_buf(), reason };
    let absolute = path.canonicalize().map_err(|e| refuse(e.to_string()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !mounts.lines().any(|line| is_quarry_on(line, &absolute)) {
        return Err(refuse("no cluster is mounted there".into()));
    }
    set_flags(&absolute, options).map_err(|e| refuse(e.to_string()))
}

/// Sets the flags of a mount.
pub(crate) fn set_flags(path: &Path, options: &MountOptions) -> std::io::Result<()> {
    let kernel = options.kernel;
    let flags = [
        (options.read_only, MountFlags::RDONLY),
        (!kernel.suid, MountFlags::NOSUID),
        (!kernel.dev, MountFlags::NODEV),
        (kernel.no_exec, MountFlags::NOEXEC),
        (kernel.no_symfollow, MountFlags::NOSYMFOLLOW),
        (true, MountFlags::NOATIME),
    ];
    let wanted = flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag);
    Ok(mount_remount(path, wanted.fold(MountFlags::empty(), |all, flag| all | flag), "")?)
}

/// More read-ahead than a mount gets by itself. It only makes things faster, so a refusal is only logged.
pub(crate) async fn raise_read_ahead(path: &Path) {
    let path = path.to_path_buf();
    let raised = tokio::task::spawn_blocking(move || {
        let dev = rustix::fs::stat(&path)?.st_dev;
        let knob = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(dev), minor(dev));
        std::fs::write(knob, READ_AHEAD_KIB.to_string())
    });
    match raised.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(%error, "read-ahead stays at the kernel's default"),
        Err(error) => tracing::warn!(%error, "read-ahead stays at the kernel's default"),
    }
}

/// Unmounts, lazily if programs still use it. Whatever they changed through mmap is handed over first, unless the cluster is away:
/// then already opening the directory would wait.
pub(crate) async fn unmount(path: &Path) -> Unmounted {
    let sync = {
        let path = path.to_path_buf();
        tokio::task::spawn_blocking(move || {
            let root = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::fs::syncfs(root)
        })
    };
    if tokio::time::timeout(SYNC_TIMEOUT, sync).await.is_err() {
        tracing::warn!(mountpoint = %path.display(), "the kernel could not hand over all changed pages in time");
    }
    let path = path.to_path_buf();
    let unmounted = tokio::task::spawn_blocking(move || match umount2(&path, UnmountFlags::empty()) {
        Ok(()) => Ok(Unmounted::Now),
        Err(Errno::BUSY) => umount2(&path, UnmountFlags::DETACH).map(|()| Unmounted::WhenIdle),
        Err(e) => Err(e),
    });
    match unmounted.await {
        Ok(Ok(how)) => how,
        Ok(Err(error)) => {
            tracing::warn!(%error, "unmount failed; the mount ends with this process");
            Unmounted::WhenIdle
        }
        Err(error) => {
            tracing::warn!(%error, "unmount failed; the mount ends with this process");
            Unmounted::WhenIdle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_its_own_mounts() {
        let line = r"36 35 0:44 / /mnt/my\040files rw,nosuid shared:1 - fuse.quarry home rw,user_id=0";
        assert!(is_quarry_on(line, Path::new("/mnt/my files")));
        assert!(!is_quarry_on(line, Path::new("/mnt")));
        assert!(!is_quarry_on("36 35 0:44 / /mnt rw - ext4 /dev/sda rw", Path::new("/mnt")));
        assert!(!is_quarry_on("", Path::new("/mnt")));
    }

    #[tokio::test]
    async fn says_why_a_directory_will_not_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = prepare(file.path(), false).await.unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
        let error = prepare(Path::new("/no/such/place"), false).await.unwrap_err().to_string();
        assert!(error.contains("no such directory"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = prepare(dir.path(), false).await.unwrap_err().to_string();
        assert!(error.contains("--over"), "{error}");
        prepare(dir.path(), true).await.unwrap();
    }
}
