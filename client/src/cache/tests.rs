//! The table by itself, and the cache of a whole client against a fake NameNode that grants leases.

use super::table::Table;
use super::{CAPABILITY, Forgotten, Invalidator, Ticket};
use crate::file::OpenMode;
use crate::fs::FileSystem;
use crate::testing::World;
use quarry_common::ids::{Ino, LeaseGeneration};
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{
    Attr, Caller, FallocateMode, FileKind, Mutation, MutationReply, NewNode, Query, QueryReply, RenameMode,
    SetAttr, Timestamp,
};
use quarry_common::wire::session::{LeaseGrant, LeaseMode, Request};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DIR: Ino = Ino(10);
const FILE: Ino = Ino(11);
const CALLER: Caller = Caller { uid: 0, gid: 0 };

fn attr(ino: Ino, version: u64) -> Attr {
    let t = Timestamp(0);
    let kind = if ino == DIR { FileKind::Dir } else { FileKind::File };
    let (atime, mtime, ctime, btime) = (t, t, t, t);
    let (mode, uid, gid, nlink, size, allocated, rdev) = (0o644, 0, 0, 1, 0, 0, 0);
    Attr { ino, kind, mode, uid, gid, nlink, size, allocated, rdev, atime, mtime, ctime, btime, version }
}

fn lookup(name: &str) -> Query {
    Query::Lookup { parent: DIR, name: name.as_bytes().into() }
}

fn shared(ino: Ino) -> LeaseGrant {
    LeaseGrant { ino, mode: LeaseMode::Shared, generation: LeaseGeneration(1) }
}

/// A table that knows `f` in the directory, and that there is no `g`.
fn table(now: Instant) -> Table {
    let mut table = Table::new(1 << 20);
    table.answered(&[shared(DIR), shared(FILE)], now, now);
    let ticket = table.ticket();
    table.store(ticket, &lookup("f"), &Ok(QueryReply::Attr(attr(FILE, 1))));
    table.store(ticket, &lookup("g"), &Err(FsError::NotFound));
    table
}

#[test]
fn what_a_lease_protects_is_known_and_nothing_else() {
    let now = Instant::now();
    let mut t = table(now);
    assert_eq!(t.find(&lookup("f")), Some(Ok(QueryReply::Attr(attr(FILE, 1)))));
    assert_eq!(t.find(&lookup("g")), Some(Err(FsError::NotFound)));
    assert_eq!(t.find(&lookup("h")), None);
    let ticket = t.ticket();
    t.store(ticket, &Query::Attr { ino: Ino(99) }, &Ok(QueryReply::Attr(attr(Ino(99), 1))));
    assert_eq!(t.find(&Query::Attr { ino: Ino(99) }), None);
}

#[test]
fn a_recall_between_question_and_answer_wins_even_if_the_lease_is_granted_anew() {
    let now = Instant::now();
    let mut t = table(now);
    let asked = t.ticket();
    t.recall(DIR);
    assert_eq!(t.find(&lookup("f")), None);
    t.answered(&[shared(DIR)], now, now);
    t.store(asked, &lookup("g"), &Err(FsError::NotFound));
    assert_eq!(t.find(&lookup("g")), None);
    let asked = t.ticket();
    t.store(asked, &lookup("g"), &Err(FsError::NotFound));
    assert_eq!(t.find(&lookup("g")), Some(Err(FsError::NotFound)));
}

#[test]
fn a_change_of_our_own_between_question_and_answer_wins_too() {
    let now = Instant::now();
    let mut t = table(now);
    let asked = t.ticket();
    let (node, name) = (NewNode::File { open: false }, b"h"[..].into());
    let create = Mutation::Create { parent: DIR, name, node, mode: 0, umask: 0, caller: CALLER };
    t.answered(&[shared(Ino(12))], now, now);
    t.changed(asked, &create, &Ok(MutationReply::Attr(attr(Ino(12), 1))));
    t.store(asked, &lookup("h"), &Err(FsError::NotFound));
    assert_eq!(t.find(&lookup("h")), Some(Ok(QueryReply::Attr(attr(Ino(12), 1)))));
    assert_eq!(t.find(&Query::Attr { ino: DIR }), None);
}

