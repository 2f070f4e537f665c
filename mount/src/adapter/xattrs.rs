//! Extended attributes.

use super::{Adapter, reply_empty};
use crate::convert;
use crate::errno::errno;
use crate::task::Task;
use fuser::{Errno, INodeNo, ReplyEmpty, ReplyXattr, Request};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::SetXattrMode;

/// An attribute's value or list, or its size when the caller only asks for that (`size` 0).
fn reply_xattr(reply: ReplyXattr, size: u32) -> impl FnOnce(Result<Vec<u8>, FsError>) {
    move |result| match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

impl Adapter {
    pub(super) fn xattr_set(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &[u8],
        value: &[u8],
        flags: i32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => SetXattrMode::Either,
            libc::XATTR_CREATE => SetXattrMode::Create,
            libc::XATTR_REPLACE => SetXattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, ino, task) = (self.fs.clone(), convert::ino(ino), Task::of(req));
        let (name, value) = (name.to_vec(), value.to_vec());
        let work = async move { fs.setxattr_as(ino, &name, value, mode, || task.credentials()).await };
        self.answer("setxattr", req, work, reply_empty(reply));
    }

    pub(super) fn xattr_get(&self, req: &Request, ino: INodeNo, name: &[u8], size: u32, reply: ReplyXattr) {
        let (fs, ino, name) = (self.fs.clone(), convert::ino(ino), name.to_vec());
        self.answer("getxattr", req, async move { fs.getxattr(ino, &name).await }, reply_xattr(reply, size));
    }

    pub(super) fn xattr_list(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        self.answer("listxattr", req, async move { fs.listxattr(ino).await }, reply_xattr(reply, size));
    }

    pub(super) fn xattr_remove(&self, req: &Request, ino: INodeNo, name: &[u8], reply: ReplyEmpty) {
        let (fs, ino, name) = (self.fs.clone(), convert::ino(ino), name.to_vec());
        self.answer("removexattr", req, async move { fs.removexattr(ino, &name).await }, reply_empty(reply));
    }
}
