//! Telling the kernel to forget, when a lease no longer protects what it remembers of an inode.

use quarry_client::{Forgotten, Invalidator};
use quarry_common::ids::Ino;
use std::fs::File;
use std::io::Write;
use std::ops::Range;

/// `FUSE_NOTIFY_INVAL_INODE` of `linux/fuse.h`.
const NOTIFY_INVAL_INODE: i32 = 2;
/// `FUSE_NOTIFY_PRUNE`, since Linux 6.18: drops inodes that nothing refers to, and takes no lock of a directory for it.
const NOTIFY_PRUNE: i32 = 9;
/// Inodes in one message to drop some.
const PRUNE_MAX: usize = 256;
/// `fuse_out_header` (length, code, and a zero where answers have the number of their request) and
/// `fuse_notify_inval_inode_out` (inode, offset, length).
const MESSAGE_SIZE: usize = 16 + 24;

/// The kernel's memory of a mount.
pub(crate) struct KernelCache {
    /// The mount's `/dev/fuse`: fuser's own notifier does not tell whether the kernel knows the inode.
    device: File,
}

impl KernelCache {
    pub(crate) fn new(device: File) -> Self {
        Self { device }
    }

    /// Before Linux 6.18 the kernel drops inodes only when memory is short.
    fn drop_inodes(&self, inos: &[Ino]) {
        if let Err(error) = (&self.device).write_all(&prune_message(inos)) {
            tracing::debug!(%error, inodes = inos.len(), "the kernel does not drop inodes");
        }
    }

    /// `offset` below zero: the attributes only. `length` 0: to the end.
    fn forget(&self, ino: Ino, offset: i64, length: i64) -> Forgotten {
        match (&self.device).write_all(&message(ino, offset, length)) {
            Ok(()) => Forgotten::Done,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Forgotten::Unknown,
            // The mount is gone.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED)) =>
            {
                Forgotten::Done
            }
            Err(error) => {
                tracing::error!(%ino, %error, "the kernel does not forget an inode");
                Forgotten::Done
            }
        }
    }
}

fn message(ino: Ino, offset: i64, length: i64) -> [u8; MESSAGE_SIZE] {
    let mut message = [0; MESSAGE_SIZE];
    message[..4].copy_from_slice(&(MESSAGE_SIZE as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_INVAL_INODE.to_ne_bytes());
    message[16..24].copy_from_slice(&ino.0.to_ne_bytes());
    message[24..32].copy_from_slice(&offset.to_ne_bytes());
    message[32..].copy_from_slice(&length.to_ne_bytes());
    message
}

/// `fuse_out_header` and `fuse_notify_prune_out` (count, padding, a spare), then the inodes.
fn prune_message(inos: &[Ino]) -> Vec<u8> {
    let size = 32 + 8 * inos.len() as u32;
    let mut message = Vec::with_capacity(size as usize);
    message.extend(size.to_ne_bytes());
    message.extend(NOTIFY_PRUNE.to_ne_bytes());
    message.extend([0; 8]);
    message.extend((inos.len() as u32).to_ne_bytes());
    message.extend([0; 12]);
    inos.iter().for_each(|ino| message.extend(ino.0.to_ne_bytes()));
    message
}

impl Invalidator for KernelCache {
    fn inode(&self, ino: Ino) -> Forgotten {
        self.forget(ino, 0, 0)
    }

    fn attributes(&self, ino: Ino) -> Forgotten {
        self.forget(ino, -1, 0)
    }

    fn prune(&self, inos: &[Ino]) {
        inos.chunks(PRUNE_MAX).for_each(|inos| self.drop_inodes(inos));
    }

    fn data(&self, ino: Ino, range: Range<u64>) -> Forgotten {
        let length = if range.end == u64::MAX { 0 } else { range.end - range.start };
        self.forget(ino, range.start as i64, length as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_laid_out_as_the_kernel_reads_it() {
        let message = message(Ino(7), -1, 4096);
        assert_eq!(message.len(), 40);
        assert_eq!(i32::from_ne_bytes(message[4..8].try_into().unwrap()), 2);
        assert_eq!(message[8..16], [0; 8]);
        assert_eq!(u64::from_ne_bytes(message[16..24].try_into().unwrap()), 7);
        assert_eq!(i64::from_ne_bytes(message[24..32].try_into().unwrap()), -1);
        assert_eq!(i64::from_ne_bytes(message[32..].try_into().unwrap()), 4096);
        let message = prune_message(&[Ino(7), Ino(8)]);
        assert_eq!(message.len(), 48);
        assert_eq!(message[..4], 48u32.to_ne_bytes());
        assert_eq!(message[16..20], 2u32.to_ne_bytes());
        assert_eq!(message[20..32], [0; 12]);
        assert_eq!(message[40..], 8u64.to_ne_bytes());
    }
}
