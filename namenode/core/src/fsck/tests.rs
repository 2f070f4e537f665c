use super::*;
use crate::base::{MemoryBase, Overlay};
use crate::command::LogicalTime;
use crate::records::{Content, Dentry, Inode, NameEntry, WindowRecord};
use crate::tables::{Key, MetaKey, RetiredKey};
use crate::testing::{Bench, PG};
use quarry_common::ids::{LeaseGeneration, NodeId, SessionId, WindowIndex};
use quarry_common::wire::cluster::MemberState;
use quarry_common::wire::fs::{FileKind, Mutation, SetAttr, SetXattrMode};
use std::collections::BTreeSet;

/// A small file system of all kinds of things.
struct Sample {
    base: MemoryBase,
    dir: Ino,
    inner: Ino,
    file: Ino,
    linked: Ino,
    orphan: Ino,
}

fn sample() -> Sample {
    let mut bench = Bench::new();
    let dir = bench.dir(Ino::ROOT, "dir");
    let inner = bench.dir(dir, "inner");
    let file = bench.file(inner, "file");
    for n in 0..5 {
        bench.write(file, n << 22, 1_000_000).expect("written");
        bench.write(file, (n << 22) + 1000, 50_000).expect("written");
    }
    let linked = bench.file(dir, "linked");
    bench
        .attr_of(Mutation::Link { ino: linked, parent: Ino::ROOT, name: b"other"[..].into() })
        .expect("linked");
    let set = Mutation::SetXattr {
        ino: linked,
        name: b"user.color"[..].into(),
        value: b"red"[..].into(),
        mode: SetXattrMode::Either,
    };
    bench.attr_of(set).expect("set");
    let orphan = bench.file(dir, "orphan");
    bench.write(orphan, 0, 500).expect("written");
    bench.unlink(dir, "orphan").expect("unlinked");
    // Rewritten, so that a chunk goes to the delete queue.
    let short = bench.file(dir, "short");
    bench.write(short, 0, 100).expect("written");
    bench.write(short, 0, 200).expect("written");
    for n in 0..40 {
        bench.file(dir, &format!("many{n}"));
    }
    bench.checkpoint();
    let base = bench.base.clone();
    bench.check();
    Sample { base, dir, inner, file, linked, orphan }
}

/// The whole check, in steps of some rows.
fn check(base: &MemoryBase, rows: usize) -> (Vec<String>, Vec<ChunkId>, FsckCounts) {
    let mut fsck = Fsck::new(Arc::new(base.clone())).expect("a store");
    let (mut problems, mut chunks) = (Vec::new(), Vec::new());
    for _ in 0..100_000 {
        let step = fsck.step(rows).expect("readable");
        assert!(step.chunks.len() <= rows);
        problems.extend(step.problems.into_iter().map(|p| {
            let ino = p.ino.map(|i| format!("inode {i}: ")).unwrap_or_default();
            let chunk = p.chunk.map(|c| format!("chunk {c}: ")).unwrap_or_default();
            format!("{ino}{chunk}{}", p.what)
        }));
        chunks.extend(step.chunks.into_iter().map(|(id, _)| id));
        if step.done {
            assert_eq!(fsck.phase(), "done");
            return (problems, chunks, fsck.counts());
        }
    }
    panic!("the check does not end");
}

fn put<K: Key>(base: &mut MemoryBase, key: &K, value: Option<&K::Value>) {
    let value = value.map(|v| postcard::to_stdvec(v).expect("encodes"));
    base.checkpoint(&Overlay::from([(key.bytes(), value)]));
}

fn get<K: Key>(base: &MemoryBase, key: &K) -> K::Value {
    postcard::from_bytes(&base.get(&key.bytes()).expect("readable").expect("there")).expect("decodes")
}

fn change<K: Key>(base: &mut MemoryBase, key: &K, change: impl FnOnce(&mut K::Value)) {
    let mut value = get(base, key);
    change(&mut value);
    put(base, key, Some(&value));
}

/// Breaks the sample, and tells what is found: the same, however small the steps are.
fn broken(damage: impl FnOnce(&mut MemoryBase, &Sample)) -> Vec<String> {
    let sample = sample();
    let mut base = sample.base.clone();
    damage(&mut base, &sample);
    let (problems, ..) = check(&base, STEP_ROWS_MAX);
    assert_eq!(problems, check(&base, 1).0);
    problems
}

