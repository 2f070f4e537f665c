//! flock(2), and the locks of fcntl(2).

use super::{Adapter, reply_empty};
use crate::convert;
use crate::errno::errno;
use crate::task::Interruptible;
use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock, Request};
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::Lock;

impl Adapter {
    pub(super) fn lock_test(
        &self,
        req: &Request,
        ino: INodeNo,
        owner: LockOwner,
        (start, end): (u64, u64),
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(kind) = convert::lock_kind(typ) else { return reply.error(Errno::EINVAL) };
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        let lock = Lock { owner: owner.0, pid, start, end, kind };
        self.answer(req, async move { fs.test_lock(ino, lock).await }, move |result| match result {
            Ok(Some(l)) => reply.locked(l.start, l.end, convert::lock_type(l.kind), l.pid),
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Err(e) => reply.error(errno(e)),
        });
    }

    pub(super) fn lock_set(
        &self,
        req: &Request,
        (ino, fh): (INodeNo, FileHandle),
        owner: LockOwner,
        (start, end): (u64, u64),
        typ: i32,
        pid: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let Some(kind) = convert::lock_kind(typ) else { return reply.error(Errno::EINVAL) };
        let (fs, ino, owner) = (self.fs.clone(), convert::ino(ino), owner.0);
        let lock = Lock { owner, pid, start, end, kind };
        let (waiting, runtime) = (fs.clone(), self.runtime.clone());
        let by = if wait { Interruptible::BySignals } else { Interruptible::WhenKilled };
        self.answer_unless(
            by,
            req,
            async move { waiting.lock(ino, fh.0, lock, wait).await },
            move |result| {
                if result == Err(FsError::Interrupted) {
                    // The caller gave up: so must the NameNode, or a lock would be granted that nothing frees.
                    runtime.spawn(async move { fs.cancel_lock(ino, owner).await });
                }
                reply_empty(reply)(result);
            },
        );
    }
}