#[test]
fn the_end_of_the_term_drops_everything_before_a_later_answer_extends_it() {
    let start = Instant::now();
    let mut t = table(start);
    let almost = start + LEASE_TERM - Duration::from_millis(1);
    t.lapse(almost);
    assert!(t.find(&lookup("f")).is_some());
    t.answered(&[], start + Duration::from_secs(1), almost);
    t.lapse(start + LEASE_TERM);
    assert!(t.find(&lookup("f")).is_some(), "it was renewed");
    let late = start + Duration::from_secs(1) + LEASE_TERM;
    t.answered(&[], late, late);
    assert_eq!(t.find(&lookup("f")), None);
    let dropped = t.take_dropped();
    assert!(dropped.contains(&DIR) && dropped.contains(&FILE));
}

#[test]
fn a_late_answer_is_not_taken_for_what_is_known_by_now() {
    let now = Instant::now();
    let mut t = table(now);
    let asked = t.ticket();
    // Another mount replaced the name, and this one has looked again since.
    t.recall(DIR);
    t.answered(&[shared(DIR), shared(Ino(77))], now, now);
    let again = t.ticket();
    t.store(again, &lookup("f"), &Ok(QueryReply::Attr(attr(Ino(77), 1))));
    t.store(asked, &lookup("f"), &Ok(QueryReply::Attr(attr(Ino(66), 1))));
    assert_eq!(t.find(&lookup("f")), Some(Ok(QueryReply::Attr(attr(Ino(77), 1)))));
    assert!(
        t.knows_attr(&attr(Ino(77), 1))
            && !t.knows_attr(&attr(Ino(77), 2))
            && !t.knows_attr(&attr(Ino(66), 1))
    );
}

#[test]
fn a_change_of_data_takes_capabilities_away_and_no_other_attribute() {
    let now = Instant::now();
    let mut t = table(now);
    let get = |name: &[u8]| Query::GetXattr { ino: FILE, name: name.into() };
    let ticket = t.ticket();
    for name in [CAPABILITY, b"user.a"] {
        t.store(ticket, &get(name), &Ok(QueryReply::Bytes(b"x"[..].into())));
    }
    let list = Query::ListXattr { ino: FILE };
    t.store(ticket, &list, &Ok(QueryReply::Bytes(b"security.capability\0user.a\0"[..].into())));
    let mode = FallocateMode::Allocate;
    let change = Mutation::Fallocate { ino: FILE, mode, offset: 0, length: 1, kill_suidgid: false };
    t.changed(ticket, &change, &Ok(MutationReply::Attr(attr(FILE, 2))));
    assert_eq!(t.find(&get(CAPABILITY)), Some(Err(FsError::NoAttribute)));
    assert_eq!(t.find(&get(b"user.a")), Some(Ok(QueryReply::Bytes(b"x"[..].into()))));
    assert_eq!(t.find(&list), None);
}

#[test]
fn renames_move_what_is_known() {
    let now = Instant::now();
    let rename = |mode| Mutation::Rename {
        from: DIR,
        from_name: b"f"[..].into(),
        to: DIR,
        to_name: b"g"[..].into(),
        mode,
    };
    let moved = |nlink| Ok(MutationReply::Renamed { moved: Attr { nlink, ..attr(FILE, 2) }, other: None });
    let mut t = table(now);
    t.changed(t.ticket(), &rename(RenameMode::Replace), &moved(1));
    assert_eq!(t.find(&lookup("f")), Some(Err(FsError::NotFound)));
    assert_eq!(t.find(&lookup("g")), Some(Ok(QueryReply::Attr(attr(FILE, 2)))));
    // Two names of one inode: perhaps nothing happened.
    let mut t = table(now);
    t.changed(t.ticket(), &rename(RenameMode::Replace), &moved(2));
    assert_eq!(t.find(&lookup("f")), None);
    let mut t = table(now);
    t.changed(t.ticket(), &rename(RenameMode::Replace), &Err(FsError::NotEmpty.into()));
    assert_eq!((t.find(&lookup("f")), t.find(&lookup("g"))), (None, None));
}

