//! A file system in a file, on a loop device: a disk that a test can freeze, tear away and make read-only.

use crate::process::shell;
use crate::wait::eventually;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of the disk.
const SIZE: &str = "600M";

/// The disk, mounted until it is dropped.
pub struct LoopDisk {
    image: PathBuf,
    path: PathBuf,
}

impl LoopDisk {
    /// Makes a disk in a new file and mounts it on a new directory.
    ///
    /// # Panics
    /// When the machine does not let this process.
    pub fn mount(image: &Path, path: &Path) -> Self {
        let disk = Self { image: image.to_owned(), path: path.to_owned() };
        disk.run(&format!("truncate -s {SIZE} $IMAGE && mkfs.ext4 -q $IMAGE && mkdir $DISK"));
        disk.plug_in();
        disk
    }

    /// Lets no write to the disk return.
    pub fn freeze(&self) {
        self.run("mountpoint -q $DISK && fsfreeze -f $DISK");
    }

    /// Ends that.
    pub fn thaw(&self) {
        self.run("fsfreeze -u $DISK");
    }

    /// Takes the disk from its mount point, also while it is in use.
    pub fn tear_away(&self) {
        self.run("umount -l $DISK");
    }

    /// Mounts the disk again, as soon as nothing uses it any more.
    pub fn plug_in(&self) {
        eventually("the disk is free", Duration::from_secs(60), || {
            self.run("losetup -j $IMAGE").trim().is_empty()
        });
        self.run("mount -o loop $IMAGE $DISK");
    }

    /// Makes the disk read-only, as a kernel does that finds it damaged. It must be mounted anew before it takes writes.
    pub fn abort(&self) {
        self.run("mount -o remount,abort $DISK");
    }

    fn run(&self, command: &str) -> String {
        let (image, disk) = (self.image.display(), self.path.display());
        shell(Path::new("/"), &format!("IMAGE='{image}'; DISK='{disk}'; {command}"))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        self.run("fsfreeze -u $DISK 2>/dev/null || true; umount -l $DISK 2>/dev/null || true");
    }
}
