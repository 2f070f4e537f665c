//! Names, directories and attributes.

use super::{Adapter, reply_empty};
use crate::convert;
use crate::errno::errno;
use crate::task::Task;
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, RenameFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, Request, TimeOrNow,
};
use quarry_client::{Entry, Listing};
use quarry_common::limits::NAME_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Caller, FileKind, NewNode, RenameMode, SetAttr};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The kernel keeps no names.
pub(super) const NO_TIME: Duration = Duration::ZERO;
/// Inode numbers are never reused, so one generation serves.
pub(super) const GENERATION: Generation = Generation(0);
/// statfs counts in these; `df` multiplies them out again.
const STATFS_BLOCK: u64 = 4096;

fn reply_entry(reply: ReplyEntry) -> impl FnOnce(Result<Entry, FsError>) + Send + 'static {
    move |result| match result {
        Ok(entry) => {
            let attr = convert::file_attr(&entry.attr);
            reply.entry_with_ttls(&entry.time, &NO_TIME, &attr, GENERATION);
        }
        Err(e) => reply.error(errno(e)),
    }
}

fn reply_attr(reply: ReplyAttr) -> impl FnOnce(Result<Entry, FsError>) + Send + 'static {
    move |result| match result {
        Ok(entry) => reply.attr(&entry.time, &convert::file_attr(&entry.attr)),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

impl Adapter {
    pub(super) fn name_lookup(&self, req: &Request, parent: INodeNo, name: &[u8], reply: ReplyEntry) {
        let (fs, task, parent, name) = (self.fs.clone(), req.pid(), convert::ino(parent), name.to_vec());
        let work = async move {
            match name.as_slice() {
                // Asked for by number, as file handles do it.
                b"." => fs.getattr(parent).await.map(|attr| fs.entry(attr)),
                b".." => fs.parent(parent).await.map(|attr| fs.entry(attr)),
                name => fs.lookup_entry(task, parent, name).await,
            }
        };
        self.answer("lookup", req, work, reply_entry(reply));
    }

    pub(super) fn name_forget(&self, ino: INodeNo, lookups: u64) {
        self.fs.forget(convert::ino(ino), lookups);
    }

    pub(super) fn name_getattr(&self, req: &Request, ino: INodeNo, reply: ReplyAttr) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        self.answer("getattr", req, async move { fs.attr_entry(ino).await }, reply_attr(reply));
    }

    pub(super) fn name_setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        (mode, uid, gid): (Option<u32>, Option<u32>, Option<u32>),
        size: Option<u64>,
        (atime, mtime): (Option<TimeOrNow>, Option<TimeOrNow>),
        reply: ReplyAttr,
    ) {
        let (fs, ino, task) = (self.fs.clone(), convert::ino(ino), Task::of(req));
        let set = SetAttr {
            mode: mode.map(|m| (m & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ..SetAttr::default()
        };
        let work = async move {
            let attr = fs.setattr_as(ino, set, || task.credentials()).await?;
            Ok(fs.known_entry(attr))
        };
        self.answer("setattr", req, work, reply_attr(reply));
    }

    pub(super) fn name_readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        self.answer("readlink", req, async move { fs.readlink(ino).await }, |result| match result {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn name_mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        modes: (u32, u32),
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let node = match convert::kind_of_mode(modes.0) {
            Some(FileKind::File) => NewNode::File { open: false },
            Some(kind) => NewNode::Special { kind, rdev },
            None => return reply.error(Errno::EINVAL),
        };
        self.create_node(("mknod", req), parent, name, node, modes, reply);
    }

    pub(super) fn name_mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        modes: (u32, u32),
        reply: ReplyEntry,
    ) {
        self.create_node(("mkdir", req), parent, name, NewNode::Dir, modes, reply);
    }

    pub(super) fn name_symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &[u8],
        reply: ReplyEntry,
    ) {
        let node = NewNode::Symlink(target.into());
        self.create_node(("symlink", req), parent, name, node, (0o777, 0), reply);
    }

    fn create_node(
        &self,
        (operation, req): (&'static str, &Request),
        parent: INodeNo,
        name: &OsStr,
        node: NewNode,
        (mode, umask): (u32, u32),
        reply: ReplyEntry,
    ) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let (caller, mode, umask) = (caller(req), (mode & 0o7777) as u16, (umask & 0o777) as u16);
        let work = async move {
            let attr = fs.create(parent, &name, node, mode, umask, caller).await?;
            Ok(fs.entry(attr))
        };
        self.answer(operation, req, work, reply_entry(reply));
    }

    pub(super) fn name_unlink(&self, req: &Request, parent: INodeNo, name: &[u8], reply: ReplyEmpty) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.to_vec());
        self.answer("unlink", req, async move { fs.unlink(parent, &name).await }, reply_empty(reply));
    }

    pub(super) fn name_rmdir(&self, req: &Request, parent: INodeNo, name: &[u8], reply: ReplyEmpty) {
        let (fs, parent, name) = (self.fs.clone(), convert::ino(parent), name.to_vec());
        self.answer("rmdir", req, async move { fs.rmdir(parent, &name).await }, reply_empty(reply));
    }

    pub(super) fn name_rename(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &[u8]),
        (newparent, newname): (INodeNo, &[u8]),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags.bits() {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            libc::RENAME_WHITEOUT => RenameMode::Whiteout,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, from, to) = (self.fs.clone(), convert::ino(parent), convert::ino(newparent));
        let (name, newname) = (name.to_vec(), newname.to_vec());
        self.answer(
            "rename",
            req,
            async move { fs.rename(from, &name, to, &newname, mode).await },
            reply_empty(reply),
        );
    }

    pub(super) fn name_link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &[u8],
        reply: ReplyEntry,
    ) {
        let (fs, ino, parent) = (self.fs.clone(), convert::ino(ino), convert::ino(newparent));
        let name = newname.to_vec();
        let work = async move {
            let attr: Attr = fs.link(ino, parent, &name).await?;
            Ok(fs.entry(attr))
        };
        self.answer("link", req, work, reply_entry(reply));
    }

    pub(super) fn dir_open(&self, ino: INodeNo, reply: ReplyOpen) {
        let handle = self.dirs.insert(Arc::new(Listing::new(convert::ino(ino))));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    pub(super) fn dir_read(&self, req: &Request, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let (fs, listing) = (self.fs.clone(), self.dirs.find(fh.0));
        // Shared with the work, since it must be answered also when the work is given up.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let page = reply.clone();
        let work = async move {
            let listing = listing.ok_or(FsError::BadHandle)?;
            let add = |next, entry: &quarry_common::wire::fs::DirEntry| {
                let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
                page.as_mut().is_none_or(|page| {
                    let name = OsStr::from_bytes(&entry.name);
                    page.add(INodeNo(entry.ino.0), next, convert::file_type(entry.kind), name)
                })
            };
            fs.list(&listing, offset, add).await
        };
        self.answer("readdir", req, work, move |result| {
            let Some(reply) = reply.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            match result {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    pub(super) fn dir_release(&self, fh: FileHandle, reply: ReplyEmpty) {
        self.dirs.remove(fh.0);
        reply.ok();
    }

    pub(super) fn name_statfs(&self, req: &Request, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        self.answer("statfs", req, async move { fs.statfs().await }, |result| match result {
            Ok(s) => {
                let (blocks, free) = (s.capacity / STATFS_BLOCK, s.free / STATFS_BLOCK);
                // Inodes have no limit of their own: as many as free blocks, as other file systems without one do.
                let files = s.inodes.saturating_add(free);
                let size = STATFS_BLOCK as u32;
                reply.statfs(blocks, free, free, files, free, size, NAME_MAX as u32, size);
            }
            Err(e) => reply.error(errno(e)),
        });
    }
}
