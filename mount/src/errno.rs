//! One table from the errors of the file system to errno.

use fuser::Errno;
use quarry_common::wire::error::FsError;

/// What the caller of a system call sees. Exhaustive on purpose: a new error must choose its errno here.
pub(crate) fn errno(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDir => Errno::ENOTDIR,
        FsError::IsDir => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Access => Errno::EACCES,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Invalid => Errno::EINVAL,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::FileTooLarge => Errno::EFBIG,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::AttributeTooLarge => Errno::E2BIG,
        FsError::Range => Errno::ERANGE,
        FsError::NoSuchOffset => Errno::ENXIO,
        FsError::WouldBlock => Errno::EAGAIN,
        FsError::Deadlock => Errno::EDEADLK,
        FsError::NoLocks => Errno::ENOLCK,
        FsError::Interrupted => Errno::EINTR,
        FsError::Stale => Errno::ESTALE,
        FsError::BadHandle => Errno::EBADF,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::ReadOnly => Errno::EROFS,
        FsError::TimedOut => Errno::ETIMEDOUT,
        FsError::Io => Errno::EIO,
    }
}