#[test]
fn attributes_never_go_back() {
    let now = Instant::now();
    let mut t = table(now);
    let (ticket, query) = (t.ticket(), Query::Attr { ino: FILE });
    for version in [3, 2] {
        t.store(ticket, &query, &Ok(QueryReply::Attr(attr(FILE, version))));
    }
    assert_eq!(t.find(&query), Some(Ok(QueryReply::Attr(attr(FILE, 3)))));
    let chmod = Mutation::SetAttr { ino: FILE, set: SetAttr::default(), keep_sgid: false };
    t.changed(ticket, &chmod, &Ok(MutationReply::Attr(attr(FILE, 4))));
    assert_eq!(t.find(&query), Some(Ok(QueryReply::Attr(attr(FILE, 4)))));
    t.changed(Ticket(0), &chmod, &Ok(MutationReply::Attr(attr(FILE, 5))));
    assert_eq!(t.find(&query), None, "something happened since it was asked for");
}

#[test]
fn memory_is_bounded_and_what_is_dropped_is_told() {
    let now = Instant::now();
    let mut t = Table::new(100_000);
    for i in 0..1000 {
        let ino = Ino(100 + i);
        t.answered(&[shared(ino)], now, now);
        let ticket = t.ticket();
        t.store(ticket, &Query::Attr { ino }, &Ok(QueryReply::Attr(attr(ino, 1))));
    }
    let known = (0..1000).filter(|i| t.find(&Query::Attr { ino: Ino(100 + i) }).is_some()).count();
    assert!((200..400).contains(&known), "{known}");
    assert_eq!(t.take_dropped().len(), 1000 - known);
}

#[derive(Default)]
struct Kernel {
    told: Mutex<Vec<Told>>,
    /// Inodes that it does not know yet.
    unknown: Mutex<Vec<Ino>>,
}

impl Kernel {
    fn tell(&self, ino: Ino, told: Told) -> Forgotten {
        self.told.lock().unwrap().push(told);
        if self.unknown.lock().unwrap().contains(&ino) { Forgotten::Unknown } else { Forgotten::Done }
    }
}

/// What the kernel was told to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Inode(Ino),
    Attributes(Ino),
    Data(Ino, u64),
    Pruned(Ino),
}

impl Invalidator for Kernel {
    fn inode(&self, ino: Ino) -> Forgotten {
        self.tell(ino, Told::Inode(ino))
    }

    fn data(&self, ino: Ino, range: Range<u64>) -> Forgotten {
        self.tell(ino, Told::Data(ino, range.start))
    }

    fn attributes(&self, ino: Ino) -> Forgotten {
        self.tell(ino, Told::Attributes(ino))
    }

    fn prune(&self, inos: &[Ino]) {
        self.told.lock().unwrap().extend(inos.iter().map(|ino| Told::Pruned(*ino)));
    }
}

async fn leased() -> (World, FileSystem, Arc<Kernel>) {
    let world = World::new(0).await;
    world.namenode.state().leases = true;
    let fs = world.mount().await;
    let kernel = Arc::new(Kernel::default());
    fs.set_invalidator(kernel.clone());
    (world, fs, kernel)
}

fn queries(world: &World) -> usize {
    world.namenode.state().count(|r| matches!(r, Request::Query(_) | Request::Open { .. }))
}

async fn look(fs: &FileSystem) {
    let attr = fs.lookup(Ino::ROOT, b"f").await.unwrap();
    fs.getattr(Ino::ROOT).await.unwrap();
    assert_eq!(fs.lookup(Ino::ROOT, b"none").await, Err(FsError::NotFound));
    assert_eq!(fs.readdir(Ino::ROOT, 0, 100, true).await.unwrap().entries.len(), 1);
    fs.getxattr(attr.ino, b"user.a").await.unwrap();
    fs.listxattr(attr.ino).await.unwrap();
    let read = OpenMode { read: true, ..OpenMode::default() };
    fs.open(attr.ino, read).await.unwrap().release().await;
}

