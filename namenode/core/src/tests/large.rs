//! Large directories and deep trees: work per operation does not grow with them.

use crate::command::{Body, Outcome};
use crate::testing::Bench;
use quarry_common::ids::Ino;
use quarry_common::limits::READDIR_ENTRIES_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{DirEntry, Mutation, Query, QueryReply, RenameMode};

const ENTRIES: usize = 200_000;

fn page(bench: &Bench, ino: Ino, after: u64) -> (Vec<DirEntry>, bool) {
    match bench.query(&Query::ReadDir { ino, after, limit: READDIR_ENTRIES_MAX, plus: true }) {
        Ok(QueryReply::Entries { entries, end, .. }) => (entries, end),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_of_200_000_entries_lists_and_empties() {
    let mut bench = Bench::new();
    let dir = bench.dir(Ino::ROOT, "d");
    for i in 0..ENTRIES {
        bench.file(dir, &format!("file-{i}"));
    }
    bench.checkpoint();
    // As rm -r does: a page, its entries, the next page.
    let (mut after, mut removed) = (0, 0);
    loop {
        let (entries, end) = page(&bench, dir, after);
        for entry in &entries {
            bench.attr_of(Mutation::Unlink { parent: dir, name: entry.name.clone() }).expect("unlinked");
            after = entry.cookie;
            removed += 1;
        }
        if end {
            break;
        }
    }
    assert_eq!(removed, ENTRIES);
    bench.attr_of(Mutation::Rmdir { parent: Ino::ROOT, name: b"d"[..].into() }).expect("empty");
    while let Some(inos) = Some(bench.state.orphans(Ino(0), 1000).expect("sound")).filter(|o| !o.is_empty()) {
        assert_eq!(bench.apply(Body::Reap { inos }), Outcome::Reaped { left: vec![] });
    }
    assert_eq!(bench.state.usage().inodes, 1);
    bench.check();
}

#[test]
fn deep_trees_are_walked_upwards() {
    let mut bench = Bench::new();
    let mut at = Ino::ROOT;
    let top = bench.dir(at, "top");
    at = top;
    for _ in 0..5_000 {
        at = bench.dir(at, "d");
    }
    let rename = |from, from_name: &str, to| Mutation::Rename {
        from,
        from_name: from_name.as_bytes().into(),
        to,
        to_name: b"x"[..].into(),
        mode: RenameMode::Replace,
    };
    let result = bench.mutate(rename(Ino::ROOT, "top", at));
    assert_eq!(result, Err(FsError::Invalid.into()));
    bench.file(Ino::ROOT, "f");
    bench.dir(Ino::ROOT, "e");
    bench.mutate(rename(Ino::ROOT, "e", at)).expect("moved");
    bench.check();
}
