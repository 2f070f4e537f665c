//! The kernel's requests, translated: owned arguments in, the client's answer out. No policy.
//!
//! Every operation is polled once where it arrives. What can be answered from memory is answered there, without
//! another thread; the rest goes on in the runtime, where it can be given up when its caller is killed.
//!
//! This file is fuser's trait and nothing else; the requests themselves are in [`names`], [`files`], [`locks`] and [`xattrs`].

mod control;
mod files;
mod locks;
mod names;
mod observe;
mod xattrs;

use crate::errno::errno;
use crate::handles::Handles;
use crate::task::{Interruptible, Task};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use locks::Asked;
use observe::Observed;
use quarry_client::{FileSystem, Listing, OpenFile};
use quarry_common::wire::error::FsError;
use quarry_host::trace::Scope;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;
use tokio::runtime::Handle;
use tracing::Instrument;

/// Largest write that the kernel hands over at once.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel keeps in flight for read-ahead and asynchronous direct I/O.
const MAX_BACKGROUND: u16 = 64;

/// The mounted file system.
pub(crate) struct Adapter {
    fs: FileSystem,
    runtime: Handle,
    files: Arc<Handles<Arc<OpenFile>>>,
    dirs: Handles<Arc<Listing>>,
    /// Every file bypasses the page cache.
    direct_io: bool,
}

impl Adapter {
    pub(crate) fn new(fs: FileSystem, runtime: Handle, direct_io: bool) -> Self {
        Self { fs, runtime, files: Arc::new(Handles::new()), dirs: Handles::new(), direct_io }
    }

    /// Carries out `work` and hands its result to `reply`, at once if it is ready. A caller that is killed gets an answer as well,
    /// and what it changed is done completely or not at all.
    fn answer<T, W, R>(&self, name: &'static str, req: &Request, work: W, reply: R)
    where
        T: Send + 'static,
        W: Future<Output = Result<T, FsError>> + Send + 'static,
        R: FnOnce(Result<T, FsError>) + Send + 'static,
    {
        self.answer_unless(Interruptible::WhenKilled, name, req, work, reply);
    }

    fn answer_unless<T, W, R>(&self, by: Interruptible, name: &'static str, req: &Request, work: W, reply: R)
    where
        T: Send + 'static,
        W: Future<Output = Result<T, FsError>> + Send + 'static,
        R: FnOnce(Result<T, FsError>) + Send + 'static,
    {
        let _runtime = self.runtime.enter();
        let observed = Observed::new(name, req, by);
        let mut work = Scope::new(observed.operation(), Box::pin(work));
        if let Poll::Ready(result) = Pin::new(&mut work).poll(&mut Context::from_waker(Waker::noop())) {
            observed.answered(&result);
            return reply(result);
        }
        let (task, span) = (Task::of(req), observed.span());
        let answer = async move {
            let result = tokio::select! {
                biased;
                result = &mut work => result,
                () = task.interrupted(by) => Err(FsError::Interrupted),
            };
            // First, so that whoever has the answer finds it counted.
            observed.answered(&result);
            reply(result);
        };
        self.runtime.spawn(answer.instrument(span));
    }

    fn file(&self, fh: FileHandle) -> Result<Arc<OpenFile>, FsError> {
        self.files.find(fh.0).ok_or(FsError::BadHandle)
    }
}

fn reply_empty<T>(reply: ReplyEmpty) -> impl FnOnce(Result<T, FsError>) {
    move |result| match result {
        Ok(_) => reply.ok(),
        Err(e) => reply.error(errno(e)),
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
            InitFlags::FUSE_EXPORT_SUPPORT,
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
        self.name_lookup(req, parent, name.as_bytes(), reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.name_forget(ino, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.name_getattr(req, ino, reply);
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
        self.name_setattr(req, ino, (mode, uid, gid), size, (atime, mtime), reply);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.name_readlink(req, ino, reply);
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
        self.name_mknod(req, parent, name, (mode, umask), rdev, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.name_mkdir(req, parent, name, (mode, umask), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.name_symlink(req, parent, name, target.as_os_str().as_bytes(), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.name_unlink(req, parent, name.as_bytes(), reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.name_rmdir(req, parent, name.as_bytes(), reply);
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
        self.name_rename(req, (parent, name.as_bytes()), (newparent, newname.as_bytes()), flags, reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.name_link(req, ino, newparent, newname.as_bytes(), reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.dir_open(ino, reply);
    }

    fn readdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.dir_read(req, fh, offset, reply);
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.dir_release(fh, reply);
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Every change of a directory is durable before it is answered.
        reply.ok();
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.file_open(req, ino, flags.0, reply);
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
        self.file_create(req, parent, name.as_bytes(), (mode, umask), flags, reply);
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.file_read(req, fh, offset, size, reply);
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.file_write(req, fh, offset, data, (write_flags, flags.0), reply);
    }

    fn flush(&self, req: &Request, _ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        self.file_flush(req, fh, lock_owner, reply);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.file_release(ino, fh, reply);
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.file_fsync(req, fh, reply);
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.name_statfs(req, reply);
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
        self.xattr_set(req, ino, name.as_bytes(), value, flags, reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.xattr_get(req, ino, name.as_bytes(), size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.xattr_list(req, ino, size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.xattr_remove(req, ino, name.as_bytes(), reply);
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
        self.lock_test(req, ino, lock_owner, Asked { start, end, typ, pid }, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        self.lock_set(req, (ino, fh), lock_owner, Asked { start, end, typ, pid }, sleep, reply);
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.control(req, cmd, reply);
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
        self.file_fallocate(req, fh, (offset, length), mode, reply);
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
        self.file_lseek(req, fh, offset, whence, reply);
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
        self.file_copy(req, (fh_in, offset_in), (fh_out, offset_out), len, reply);
    }
}
