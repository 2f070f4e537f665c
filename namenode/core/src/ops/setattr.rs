//! chmod, chown, utimensat, truncate.

use super::truncate::{self, Cut};
use super::{OpResult, windows, xattr};
use crate::error::OpError;
use crate::records::{Content, Inode};
use crate::store::Store;
use crate::tables::XattrKey;
use crate::tx::{self, Tx};
use quarry_common::acl::ACCESS;
use quarry_common::ids::Ino;
use quarry_common::limits::FILE_SIZE_MAX;
use quarry_common::mode::S_ISGID;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, SetAttr, SetTime, Timestamp};

pub(crate) fn setattr(tx: &mut Tx<'_>, ino: Ino, set: &SetAttr, keep_sgid: bool) -> OpResult<MutationReply> {
    let mut inode = tx::inode(tx.store, ino)?;
    let cut = match set.size {
        Some(size) => check_size(tx.store, &inode, size)?,
        None => Cut::nothing(),
    };
    let acl = match set.mode {
        Some(_) if inode.access_acl => Some(xattr::stored_acl(tx.store, ino, ACCESS)?),
        _ => None,
    };

    if let Some(size) = set.size {
        truncate::apply(tx, ino, &mut inode, cut)?;
        windows::set_size(tx, &mut inode, size);
        inode.mtime = tx.now;
    }
    // chown takes suid and sgid away, whoever asks; so do changes of data by an unprivileged process.
    if set.uid.is_some() || set.gid.is_some() || set.kill_suidgid {
        tx::kill_suidgid(&mut inode);
    }
    if set.kill_sgid {
        inode.mode &= !S_ISGID;
    }
    if set.size.is_some() || set.uid.is_some() || set.gid.is_some() {
        xattr::drop_capability(tx, ino, &mut inode)?;
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    if let Some(mode) = set.mode {
        inode.mode = mode & 0o7777;
        if let Some(mut acl) = acl {
            acl.chmod(mode);
            tx.store.put(&XattrKey { ino, name: ACCESS.into() }, &acl.format().into());
            if !keep_sgid {
                inode.mode &= !S_ISGID;
            }
        }
    }
    inode.atime = time(set.atime, tx.now, inode.atime);
    inode.mtime = time(set.mtime, tx.now, inode.mtime);
    inode.ctime = tx.now;
    tx.save(ino, &mut inode);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

/// Checks the new size and finds the windows that it cuts.
fn check_size(store: &Store, inode: &Inode, size: u64) -> Result<Cut, OpError> {
    match &inode.content {
        Content::File(_) if size > FILE_SIZE_MAX => Err(FsError::FileTooLarge.into()),
        Content::File(file) if size >= file.size => Ok(Cut::nothing()),
        Content::File(file) => Ok(truncate::plan(store, file, size)?),
        Content::Dir(_) => Err(FsError::IsDir.into()),
        Content::Symlink(_) | Content::Special { .. } => Err(FsError::Invalid.into()),
    }
}

fn time(set: Option<SetTime>, now: Timestamp, old: Timestamp) -> Timestamp {
    match set {
        Some(SetTime::Now) => now,
        Some(SetTime::At(at)) => at,
        None => old,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, with_named_user};
    use quarry_common::limits::CHUNK_SIZE;
    use quarry_common::wire::fs::{Attr, Mutation, SetXattrMode};

    fn set(bench: &mut Bench, ino: Ino, set: SetAttr) -> Result<Attr, FsError> {
        bench.attr_of(Mutation::SetAttr { ino, set, keep_sgid: true })
    }

    fn mode(mode: u16) -> SetAttr {
        SetAttr { mode: Some(mode), ..SetAttr::default() }
    }

    fn size(size: u64) -> SetAttr {
        SetAttr { size: Some(size), ..SetAttr::default() }
    }

    #[test]
    fn chown_clears_suid_and_sgid_of_files_only() {
        let mut bench = Bench::new();
        let (file, dir) = (bench.file(Ino::ROOT, "f"), bench.dir(Ino::ROOT, "d"));
        for ino in [file, dir] {
            set(&mut bench, ino, mode(0o6755)).expect("chmod");
        }
        let chown = SetAttr { uid: Some(5), ..SetAttr::default() };
        assert_eq!(set(&mut bench, file, chown.clone()).map(|a| (a.mode, a.uid)), Ok((0o755, 5)));
        assert_eq!(set(&mut bench, dir, chown.clone()).map(|a| a.mode), Ok(0o6755));
        set(&mut bench, file, mode(0o6644)).expect("chmod");
        assert_eq!(set(&mut bench, file, chown).map(|a| a.mode), Ok(0o2644), "sgid without x is for locking");
        bench.check();
    }

    #[test]
    fn a_process_outside_the_group_clears_sgid_wherever_it_is() {
        let mut bench = Bench::new();
        let (file, dir) = (bench.file(Ino::ROOT, "f"), bench.dir(Ino::ROOT, "d"));
        for ino in [file, dir] {
            set(&mut bench, ino, mode(0o2644)).expect("chmod");
            let kill = SetAttr { kill_sgid: true, ..SetAttr::default() };
            assert_eq!(set(&mut bench, ino, kill).map(|a| a.mode), Ok(0o644));
        }
        bench.check();
    }

    #[test]
    fn times_are_as_told_and_ctime_is_now() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let times = SetAttr {
            atime: Some(SetTime::At(Timestamp(-7))),
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        let attr = set(&mut bench, file, times).expect("set");
        assert_eq!((attr.atime, attr.mtime, attr.ctime), (Timestamp(-7), bench.now(), bench.now()));
        bench.check();
    }

    #[test]
    fn truncating_cuts_exactly_and_extending_shows_zeros() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        for window in 0..3 {
            bench.write(file, window * CHUNK_SIZE, CHUNK_SIZE as u32).expect("written");
        }
        let attr = set(&mut bench, file, size(CHUNK_SIZE + 10)).expect("truncated");
        assert_eq!((attr.size, attr.allocated), (CHUNK_SIZE + 10, CHUNK_SIZE + 10));
        assert_eq!((attr.mtime, attr.ctime), (bench.now(), bench.now()));
        let windows = bench.windows(file);
        assert_eq!(windows.len(), 2);
        assert_eq!(windows[1].slices[0].length, 10);
        assert_eq!(bench.state.delete_queue(10).expect("sound").len(), 1);
        let attr = set(&mut bench, file, size(4 * CHUNK_SIZE)).expect("extended");
        assert_eq!((attr.size, attr.allocated), (4 * CHUNK_SIZE, CHUNK_SIZE + 10));
        let attr = set(&mut bench, file, size(0)).expect("truncated");
        assert_eq!((attr.size, attr.allocated), (0, 0));
        assert_eq!(bench.windows(file), []);
        bench.check();
    }

    #[test]
    fn sizes_have_a_limit_and_need_a_file() {
        let mut bench = Bench::new();
        let (file, dir) = (bench.file(Ino::ROOT, "f"), bench.dir(Ino::ROOT, "d"));
        assert_eq!(set(&mut bench, file, size(FILE_SIZE_MAX)).map(|a| a.size), Ok(FILE_SIZE_MAX));
        assert_eq!(set(&mut bench, file, size(FILE_SIZE_MAX + 1)), Err(FsError::FileTooLarge));
        assert_eq!(set(&mut bench, dir, size(0)), Err(FsError::IsDir));
        for name in ["g", "h"] {
            let file = bench.file(Ino::ROOT, name);
            set(&mut bench, file, size(FILE_SIZE_MAX)).expect("many such files are no trouble");
        }
        bench.check();
    }

    #[test]
    fn chmod_goes_through_the_acl() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let (name, value) = (ACCESS.into(), with_named_user().into());
        bench
            .attr_of(Mutation::SetXattr { ino: file, name, value, mode: SetXattrMode::Either })
            .expect("set");
        assert_eq!(bench.attr(file).mode, 0o770);
        let attr = bench
            .attr_of(Mutation::SetAttr { ino: file, set: mode(0o2640), keep_sgid: false })
            .expect("chmod");
        assert_eq!(attr.mode, 0o640);
        let acl = xattr::stored_acl(bench.state.store(), file, ACCESS).expect("there");
        assert_eq!(acl.mode_bits(), 0o640);
        bench.check();
    }
}
