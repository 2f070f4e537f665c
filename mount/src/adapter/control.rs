//! What tools ask of the mount itself: see [`crate::control`].

use super::Adapter;
use crate::control;
use crate::errno::errno;
use fuser::{Errno, ReplyIoctl, Request};

impl Adapter {
    pub(super) fn control(&self, req: &Request, request: u32, reply: ReplyIoctl) {
        match request {
            control::PROCESS => reply.ioctl(0, &std::process::id().to_ne_bytes()),
            control::SYNC => {
                let fs = self.fs.clone();
                self.answer("sync", req, async move { fs.sync().await }, |result| match result {
                    Ok(()) => reply.ioctl(0, &[]),
                    Err(error) => reply.error(errno(error)),
                });
            }
            _ => reply.error(Errno::ENOTTY),
        }
    }
}