/// Every problem begins with one of these, and each of these is found.
fn assert_found(problems: &[String], expected: &[&str]) {
    let begins = |problem: &str, expected: &str| problem.starts_with(expected);
    assert!(problems.iter().all(|p| expected.iter().any(|e| begins(p, e))), "{problems:#?}");
    assert!(expected.iter().all(|e| problems.iter().any(|p| begins(p, e))), "{problems:#?}");
}

fn file_content(inode: &mut Inode) -> &mut crate::records::FileContent {
    match &mut inode.content {
        Content::File(file) => file,
        other => panic!("no file: {other:?}"),
    }
}

fn dir_content(inode: &mut Inode) -> &mut crate::records::DirContent {
    match &mut inode.content {
        Content::Dir(dir) => dir,
        other => panic!("no directory: {other:?}"),
    }
}

#[test]
fn a_sound_store_has_no_problems() {
    let sample = sample();
    let (problems, chunks, counts) = check(&sample.base, STEP_ROWS_MAX);
    assert_eq!(problems, Vec::<String>::new());
    assert!(chunks.len() >= 12 && chunks.is_sorted());
    assert_eq!(counts, FsckCounts { inodes: 47, dentries: 46, chunks: chunks.len() as u64 });
    for rows in [1, 2, 3, 7] {
        assert_eq!(check(&sample.base, rows), (Vec::new(), chunks.clone(), counts));
    }
    assert!(Fsck::new(Arc::new(MemoryBase::default())).is_err());
}

#[test]
fn an_entry_without_an_inode_is_found() {
    let problems = broken(|base, s| put(base, &InodeKey(s.linked), None));
    let ino = sample().linked;
    assert_found(
        &problems,
        &[
            &format!("inode {ino}: entry `linked`"),
            &format!("inode {ino}: entry `other`"),
            &format!("inode {ino}: there are extended attributes"),
            "the file system says",
        ],
    );
}

#[test]
fn lost_names_are_found() {
    let s = sample();
    // The entry of a hard link, with its index and all counters of its directory as they should be.
    let problems = broken(|base, s| {
        let key = NameKey { parent: s.dir, name: b"linked"[..].into() };
        let cookie = get(base, &key).cookie;
        put(base, &key, None);
        put(base, &DentryKey { parent: s.dir, cookie }, None);
        change(base, &InodeKey(s.dir), |inode| dir_content(inode).entries -= 1);
    });
    assert_found(&problems, &[&format!("inode {}: it should have 2 names and has 1", s.linked)]);
    let problems = broken(|base, s| change(base, &InodeKey(s.dir), |inode| dir_content(inode).entries += 1));
    assert_found(&problems, &[&format!("inode {}: it says 44 entries and has 43", s.dir)]);
    let problems = broken(|base, s| change(base, &InodeKey(s.dir), |inode| inode.nlink += 1));
    assert_found(&problems, &[&format!("inode {}: it says 4 links and has 3", s.dir)]);
    let problems = broken(|base, s| {
        let key = NameKey { parent: s.inner, name: b"file"[..].into() };
        let cookie = get(base, &key).cookie;
        put(base, &key, None);
        put(base, &DentryKey { parent: s.inner, cookie }, None);
    });
    assert_found(
        &problems,
        &[
            &format!("inode {}: its 1 entries are missing", s.inner),
            &format!("inode {}: it should have 1 names and has 0", s.file),
        ],
    );
}

#[test]
fn stray_names_are_found() {
    let problems = broken(|base, s| {
        let entry = NameEntry { cookie: 99, ino: s.file, kind: FileKind::File };
        put(base, &NameKey { parent: s.dir, name: b"ghost"[..].into() }, Some(&entry));
    });
    assert_found(&problems, &[&format!("inode {}: the index has `ghost`", sample().dir)]);
    let problems = broken(|base, s| {
        let dentry = Dentry { ino: s.file, kind: FileKind::Dir, name: b"x"[..].into() };
        put(base, &DentryKey { parent: Ino(999), cookie: 1 }, Some(&dentry));
    });
    let file = sample().file;
    assert_found(
        &problems,
        &[
            "inode 999: there are entries of this directory",
            "inode 999: entry `x`: the index of names has None",
            &format!("inode {file}: it is File"),
            &format!("inode {file}: it should have 1 names and has 2"),
        ],
    );
}

