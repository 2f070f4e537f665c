//! From a path on a mount to the path within the cluster.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The path within the cluster of a path that lies on a mount of it; `None` for all others.
pub(crate) fn path_in_cluster(given: &Path, cluster: &str) -> Option<PathBuf> {
    // The last part stays as it is: a symbolic link is looked at itself, and what is watched need not exist yet.
    let whole = std::path::absolute(given).ok()?;
    let path = match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().ok()?.join(name),
        _ => whole,
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let below = innermost(&mounts, &path, cluster)?;
    Some(Path::new("/").join(below))
}

/// The rest of the path below the innermost mount that it lies on, if that is one of the cluster.
fn innermost(mounts: &str, path: &Path, cluster: &str) -> Option<PathBuf> {
    let mut found: Option<(usize, Option<PathBuf>)> = None;
    for line in mounts.lines() {
        let Some(mount) = Mount::parse(line) else { continue };
        let Ok(rest) = path.strip_prefix(&mount.on) else { continue };
        let depth = mount.on.components().count();
        // Of two mounts on one directory the later one is seen.
        if found.as_ref().is_none_or(|(deepest, _)| depth >= *deepest) {
            let ours = mount.kind == "fuse.quarry" && mount.source == cluster;
            found = Some((depth, ours.then(|| mount.root.join(rest))));
        }
    }
    let below = found?.1?;
    Some(below.strip_prefix("/").map_or_else(|_| below.clone(), Path::to_path_buf))
}

/// A line of mountinfo(5).
struct Mount<'a> {
    /// Which directory of the file system is mounted: not `/` for a bind mount.
    root: PathBuf,
    on: PathBuf,
    kind: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (root, on) = (left.next()?, left.next()?);
        Some(Self { root: unescape(root), on: unescape(on), kind: right.next()?, source: right.next()? })
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let (mut rest, mut bytes) = (field.as_bytes(), Vec::with_capacity(field.len()));
    while let Some((&first, more)) = rest.split_first() {
        let octal = more
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &more[3..];
            }
            _ => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = r"21 1 8:1 / / rw - ext4 /dev/sda1 rw
36 21 0:44 / /mnt/my\040files rw,nosuid shared:1 - fuse.quarry prod rw
37 21 0:45 / /mnt/other rw - fuse.quarry test rw
38 36 0:46 / /mnt/my\040files/tmp rw - tmpfs tmpfs rw
39 21 0:44 /home /home rw - fuse.quarry prod rw
";

    #[test]
    fn paths_on_mounts_of_the_cluster_are_found() {
        let within = |path: &str| innermost(MOUNTS, Path::new(path), "prod").map(|p| p.display().to_string());
        assert_eq!(within("/mnt/my files/a/b").as_deref(), Some("a/b"));
        assert_eq!(within("/mnt/my files").as_deref(), Some(""));
        assert_eq!(within("/home/me").as_deref(), Some("home/me"), "a bind mount of a directory");
        assert_eq!(within("/mnt/other/a"), None, "another cluster");
        assert_eq!(within("/mnt/my files/tmp/x"), None, "another file system on top");
        assert_eq!(within("/etc/passwd"), None);
    }
}
