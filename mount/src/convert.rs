//! Between the kernel's types and Quarry's.

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use quarry_common::ids::Ino;
use quarry_common::limits::BLOCK_SIZE;
use quarry_common::wire::fs::{Attr, FallocateMode, FileKind, SetTime, Timestamp};
use quarry_common::wire::session::LockKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `st_blocks` counts in these, whatever the block size.
const STAT_BLOCK: u64 = 512;

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in the type bits of a mode, as mknod(2) passes it; none of the seven is `None`.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::File),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

pub(crate) fn system_time(t: Timestamp) -> SystemTime {
    let nanos = t.0;
    let (seconds, rest) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    let rest = Duration::from_nanos(rest as u64);
    let whole = Duration::from_secs(u64::try_from(seconds.unsigned_abs()).unwrap_or(u64::MAX));
    let base = if seconds >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    base.and_then(|b| b.checked_add(rest)).unwrap_or(UNIX_EPOCH)
}

/// A time as fuser hands it over. For one before 1970 the kernel gives the second in which it lies and the nanoseconds from there on;
/// fuser subtracts both from 1970, though the nanoseconds are to be added.
pub(crate) fn timestamp(t: SystemTime) -> Timestamp {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => Timestamp(d.as_nanos() as i128),
        Err(e) => {
            let back = e.duration();
            let seconds = i128::from(back.as_secs()) * 1_000_000_000;
            Timestamp(i128::from(back.subsec_nanos()) - seconds)
        }
    }
}

pub(crate) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(timestamp(t)),
    }
}

pub(crate) fn file_attr(a: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(a.ino.0),
        size: a.size,
        blocks: a.allocated.div_ceil(STAT_BLOCK),
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: system_time(a.btime),
        kind: file_type(a.kind),
        perm: a.mode,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        // What tools take for the best size of one read or write.
        blksize: BLOCK_SIZE as u32,
        flags: 0,
    }
}

pub(crate) fn ino(i: INodeNo) -> Ino {
    Ino(i.0)
}

/// `None` for a type that fcntl(2) does not know.
pub(crate) fn lock_kind(kind: i32) -> Option<LockKind> {
    match kind {
        libc::F_RDLCK => Some(LockKind::Read),
        libc::F_WRLCK => Some(LockKind::Write),
        libc::F_UNLCK => Some(LockKind::Unlock),
        _ => None,
    }
}

pub(crate) fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    }
}

/// `None` for a combination that Quarry does not support (collapse, insert, unshare).
pub(crate) fn fallocate_mode(mode: i32) -> Option<FallocateMode> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Some(FallocateMode::Allocate),
        KEEP => Some(FallocateMode::KeepSize),
        PUNCH_KEEP => Some(FallocateMode::PunchHole),
        ZERO => Some(FallocateMode::ZeroRange),
        ZERO_KEEP => Some(FallocateMode::ZeroRangeKeepSize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fuser 0.18 makes it of the kernel's seconds and nanoseconds.
    fn by_fuser(seconds: i64, nanos: u32) -> SystemTime {
        let duration = Duration::new(seconds.unsigned_abs(), nanos);
        if seconds >= 0 { UNIX_EPOCH + duration } else { UNIX_EPOCH - duration }
    }

    #[test]
    fn times_on_both_sides_of_1970_are_exact_in_both_directions() {
        for nanos in [
            0,
            1,
            -1,
            999_999_999,
            -500_000_000,
            -1_000_000_000,
            -1_000_000_001,
            1_700_000_000_123_456_789,
            -62_135_596_800_000_000_000,
        ] {
            let second =
                i64::try_from(nanos / 1_000_000_000 - i128::from(nanos % 1_000_000_000 < 0)).unwrap();
            let rest = (nanos - i128::from(second) * 1_000_000_000) as u32;
            assert_eq!(timestamp(by_fuser(second, rest)).0, nanos);
            let shown = system_time(Timestamp(nanos));
            let back = match shown.duration_since(UNIX_EPOCH) {
                Ok(d) => d.as_nanos() as i128,
                Err(e) => -(e.duration().as_nanos() as i128),
            };
            assert_eq!(back, nanos);
        }
    }

    #[test]
    fn a_time_out_of_range_is_no_panic() {
        assert_eq!(system_time(Timestamp(i128::MAX)), UNIX_EPOCH);
        assert_eq!(system_time(Timestamp(i128::MIN)), UNIX_EPOCH);
    }
}
