//! flock(2), and the locks of fcntl(2).

use super::{Adapter, reply_empty};
use crate::convert;
use crate::errno::errno;
use crate::task::{Interruptible, Task};
use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock, Request};
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Lock, LockFamily};

/// The kernel names an open file by the same number for flock and for open file description locks; owners have one family.
fn number(owner: LockOwner, family: LockFamily) -> u64 {
    match family {
        LockFamily::Record => owner.0,
        LockFamily::Flock => owner.0 ^ (1 << 63),
    }
}

/// A lock as the kernel asks for it: the range inclusive, the kind as one of `F_RDLCK`, `F_WRLCK` and `F_UNLCK`.
pub(super) struct Asked {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) typ: i32,
    pub(super) pid: u32,
}

impl Adapter {
    pub(super) fn lock_test(
        &self,
        req: &Request,
        ino: INodeNo,
        owner: LockOwner,
        Asked { start, end, typ, pid }: Asked,
        reply: ReplyLock,
    ) {
        let Some(kind) = convert::lock_kind(typ) else { return reply.error(Errno::EINVAL) };
        let (fs, ino) = (self.fs.clone(), convert::ino(ino));
        // Only fcntl asks for the locks of others.
        let lock = Lock { owner: owner.0, pid, start, end, kind, family: LockFamily::Record };
        self.answer("getlk", req, async move { fs.test_lock(ino, lock).await }, move |result| match result {
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
        Asked { start, end, typ, pid }: Asked,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let Some(kind) = convert::lock_kind(typ) else { return reply.error(Errno::EINVAL) };
        let family = Task::of(req).lock_family();
        let (fs, ino, owner) = (self.fs.clone(), convert::ino(ino), number(owner, family));
        let lock = Lock { owner, pid, start, end, kind, family };
        let (waiting, runtime) = (fs.clone(), self.runtime.clone());
        let by = if wait { Interruptible::BySignals } else { Interruptible::WhenKilled };
        self.answer_unless(
            by,
            "setlk",
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
