//! Telling the kernel to forget, when a lease no longer protects what it remembers.
//!
//! Attributes and data are forgotten inode by inode. Names are forgotten all at once, by a new epoch: entries that were looked
//! up in an earlier one are looked up again when they are next used. To forget a single name the kernel takes the
//! directory's lock, which an operation on that directory may hold that waits for us; a new epoch takes no lock, and
//! an answer that is on its way to the kernel counts for the epoch in which it was asked for.

use fuser::{INodeNo, Notifier};
use quarry_client::Invalidator;
use quarry_common::ids::Ino;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;

/// `FUSE_NOTIFY_INC_EPOCH` of `linux/fuse.h`: Linux 6.16 and later.
const NOTIFY_INC_EPOCH: i32 = 8;
/// `fuse_out_header`: length, code, and a zero where answers have the number of their request.
const HEADER_SIZE: u32 = 16;

/// The kernel's memory of a mount.
pub(crate) struct KernelCache {
    notifier: Notifier,
    /// The mount's `/dev/fuse`, for what `notifier` cannot say.
    device: File,
    /// It knows what an epoch is.
    epochs: bool,
}

impl KernelCache {
    pub(crate) fn new(notifier: Notifier, device: File) -> Self {
        let mut cache = Self { notifier, device, epochs: true };
        if let Err(error) = cache.next_epoch() {
            tracing::info!(%error, "the kernel cannot be told to forget names (Linux 6.16 can): it asks for each");
            cache.epochs = false;
        }
        cache
    }

    fn next_epoch(&self) -> io::Result<()> {
        let mut message = [0; HEADER_SIZE as usize];
        message[..4].copy_from_slice(&HEADER_SIZE.to_ne_bytes());
        message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
        (&self.device).write_all(&message)
    }

    /// `offset` below zero: the attributes only. `length` 0: to the end.
    fn forget(&self, ino: Ino, offset: i64, length: i64) {
        match self.notifier.inval_inode(INodeNo(ino.0), offset, length) {
            Ok(()) => {}
            // It does not know the inode, or the mount is gone.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN)) => {}
            Err(error) => tracing::error!(%ino, %error, "the kernel does not forget an inode"),
        }
    }
}

impl Invalidator for KernelCache {
    fn inode(&self, ino: Ino) {
        self.forget(ino, 0, 0);
    }

    fn attributes(&self, ino: Ino) {
        self.forget(ino, -1, 0);
    }

    fn data(&self, ino: Ino, range: Range<u64>) {
        let length = if range.end == u64::MAX { 0 } else { range.end - range.start };
        self.forget(ino, range.start as i64, length as i64);
    }

    fn can_forget_names(&self) -> bool {
        self.epochs
    }

    fn names(&self) {
        if !self.epochs {
            return;
        }
        match self.next_epoch() {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN)) => {}
            Err(error) => tracing::error!(%error, "the kernel does not forget names"),
        }
    }
}
