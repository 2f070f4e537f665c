//! Open files and their data.

use super::names::{GENERATION, NO_TIME, caller};
use super::{Adapter, reply_empty};
use crate::convert;
use crate::errno::errno;
use crate::task::Task;
use bytes::Bytes;
use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, LockOwner, ReplyCreate, ReplyData, ReplyEmpty, ReplyLseek,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use quarry_client::{Credentials, NewFile, OpenFile, OpenMode};
use quarry_common::wire::error::FsError;
use quarry_host::clock;
use quarry_host::metrics::table::{MOUNT_BYTES, MOUNT_OPERATION};

/// Bytes that one `copy_file_range` moves at most, so that its answer comes soon and fits 32 bits.
const COPY_MAX: u64 = 1 << 30;

fn open_mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        direct: flags & libc::O_DIRECT != 0,
        truncate: flags & libc::O_TRUNC != 0,
    }
}

/// Whether reads and writes of a handle go past the kernel's page cache. The kernel splits a write at the end of a page that it
/// does not have; an append must stay in one piece.
fn is_direct(file: &OpenFile, direct_io: bool) -> bool {
    direct_io || file.mode().direct || file.mode().append
}

impl Adapter {
    /// How the kernel treats a handle whose answer is about to be sent.
    fn open_reply_flags(&self) -> impl FnOnce(&OpenFile) -> FopenFlags + Send + 'static {
        let (fs, direct_io) = (self.fs.clone(), self.direct_io);
        move |file| {
            if is_direct(file, direct_io) {
                FopenFlags::FOPEN_DIRECT_IO
            } else if fs.may_keep_data(file.ino()) {
                FopenFlags::FOPEN_KEEP_CACHE
            } else {
                FopenFlags::empty()
            }
        }
    }

    pub(super) fn file_open(&self, req: &Request, ino: INodeNo, flags: i32, reply: ReplyOpen) {
        let (fs, ino, mode, task) = (self.fs.clone(), convert::ino(ino), open_mode(flags), Task::of(req));
        let (files, reply_flags) = (self.files.clone(), self.open_reply_flags());
        let work = async move {
            let file = fs.open_entry(task.tid(), ino, mode).await?;
            if mode.truncate {
                fs.truncated_as(&file, || task.credentials()).await?;
            }
            Ok(file)
        };
        self.answer("open", req, work, move |result| match result {
            Ok(file) => {
                let flags = reply_flags(&file);
                reply.opened(FileHandle(files.insert(file)), flags);
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn file_create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &[u8],
        (mode, umask): (u32, u32),
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.to_vec());
        let (files, reply_flags) = (self.files.clone(), self.open_reply_flags());
        let new = NewFile {
            mode: (mode & 0o7777) as u16,
            umask: (umask & 0o777) as u16,
            caller: caller(req),
            open: open_mode(flags),
            exclusive: flags & libc::O_EXCL != 0,
            task: req.pid(),
        };
        let work = async move { fs.create_entry(parent, &name, new).await };
        self.answer("create", req, work, move |result| match result {
            Ok((entry, file)) => {
                let flags = reply_flags(&file);
                let handle = FileHandle(files.insert(file));
                // One time for name and attributes, and the kernel keeps no names.
                reply.created(&NO_TIME, &convert::file_attr(&entry.attr), GENERATION, handle, flags);
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn file_read(&self, req: &Request, fh: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        let (file, fs, direct_io) = (self.file(fh), self.fs.clone(), self.direct_io);
        let work = async move {
            let file = file?;
            if is_direct(&file, direct_io) {
                return file.read(offset, size).await.map(|data| (data, None));
            }
            let pages = fs.read_pages(&file, offset, size).await?;
            Ok((pages.data.clone(), Some(pages)))
        };
        self.answer("read", req, work, move |result| match result {
            Ok((data, pages)) => {
                MOUNT_BYTES.add(&["read"], data.len() as u64);
                reply.data(&data);
                drop(pages);
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn file_write(
        &self,
        req: &Request,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        (flags, open_flags): (WriteFlags, i32),
        reply: ReplyWrite,
    ) {
        let (file, data, task) = (self.file(fh), Bytes::copy_from_slice(data), Task::of(req));
        let kill = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let page = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let (fs, direct_io) = (self.fs.clone(), self.direct_io);
        let work = async move {
            let file = file?;
            if page {
                return file.write_page(offset, data, false).await;
            }
            let length = data.len() as u32;
            let offset = (!file.mode().append).then_some(offset);
            // The kernel has looked at the capabilities; at the groups only where they count.
            let credentials = || match kill {
                true => Credentials { keeps_suidgid: false, ..task.credentials() },
                false => Credentials { keeps_suidgid: true, groups: Vec::new() },
            };
            let at = fs.write_as(&file, offset, data, credentials).await?;
            if is_direct(&file, direct_io) {
                fs.wrote_past_pages(file.ino(), at..at.saturating_add(length.into())).await;
                // For handles in the page cache the kernel asks for the sync itself. O_SYNC has the bit of O_DSYNC.
                if open_flags & libc::O_DSYNC != 0 {
                    file.fsync().await?;
                }
            }
            Ok(length)
        };
        self.answer("write", req, work, |result| match result {
            Ok(written) => {
                MOUNT_BYTES.add(&["write"], written.into());
                reply.written(written);
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn file_flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (file, fs, ino) = (self.file(fh), self.fs.clone(), convert::ino(ino));
        let work = async move {
            let flushed = file?.closing().await;
            let unlocked = fs.unlock_closing(ino, fh.0, owner.0).await;
            flushed.and(unlocked)
        };
        self.answer("flush", req, work, reply_empty(reply));
    }

    pub(super) fn file_release(&self, ino: INodeNo, fh: FileHandle, reply: ReplyEmpty) {
        let (file, fs) = (self.files.remove(fh.0), self.fs.clone());
        // No caller waits: an error is told to none, and no signal cuts this short.
        let begun = clock::now();
        self.runtime.spawn(async move {
            if let Err(error) = fs.unlock_released(convert::ino(ino), fh.0).await {
                tracing::warn!(%ino, %error, "a lock could not be freed at the close of its file");
            }
            if let Some(file) = file {
                file.release().await;
            }
            MOUNT_OPERATION.observe_since(&["release", "ok"], begun);
            reply.ok();
        });
    }

    pub(super) fn file_fsync(&self, req: &Request, fh: FileHandle, reply: ReplyEmpty) {
        let file = self.file(fh);
        self.answer("fsync", req, async move { file?.fsync().await }, reply_empty(reply));
    }

    pub(super) fn file_fallocate(
        &self,
        req: &Request,
        fh: FileHandle,
        range: (u64, u64),
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::fallocate_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let (fs, file, task) = (self.fs.clone(), self.file(fh), Task::of(req));
        let work = async move { fs.fallocate_as(&*file?, mode, range, || task.credentials()).await };
        self.answer("fallocate", req, work, reply_empty(reply));
    }

    pub(super) fn file_lseek(
        &self,
        req: &Request,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let file = self.file(fh);
        let work = async move {
            let (file, offset) = (file?, u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?);
            match whence {
                libc::SEEK_DATA => file.seek_data(offset).await,
                libc::SEEK_HOLE => file.seek_hole(offset).await,
                _ => Err(FsError::Invalid),
            }
        };
        self.answer("lseek", req, work, |result| match result {
            Ok(offset) => reply.offset(offset as i64),
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn file_copy(
        &self,
        req: &Request,
        (fh_in, offset_in): (FileHandle, u64),
        (fh_out, offset_out): (FileHandle, u64),
        length: u64,
        reply: ReplyWrite,
    ) {
        let (fs, from, to, task) = (self.fs.clone(), self.file(fh_in), self.file(fh_out), Task::of(req));
        let work = async move {
            let (from, to) = (from?, to?);
            let credentials = || task.credentials();
            fs.copy_as((&from, offset_in), (&to, offset_out), length.min(COPY_MAX), credentials).await
        };
        self.answer("copy_file_range", req, work, |result| match result {
            Ok(copied) => reply.written(copied as u32),
            Err(e) => reply.error(errno(e)),
        });
    }
}
