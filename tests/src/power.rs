//! Disks whose power can be cut.

use crate::process::shell;
use crate::wait::eventually;
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The size of a disk; the image has holes where nothing was written.
const SIZE: &str = "512M";

/// ext4 on a loop device. What was not flushed when the power is cut is gone.
pub struct Disk {
    image: PathBuf,
    path: PathBuf,
}

impl Disk {
    /// Makes a disk with its contents in `image` and mounts it on `path`, which is made.
    ///
    /// # Panics
    /// When that cannot be done, which needs root and loop devices.
    pub fn new(image: PathBuf, path: PathBuf) -> Self {
        let (file, on) = (image.display(), path.display());
        shell(Path::new("/"), &format!("mkdir '{on}'; truncate -s {SIZE} '{file}'; mkfs.ext4 -qF '{file}'"));
        let disk = Self { image, path };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let (file, on) = (self.image.display(), self.path.display());
        shell(Path::new("/"), &format!("mount -o loop '{file}' '{on}'; rm -rf '{on}/lost+found'"));
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
        let file = self.image.display();
        shell(Path::new("/"), &format!("cp --sparse=always '{file}' '{file}.new'; mv '{file}.new' '{file}'"));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}
