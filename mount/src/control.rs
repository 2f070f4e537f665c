//! What tools ask of the process behind a mount, with ioctl(2) on its root.
//!
//! syncfs(2) and umount(8) do not reach a FUSE driver: the kernel passes on neither. `quarry sync` and `quarry umount` ask here.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, Opcode, ioctl, opcode};
use std::path::Path;

/// Bring everything that was written through the mount onto the disks. No argument.
pub(crate) const SYNC: Opcode = opcode::none(b'Q', 1);
/// The id of the mount's process, as a `u32`.
pub(crate) const PROCESS: Opcode = opcode::read::<u32>(b'Q', 2);

/// Brings everything that was written through a mount onto the disks, and waits for it.
///
/// # Errors
/// `ENOTTY` if the path is not on a mount of Quarry, those of opening it, and that of a write that failed.
pub fn sync(path: &Path) -> Result<(), Errno> {
    let root = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the request has no argument, so that no memory is touched.
    unsafe { ioctl(root, NoArg::<SYNC>::new()) }
}

/// The process that serves a mount.
///
/// # Errors
/// As [`sync`].
pub fn process(path: &Path) -> Result<u32, Errno> {
    let root = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the request's number says that the answer is 4 bytes, and the kernel copies no more for it.
    unsafe { ioctl(root, Getter::<PROCESS, u32>::new()) }
}
