//! Pages of a directory.
//!
//! A cookie is an entry's number in its directory, never used again: a page continues after it whatever was added or
//! removed meanwhile.

use super::OpResult;
use crate::store::Store;
use crate::tables::DentryKey;
use crate::tx;
use quarry_common::ids::Ino;
use quarry_common::limits::READDIR_ENTRIES_MAX;
use quarry_common::wire::fs::{DirEntry, QueryReply};

pub(crate) fn readdir(
    store: &Store,
    parent: Ino,
    after: u64,
    limit: u32,
    plus: bool,
) -> OpResult<QueryReply> {
    let directory = tx::directory(store, parent)?;
    let newest = tx::dir_ref(&directory).next_cookie - 1;
    let limit = limit.clamp(1, READDIR_ENTRIES_MAX) as usize;
    let Some(cookie) = after.checked_add(1) else {
        return Ok(QueryReply::Entries { entries: Vec::new(), end: true, newest });
    };
    // One more than asked for tells whether this page is the last.
    let from = DentryKey { parent, cookie };
    let to = DentryKey { parent, cookie: u64::MAX };
    let mut rows = store.range(&from, Some(&to), limit + 1)?;
    let end = rows.len() <= limit;
    rows.truncate(limit);
    let mut entries = Vec::with_capacity(rows.len());
    for (key, dentry) in rows {
        let attr = if plus { Some(tx::linked(store, dentry.ino)?.attr(dentry.ino)) } else { None };
        entries.push(DirEntry {
            cookie: key.cookie,
            ino: dentry.ino,
            kind: dentry.kind,
            name: dentry.name,
            attr,
        });
    }
    Ok(QueryReply::Entries { entries, end, newest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn pages_go_on_while_entries_come_and_go() {
        let mut bench = Bench::new();
        for i in 0..10 {
            bench.file(Ino::ROOT, &format!("f{i}"));
        }
        bench.checkpoint();
        let page = |bench: &Bench, after| match bench.state.query(&quarry_common::wire::fs::Query::ReadDir {
            ino: Ino::ROOT,
            after,
            limit: 4,
            plus: false,
        }) {
            Ok(Ok(QueryReply::Entries { entries, end, .. })) => (entries, end),
            other => panic!("{other:?}"),
        };
        let newest = |bench: &Bench| match bench.query(&quarry_common::wire::fs::Query::ReadDir {
            ino: Ino::ROOT,
            after: 0,
            limit: 1,
            plus: false,
        }) {
            Ok(QueryReply::Entries { newest, .. }) => newest,
            other => panic!("{other:?}"),
        };
        let (first, end) = page(&bench, 0);
        assert_eq!(newest(&bench), 10);
        assert_eq!((first.len(), end), (4, false));
        for gone in ["f1", "f3", "f4", "f9"] {
            bench.unlink(Ino::ROOT, gone).expect("unlinked");
        }
        bench.file(Ino::ROOT, "f1");
        assert_eq!(newest(&bench), 11, "a cookie is never given twice");
        let (second, end) = page(&bench, first[3].cookie);
        let names: Vec<_> = second.iter().map(|e| e.name.0.clone()).collect();
        assert_eq!(names, [b"f5", b"f6", b"f7", b"f8"]);
        assert!(!end);
        let (third, end) = page(&bench, second[3].cookie);
        assert_eq!((third.len(), end), (1, true));
        assert_eq!(page(&bench, u64::MAX), (Vec::new(), true));
        bench.check();
    }
}