#[test]
fn a_circle_of_directories_is_found() {
    // `dir` and `inner` are in each other, cut off from the root.
    let problems = broken(|base, s| {
        let key = NameKey { parent: Ino::ROOT, name: b"dir"[..].into() };
        let old = get(base, &key);
        put(base, &key, None);
        put(base, &DentryKey { parent: Ino::ROOT, cookie: old.cookie }, None);
        change(base, &InodeKey(Ino::ROOT), |inode| {
            dir_content(inode).entries -= 1;
            inode.nlink -= 1;
        });
        let dentry = Dentry { ino: s.dir, kind: FileKind::Dir, name: b"dir"[..].into() };
        let cookie = dir_content(&mut get(base, &InodeKey(s.inner))).next_cookie;
        put(base, &DentryKey { parent: s.inner, cookie }, Some(&dentry));
        put(base, &NameKey { parent: s.inner, name: b"dir"[..].into() }, Some(&NameEntry { cookie, ..old }));
        change(base, &InodeKey(s.inner), |inode| {
            dir_content(inode).entries += 1;
            dir_content(inode).next_cookie += 1;
            inode.nlink += 1;
        });
        change(base, &InodeKey(s.dir), |inode| dir_content(inode).parent = s.inner);
    });
    assert_found(&problems, &[&format!("inode {}: it cannot be reached from the root", sample().dir)]);
}

#[test]
fn wrong_parents_and_a_missing_root_are_found() {
    let s = sample();
    let problems = broken(|base, s| change(base, &InodeKey(s.inner), |i| dir_content(i).parent = Ino::ROOT));
    assert_found(&problems, &[&format!("inode {}: its parent is 1, its entry `inner` is in", s.inner)]);
    let problems = broken(|base, s| change(base, &InodeKey(s.inner), |i| dir_content(i).parent = s.file));
    assert_found(
        &problems,
        &[
            &format!("inode {}: its parent {} , above", s.inner, s.file).replace(" ,", ","),
            &format!("inode {}: its parent is {}", s.inner, s.file),
        ],
    );
    let problems = broken(|base, _| put(base, &InodeKey(Ino::ROOT), None));
    assert!(problems.iter().any(|p| p == "inode 1: the root directory is missing"), "{problems:#?}");
}

#[test]
fn wrong_data_are_found() {
    let s = sample();
    let file = s.file;
    let window = |base: &mut MemoryBase, s: &Sample, f: &dyn Fn(&mut WindowRecord)| {
        change(base, &WindowKey { data: s.file, index: WindowIndex(0) }, f);
    };
    let problems = broken(|base, s| window(base, s, &|w| w.slices[0].length = u32::MAX));
    assert!(
        problems.iter().any(|p| p.starts_with(&format!("inode {file}: window 0: Slice"))),
        "{problems:#?}"
    );
    let problems = broken(|base, s| window(base, s, &|w| w.slices[1].chunk_offset += 1));
    assert_found(&problems, &[&format!("inode {file}: chunk {}: window 0: Slice", ChunkId::new(PG, 1))]);
    let problems = broken(|base, s| window(base, s, &|w| w.version = 1 << 40));
    assert_found(&problems, &[&format!("inode {file}: window 0 has 2 slices and the version")]);
    let problems = broken(|base, s| change(base, &InodeKey(s.file), |i| file_content(i).size -= 1));
    assert_found(
        &problems,
        &[&format!("inode {file}: window 8: Slice"), "the file system says 17777916 bytes and has 17777915"],
    );
    let problems = broken(|base, s| change(base, &InodeKey(s.file), |i| file_content(i).allocated += 1));
    assert_found(&problems, &[&format!("inode {file}: it says 5000001 bytes of data and has 5000000")]);
    let problems = broken(|base, s| put(base, &WindowKey { data: s.orphan, index: WindowIndex(0) }, None));
    assert_found(
        &problems,
        &[
            &format!("inode {}: its 500 bytes of data are missing", s.orphan),
            "chunk 000010000000000a: it should have 1 references and has 0",
            "the file system says",
        ],
    );
}

#[test]
fn data_under_another_number_are_known() {
    let mut bench = Bench::new();
    let file = bench.file(Ino::ROOT, "f");
    for n in 0..600 {
        bench.write(file, n << 21, 10).expect("written");
    }
    let set = SetAttr { size: Some(5 << 21), ..SetAttr::default() };
    bench.attr_of(Mutation::SetAttr { ino: file, set, keep_sgid: false }).expect("truncated");
    bench.checkpoint();
    let data = file_content(&mut get(&bench.base, &InodeKey(file))).data;
    assert_ne!(data, file);
    assert_eq!(check(&bench.base, STEP_ROWS_MAX).0, Vec::<String>::new());
    let mut base = bench.base.clone();
    change(&mut base, &InodeKey(file), |inode| file_content(inode).data = file);
    let problems = check(&base, STEP_ROWS_MAX).0;
    // The orphan has that number.
    assert_found(
        &problems,
        &[
            &format!("inode {file}: its data are under the number {file}, which is inode {data}'s"),
            &format!("inode {file}: there are data of this file under the number {data}"),
            &format!("inode {file}: it should have its data under the number {data}"),
        ],
    );
}

