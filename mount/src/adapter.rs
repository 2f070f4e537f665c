//! The kernel's requests, translated: owned arguments in, the client's answer out. No policy.
//!
//! Every operation is polled once where it arrives. What can be answered from memory is answered there, without
//! another thread; the rest goes on in the runtime, where it can be given up when its caller gets a signal.

use crate::convert;
use crate::errno::errno;
use crate::handles::Handles;
use crate::interrupt::interrupted;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use quarry_client::{FileSystem, OpenFile, OpenMode};
use quarry_common::ids::Ino;
use quarry_common::limits::{NAME_MAX, READDIR_ENTRIES_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Caller, DirEntry, NewNode, RenameMode, SetAttr, SetXattrMode};
use quarry_common::wire::session::{Lock, LockKind};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// Largest write that the kernel hands over at once.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel keeps in flight for read-ahead and asynchronous direct I/O.
const MAX_BACKGROUND: u16 = 64;
/// Bytes that one `copy_file_range` moves at most, so that its answer comes soon and fits 32 bits.
const COPY_MAX: u64 = 1 << 30;
/// Entries asked for at once for one page of the kernel's buffer.
const READDIR_BATCH: u32 = 256;
/// statfs counts in these; `df` multiplies them out again.
const STATFS_BLOCK: u64 = 4096;
/// With a name the kernel is told nothing that it may remember of the inode: as long as it does not know the inode it cannot be
/// told to forget. It asks for the attributes next, and then it does.
const NO_TIME: Duration = Duration::ZERO;
/// Inode numbers are never reused, so one generation serves.
const GENERATION: Generation = Generation(0);
/// Bits of a mode that a write by an unprivileged process clears.
const SUIDGID: u16 = 0o6000;
/// Cookies of `.` and `..` come before those of the directory's own entries.
const DOTS: u64 = 2;

/// The mounted file system.
pub(crate) struct Adapter {
    fs: FileSystem,
    runtime: Handle,
    files: Arc<Handles<Arc<OpenFile>>>,
    /// Owners that took a lock, so that a close without any costs no request.
    lock_owners: Arc<Mutex<HashSet<(Ino, u64)>>>,
    /// Every file bypasses the page cache.
    direct_io: bool,
}

impl Adapter {
    pub(crate) fn new(fs: FileSystem, runtime: Handle, direct_io: bool) -> Self {
        Self { fs, runtime, files: Arc::new(Handles::new()), lock_owners: Arc::default(), direct_io }
    }