#[tokio::test]
async fn under_leases_nothing_is_asked_twice_and_a_recall_is_acknowledged_after_the_kernel_forgot() {
    let (world, fs, kernel) = leased().await;
    let file = NewNode::File { open: false };
    let ino = fs.create(Ino::ROOT, b"f", file, 0o644, 0, CALLER).await.unwrap().ino;
    look(&fs).await;
    let asked = queries(&world);
    for _ in 0..3 {
        look(&fs).await;
    }
    assert_eq!(queries(&world), asked);
    let time = fs.attr_entry(ino).await.unwrap().time;
    assert!(time > Duration::ZERO && time <= LEASE_TERM);

    let open = fs.open(ino, OpenMode { read: true, ..OpenMode::default() }).await.unwrap();
    world.namenode.resize(ino, 5);
    let number = world.namenode.recall(ino);
    world.namenode.until(|state| !state.recalled.is_empty()).await;
    assert_eq!(world.namenode.state().recalled, [(number, true)]);
    assert_eq!(*kernel.told.lock().unwrap(), [Told::Inode(ino)]);
    assert_eq!(fs.getattr(ino).await.unwrap().size, 5);
    // The NameNode was told that it is open, so it is told that it is closed.
    open.release().await;
    world.namenode.until(|s| s.count(|r| matches!(r, Request::Close { inos } if *inos == [ino])) == 1).await;

    let number = world.namenode.recall(Ino::ROOT);
    world.namenode.until(|state| state.recalled.len() == 2).await;
    assert_eq!(world.namenode.state().recalled[1], (number, false));
    assert_eq!(kernel.told.lock().unwrap()[1..], [Told::Inode(Ino::ROOT)]);
}

#[tokio::test]
async fn a_recall_waits_for_a_look_up_that_is_on_its_way_to_the_kernel() {
    let (world, fs, kernel) = leased().await;
    let file = NewNode::File { open: false };
    let ino = fs.create(Ino::ROOT, b"f", file, 0o644, 0, CALLER).await.unwrap().ino;
    kernel.unknown.lock().unwrap().push(ino);
    let entry = fs.lookup_entry(0, Ino::ROOT, b"f").await.unwrap();
    assert!(entry.time > Duration::ZERO);
    world.namenode.recall(ino);
    while kernel.told.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    assert!(world.namenode.state().recalled.is_empty(), "the kernel is about to know the attributes");
    kernel.unknown.lock().unwrap().clear();
    world.namenode.until(|state| state.recalled.len() == 1).await;
    // The kernel refers to the inode, and the NameNode learns it until it is forgotten.
    assert!(world.namenode.state().recalled[0].1);
    fs.forget(ino, 1);
    world.namenode.until(|s| s.count(|r| matches!(r, Request::Close { inos } if *inos == [ino])) == 1).await;
}

#[tokio::test]
async fn a_recall_goes_around_the_pages_of_a_read() {
    let (world, fs, kernel) = leased().await;
    let file = NewNode::File { open: false };
    let ino = fs.create(Ino::ROOT, b"f", file, 0o644, 0, CALLER).await.unwrap().ino;
    let open = fs.open(ino, OpenMode { read: true, ..OpenMode::default() }).await.unwrap();
    let read = fs.read_pages(&open, 0, 4096).await.unwrap();
    let number = world.namenode.recall(ino);
    world.namenode.until(|state| !state.recalled.is_empty()).await;
    assert_eq!(world.namenode.state().recalled, [(number, true)]);
    assert_eq!(*kernel.told.lock().unwrap(), [Told::Data(ino, 4096)]);
    drop(read);
    while !kernel.told.lock().unwrap().contains(&Told::Inode(ino)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lost_connection_ends_all_leases() {
    let (world, fs, kernel) = leased().await;
    fs.getattr(Ino::ROOT).await.unwrap();
    let asked = queries(&world);
    fs.getattr(Ino::ROOT).await.unwrap();
    assert_eq!(queries(&world), asked);
    world.server.lose_connections();
    // Once the loss has been noticed, the question goes out again.
    while queries(&world) == asked {
        fs.getattr(Ino::ROOT).await.unwrap();
        tokio::task::yield_now().await;
    }
    while !kernel.told.lock().unwrap().contains(&Told::Inode(Ino::ROOT)) {
        tokio::task::yield_now().await;
    }
}