#[test]
fn wrong_chunks_are_found() {
    let id = ChunkId::new(PG, 3);
    let problems = broken(|base, _| change(base, &ChunkKey(id), |c| c.refs += 1));
    assert_found(&problems, &[&format!("chunk {id}: it should have 2 references and has 1")]);
    let problems = broken(|base, _| put(base, &ChunkKey(id), None));
    let file = sample().file;
    assert_found(
        &problems,
        &[&format!("inode {file}: chunk {id}: window 2 names a chunk"), "the file system says"],
    );
    let problems = broken(|base, _| {
        put(base, &DeleteKey { since: LogicalTime(1), id }, Some(&()));
        put(base, &RetiredKey(id), Some(&()));
    });
    assert_found(
        &problems,
        &[
            &format!("chunk {id}: files refer to it, and it is to be deleted"),
            &format!("chunk {id}: files refer to it, and it was retired"),
            "the file system says 1 chunks to delete and has 2",
        ],
    );
    let problems = broken(|base, _| put(base, &GroupKey(PG), None));
    assert!(
        !problems.is_empty() && problems.iter().all(|p| p.ends_with("its placement group 1 does not exist"))
    );
    let problems = broken(|base, _| change(base, &crate::tables::CursorKey(PG), |c| c.next = 3));
    assert!(problems.contains(&format!("chunk {id}: the next number of its group is 3")), "{problems:#?}");
}

#[test]
fn the_rest_is_checked_as_well() {
    let s = sample();
    let problems = broken(|base, s| put(base, &OrphanKey(s.orphan), None));
    assert_found(&problems, &[&format!("inode {}: it has no name and is not listed", s.orphan)]);
    let problems = broken(|base, s| put(base, &ErasedKey(s.file), Some(&())));
    assert_found(&problems, &[&format!("inode {}: it is listed with erased windows", s.file)]);
    let problems = broken(|base, s| put(base, &OrphanKey(s.file), Some(&())));
    assert_found(&problems, &[&format!("inode {}: it is listed for removal", s.file)]);
    let problems = broken(|base, s| change(base, &InodeKey(s.linked), |i| i.xattr_list_bytes += 1));
    assert_found(&problems, &[&format!("inode {}: its extended attributes are not those", s.linked)]);
    let problems = broken(|base, s| change(base, &InodeKey(s.file), |i| i.default_acl = true));
    assert_found(&problems, &[&format!("inode {}: its extended attributes are missing", s.file)]);
    let problems = broken(|base, _| put(base, &SessionKey(SessionId(1)), None));
    assert_found(&problems, &["slot 0 is of session 1", "the file system says 1 sessions and has 0"]);
    let problems = broken(|base, _| {
        put(base, &FenceKey { session: SessionId(9), ino: Ino(5) }, Some(&LeaseGeneration(1)));
    });
    assert_found(&problems, &["inode 5: a broken lease is of session 9"]);
    let problems = broken(|base, _| {
        change(base, &GroupKey(PG), |group| {
            group.members.iter_mut().for_each(|m| m.state = MemberState::Stale);
            group.members[0].node = NodeId(77);
            group.members[1].node = NodeId(3);
        });
    });
    assert_found(
        &problems,
        &[
            "nobody serves placement group 1",
            "placement group 1 has a member twice",
            "member 77 of placement group 1 is unknown",
        ],
    );
    let problems = broken(|base, _| change(base, &MetaKey, |meta| meta.next_ino = Ino(3)));
    assert!(problems.iter().all(|p| p.ends_with("the next inode is to be 3")) && problems.len() > 40);
}

#[test]
fn rows_that_do_not_decode_are_found_and_the_check_goes_on() {
    let problems = broken(|base, s| {
        let key = InodeKey(s.file).bytes();
        base.checkpoint(&Overlay::from([
            (key, Some(vec![0xff])),
            (vec![0x02, 1, 2], Some(vec![])),
            (vec![0x31, 0, 0, 0, 2, 9], Some(vec![])),
        ]));
    });
    let kinds: BTreeSet<_> =
        problems.iter().map(|p| p.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect();
    assert!(kinds.contains("the record of key") && kinds.contains("the key 020102 is"), "{problems:#?}");
    assert!(kinds.contains("the key 310000000209 is"), "{problems:#?}");
}
