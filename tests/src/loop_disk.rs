//! A file system in a file, on a loop device: a disk that a test can freeze, tear away and make read-only, and whose power it can cut.

use crate::process::shell;
use crate::wait::eventually;
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::process::Command;
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
        disk.run(&format!("truncate -s {SIZE} $IMAGE && mkfs.ext4 -qF $IMAGE && mkdir $DISK"));
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
        self.run("mount -o loop $IMAGE $DISK && rm -rf $DISK/lost+found");
    }

    /// Makes the disk read-only, as a kernel does that finds it damaged. It must be mounted anew before it takes writes.
    pub fn abort(&self) {
        self.run("mount -o remount,abort $DISK");
    }

    /// Cuts the power and gives it back: the file system stops at once, without flushing its journal, and recovers from what is on
    /// the disk. No process may use it any more.
    ///
    /// # Panics
    /// When it cannot be unmounted or mounted.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        let stop = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        let stopped = Command::new("python3").args(["-c", stop]).arg(&self.path).status();
        assert!(stopped.is_ok_and(|status| status.success()), "the file system does not stop");
        eventually("the disk is free", Duration::from_secs(10), || {
            unmount(&self.path, UnmountFlags::empty()).is_ok()
        });
        // Another file, so that nothing of the kernel's caches of the old one remains.
        self.run("cp --sparse=always $IMAGE $IMAGE.new; mv $IMAGE.new $IMAGE");
        self.plug_in();
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