    /// How the kernel treats a handle whose answer is about to be sent.
    fn open_reply_flags(&self, flags: i32) -> impl FnOnce(&OpenFile) -> FopenFlags + Send + 'static {
        let (fs, direct) = (self.fs.clone(), self.direct_io || flags & libc::O_DIRECT != 0);
        move |file| {
            // The kernel splits a write at the end of a page that it does not have; an append must stay in one piece.
            if direct || file.mode().append {
                FopenFlags::FOPEN_DIRECT_IO
            } else if fs.attr_time(file.ino()) > Duration::ZERO {
                // Whatever it has of the file is from under the lease.
                FopenFlags::FOPEN_KEEP_CACHE
            } else {
                FopenFlags::empty()
            }
        }
    }

    fn reply_entry(
        &self,
        parent: Ino,
        name: &[u8],
        reply: ReplyEntry,
    ) -> impl FnOnce(Result<Attr, FsError>) + Send + 'static {
        let (fs, name) = (self.fs.clone(), name.to_vec());
        move |result| match result {
            Ok(attr) => {
                let time = fs.entry_time(parent, &name, Some(attr.ino));
                reply.entry_with_ttls(&NO_TIME, &time, &convert::file_attr(&attr), GENERATION);
            }
            Err(FsError::NotFound) => match fs.entry_time(parent, &name, None) {
                Duration::ZERO => reply.error(Errno::ENOENT),
                // The inode number 0 says that there is none, for that time.
                time => reply.entry_with_ttls(&NO_TIME, &time, &convert::no_inode(), GENERATION),
            },
            Err(e) => reply.error(errno(e)),
        }
    }

    fn reply_attr(&self, reply: ReplyAttr) -> impl FnOnce(Result<Attr, FsError>) + Send + 'static {
        let fs = self.fs.clone();
        move |result| match result {
            Ok(attr) => reply.attr(&fs.attr_time(attr.ino), &convert::file_attr(&attr)),
            Err(e) => reply.error(errno(e)),
        }
    }

    /// Carries out `work` and hands its result to `reply`, at once if it is ready.
    fn answer<T, W, R>(&self, req: &Request, work: W, reply: R)
    where
        T: Send + 'static,
        W: Future<Output = Result<T, FsError>> + Send + 'static,
        R: FnOnce(Result<T, FsError>) + Send + 'static,
    {
        let _runtime = self.runtime.enter();
        let mut work = Box::pin(work);
        if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return reply(result);
        }
        let tid = req.pid();
        self.runtime.spawn(async move {
            let result = tokio::select! {
                biased;
                result = &mut work => result,
                () = interrupted(tid) => Err(FsError::Interrupted),
            };
            reply(result);
        });
    }

    fn file(&self, fh: FileHandle) -> Result<Arc<OpenFile>, FsError> {
        self.files.find(fh.0).ok_or(FsError::BadHandle)
    }

    /// Frees what `owner` has locked, if it ever locked anything.
    fn unlock_all(&self, ino: Ino, owner: u64) -> impl Future<Output = Result<(), FsError>> + Send + 'static {
        let owned =
            self.lock_owners.lock().expect("no thread panics while it holds the lock").remove(&(ino, owner));
        let fs = self.fs.clone();
        async move {
            if !owned {
                return Ok(());
            }
            fs.set_lock(ino, Lock { owner, pid: 0, start: 0, end: u64::MAX, kind: LockKind::Unlock }, false)
                .await
        }
    }

    /// One page of a directory: what `add` takes until it says that the page is full.
    async fn page(
        fs: FileSystem,
        ino: Ino,
        offset: u64,
        mut add: impl FnMut(u64, &DirEntry) -> bool + Send,
    ) -> Result<(), FsError> {
        for (position, name) in [(0, b".".as_slice()), (1, b"..".as_slice())] {
            if offset <= position {
                let attr = if position == 0 { fs.getattr(ino).await? } else { fs.parent(ino).await? };
                let (ino, kind) = (attr.ino, attr.kind);
                let entry = DirEntry { cookie: 0, ino, kind, name: name.into(), attr: None };
                if add(position + 1, &entry) {
                    return Ok(());
                }
            }
        }
        let mut after = offset.saturating_sub(DOTS);
        loop {
            // With attributes, which come under leases: whoever lists a directory often looks at its files next.
            let (entries, end) = fs.readdir(ino, after, READDIR_BATCH.min(READDIR_ENTRIES_MAX), true).await?;
            let complete = end || entries.is_empty();
            for entry in entries {
                after = entry.cookie;
                if add(entry.cookie + DOTS, &entry) {
                    return Ok(());
                }
            }
            if complete {
                return Ok(());
            }
        }
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

/// Whether a change of data by this caller takes suid and sgid away. The kernel shows its own verdict on writes only.
fn unprivileged(req: &Request) -> bool {
    req.uid() != 0
}

fn reply_empty<T>(reply: ReplyEmpty) -> impl FnOnce(Result<T, FsError>) {
    move |result| match result {
        Ok(_) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

/// An attribute's value or list, or its size when the caller only asks for that (`size` 0).
fn reply_xattr(reply: ReplyXattr, size: u32) -> impl FnOnce(Result<Vec<u8>, FsError>) {
    move |result| match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

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

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in [
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            if config.add_capabilities(flag).is_err() {
                tracing::warn!(?flag, "the kernel lacks a capability");
            }
        }
        // An error carries the nearest value that the kernel accepts.
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            let _ = config.set_max_background(nearest);
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let reply = self.reply_entry(parent, &name, reply);
        self.answer(req, async move { fs.lookup(parent, &name).await }, reply);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        self.answer(req, async move { fs.getattr(ino).await }, self.reply_attr(reply));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        let chown = uid.is_some() || gid.is_some();
        let set = SetAttr {
            mode: mode.map(|m| (m & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            kill_suidgid: chown || (size.is_some() && unprivileged(req)),
        };
        // The kernel has already dropped sgid from a mode whose caller may not set it.
        self.answer(req, async move { fs.setattr(ino, set, true).await }, self.reply_attr(reply));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        self.answer(req, async move { fs.readlink(ino).await }, |result| match result {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        use quarry_common::wire::fs::FileKind;
        let node = match convert::kind_of_mode(mode) {
            Some(FileKind::File) => NewNode::File { open: false },
            Some(kind) => NewNode::Special { kind, rdev },
            None => return reply.error(Errno::EINVAL),
        };
        self.create_node(req, parent, name, node, (mode, umask), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.create_node(req, parent, name, NewNode::Dir, (mode, umask), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let node = NewNode::Symlink(target.as_os_str().as_bytes().into());
        self.create_node(req, parent, name, node, (0o777, 0), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        self.answer(req, async move { fs.unlink(parent, &name).await }, reply_empty(reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        self.answer(req, async move { fs.rmdir(parent, &name).await }, reply_empty(reply));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags.bits() {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, from, to) = (self.fs.clone(), convert::ino(parent), convert::ino(newparent));
        let (name, newname) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.answer(req, async move { fs.rename(from, &name, to, &newname, mode).await }, reply_empty(reply));
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (fs, ino, parent) = (self.fs.clone(), convert::ino(ino), convert::ino(newparent));
        let name = newname.as_bytes().to_vec();
        let reply = self.reply_entry(parent, &name, reply);
        self.answer(req, async move { fs.link(ino, parent, &name).await }, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, ino, mode) = (self.fs.clone(), convert::ino(ino), open_mode(flags.0));
        let kill = mode.truncate && unprivileged(req);
        let (files, reply_flags) = (self.files.clone(), self.open_reply_flags(flags.0));
        self.answer(
            req,
            async move {
                let file = fs.open(ino, mode).await?;
                if kill {
                    fs.setattr(ino, SetAttr { kill_suidgid: true, ..SetAttr::default() }, true).await?;
                }
                Ok(file)
            },
            move |result| match result {
                Ok(file) => {
                    let flags = reply_flags(&file);
                    reply.opened(FileHandle(files.insert(file)), flags);
                }
                Err(e) => reply.error(errno(e)),
            },
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let (caller, files, reply_flags) = (caller(req), self.files.clone(), self.open_reply_flags(flags));
        let work = async move {
            let (mode, umask) = ((mode & 0o7777) as u16, (umask & 0o777) as u16);
            match fs.create_open(parent, &name, mode, umask, caller, open_mode(flags)).await {
                // Another client was quicker: without O_EXCL its file is the one to open.
                Err(FsError::Exists) if flags & libc::O_EXCL == 0 => {
                    let attr = fs.lookup(parent, &name).await?;
                    let file = fs.open(attr.ino, open_mode(flags)).await?;
                    Ok((fs.getattr(attr.ino).await?, file))
                }
                other => other,
            }
        };
        self.answer(req, work, move |result| match result {
            Ok((attr, file)) => {
                let flags = reply_flags(&file);
                let handle = FileHandle(files.insert(file));
                reply.created(&NO_TIME, &convert::file_attr(&attr), GENERATION, handle, flags);
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (file, fs, ino) = (self.file(fh), self.fs.clone(), convert::ino(ino));
        self.answer(req, async move { file?.read(offset, size).await }, move |result| match result {
            Ok(data) => {
                reply.data(&data);
                fs.data_given(ino);
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (file, data) = (self.file(fh), bytes::Bytes::copy_from_slice(data));
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let append = flags.0 & libc::O_APPEND != 0;
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        let work = async move {
            let file = file?;
            let had_suidgid = kill && file.attr().mode & SUIDGID != 0;
            let written = if page {
                file.write_page(offset, data, kill).await?
            } else if append {
                let written = data.len() as u32;
                file.append(data, kill).await.map(|_| written)?
            } else {
                file.write(offset, data, kill).await?
            };
            if had_suidgid {
                fs.forget_attributes(ino);
            }
            Ok(written)
        };
        self.answer(req, work, |result| match result {
            Ok(written) => reply.written(written),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let (file, unlock) = (self.file(fh), self.unlock_all(convert::ino(ino), lock_owner.0));
        let work = async move {
            let flushed = file?.closing().await;
            unlock.await?;
            flushed
        };
        self.answer(req, work, reply_empty(reply));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let file = self.files.remove(fh.0);
        let unlock = lock_owner.map(|owner| self.unlock_all(convert::ino(ino), owner.0));
        // Nobody can be told of an error, and nobody may cut this short.
        self.runtime.spawn(async move {
            if let Some(unlock) = unlock
                && let Err(error) = unlock.await
            {
                tracing::warn!(%ino, %error, "a lock could not be freed at the close of its file");
            }
            if let Some(file) = file {
                file.release().await;
            }
            reply.ok();
        });
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let file = self.file(fh);
        self.answer(req, async move { file?.fsync().await }, reply_empty(reply));
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        let work = async move {
            let mut reply = reply;
            let page = Self::page(fs, ino, offset, |next, entry| {
                let name = OsStr::from_bytes(&entry.name);
                reply.add(INodeNo(entry.ino.0), next, convert::file_type(entry.kind), name)
            });
            match page.await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(e)),
            }
            Ok(())
        };
        self.answer(req, work, |_| {});
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Every change of a directory is durable before it is answered.
        reply.ok();
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        self.answer(req, async move { fs.statfs().await }, |result| match result {
            Ok(s) => {
                let (blocks, free) = (s.capacity / STATFS_BLOCK, s.free / STATFS_BLOCK);
                // Inodes have no limit of their own: as many as free blocks, as other file systems without one do.
                let files = s.inodes.saturating_add(free);
                reply.statfs(
                    blocks,
                    free,
                    free,
                    files,
                    free,
                    STATFS_BLOCK as u32,
                    NAME_MAX as u32,
                    STATFS_BLOCK as u32,
                );
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => SetXattrMode::Either,
            libc::XATTR_CREATE => SetXattrMode::Create,
            libc::XATTR_REPLACE => SetXattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        self.answer(req, async move { fs.setxattr(ino, &name, value, mode).await }, reply_empty(reply));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, ino, name) = (self.fs.clone(), convert::ino(ino), name.as_bytes().to_vec());
        self.answer(req, async move { fs.getxattr(ino, &name).await }, reply_xattr(reply, size));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        self.answer(req, async move { fs.listxattr(ino).await }, reply_xattr(reply, size));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, ino, name) = (self.fs.clone(), convert::ino(ino), name.as_bytes().to_vec());
        self.answer(req, async move { fs.removexattr(ino, &name).await }, reply_empty(reply));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // `default_permissions` makes the kernel decide; this is asked only by kernels that ignore it.
        reply.ok();
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(kind) = convert::lock_kind(typ) else { return reply.error(Errno::EINVAL) };
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        let lock = Lock { owner: lock_owner.0, pid, start, end, kind };
        self.answer(req, async move { fs.test_lock(ino, lock).await }, move |result| match result {
            Ok(Some(l)) => reply.locked(l.start, l.end, convert::lock_type(l.kind), l.pid),
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let Some(kind) = convert::lock_kind(typ) else { return reply.error(Errno::EINVAL) };
        let (fs, ino, owner) = (self.fs.clone(), convert::ino(ino), lock_owner.0);
        if kind != LockKind::Unlock {
            self.lock_owners.lock().expect("no thread panics while it holds the lock").insert((ino, owner));
        }
        let lock = Lock { owner, pid, start, end, kind };
        let work = {
            let fs = fs.clone();
            async move { fs.set_lock(ino, lock, sleep).await }
        };
        let runtime = self.runtime.clone();
        self.answer(req, work, move |result| {
            if result == Err(FsError::Interrupted) {
                // The caller gave up: so must the NameNode, or a lock would be granted that nobody frees.
                runtime.spawn(async move { fs.cancel_lock(ino, owner).await });
            }
            reply_empty(reply)(result);
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::fallocate_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let (fs, file, kill) = (self.fs.clone(), self.file(fh), unprivileged(req));
        let work = async move {
            let file = file?;
            file.fallocate(mode, offset, length, kill).await?;
            fs.forget_attributes(file.ino());
            Ok(())
        };
        self.answer(req, work, reply_empty(reply));
    }

    fn lseek(
        &self,
        req: &Request,
        _ino: INodeNo,
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
        self.answer(req, work, |result| match result {
            Ok(offset) => reply.offset(offset as i64),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (fs, from, to, kill) = (self.fs.clone(), self.file(fh_in), self.file(fh_out), unprivileged(req));
        let work = async move {
            let (from, to) = (from?, to?);
            let copied =
                fs.copy_file_range(&from, offset_in, &to, offset_out, len.min(COPY_MAX), kill).await?;
            fs.forget_attributes(to.ino());
            Ok(copied)
        };
        self.answer(req, work, |result| match result {
            Ok(copied) => reply.written(copied as u32),
            Err(e) => reply.error(errno(e)),
        });
    }
}

impl Adapter {
    fn create_node(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: NewNode,
        (mode, umask): (u32, u32),
        reply: ReplyEntry,
    ) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let (caller, mode, umask) = (caller(req), (mode & 0o7777) as u16, (umask & 0o777) as u16);
        let reply = self.reply_entry(parent, &name, reply);
        let work = async move { fs.create(parent, &name, node, mode, umask, caller).await };
        self.answer(req, work, reply);
    }
}
