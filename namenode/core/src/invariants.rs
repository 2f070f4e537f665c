//! What must always hold between the tables: a check over the whole state, for tests and simulations.
//!
//! It holds all it reads in memory; the online check of a running cluster goes through the state in steps.

use crate::command::LogicalTime;
use crate::error::StateError;
use crate::ops::fences;
use crate::records::{Content, FileContent, Inode, Usage};
use crate::state::State;
use crate::store::Store;
use crate::tables::{
    ChunkKey, DeleteKey, DentryKey, EndedKey, ErasedKey, FenceKey, InodeKey, Key, NameKey, OrphanKey,
    OwnerKey, SessionKey, SlotKey, WindowKey, XattrKey,
};
use quarry_common::acl;
use quarry_common::ids::{ChunkId, Ino, SessionId, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, SLICES_MAX};
use quarry_common::slices;
use quarry_common::wire::fs::Name;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that does not fit together; empty if all is well.
///
/// # Errors
/// When the base cannot be read, or a record does not decode.
pub fn violations(state: &State) -> Result<Vec<String>, StateError> {
    let store = state.store();
    let inodes: BTreeMap<Ino, Inode> =
        all(store, &InodeKey(Ino(0)))?.into_iter().map(|(key, inode)| (key.0, inode)).collect();
    let mut check = Check { inodes, usage: Usage::default(), wrong: Vec::new() };
    check.names(store)?;
    check.orphans(store)?;
    check.data(store)?;
    check.xattrs(store)?;
    check.sessions(store, state.meta().sessions)?;
    if check.usage != state.usage() {
        check.wrong(format!("usage is {:?}, counted {:?}", state.usage(), check.usage));
    }
    Ok(check.wrong)
}

/// A whole table from `first` on.
fn all<K: Key>(store: &Store, first: &K) -> Result<Vec<(K, K::Value)>, StateError> {
    store.range(first, None, usize::MAX)
}

struct Check {
    inodes: BTreeMap<Ino, Inode>,
    /// Counted along the way.
    usage: Usage,
    wrong: Vec<String>,
}

impl Check {
    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// Entries, their index, link counts, parents.
    fn names(&mut self, store: &Store) -> Result<(), StateError> {
        let mut by_name: BTreeMap<_, _> =
            all(store, &NameKey { parent: Ino(0), name: Name::default() })?.into_iter().collect();
        let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut entries: BTreeMap<Ino, (u64, u32)> = BTreeMap::new();
        for (key, dentry) in all(store, &DentryKey { parent: Ino(0), cookie: 0 })? {
            let at = format!("entry {} of directory {}", key.cookie, key.parent);
            match by_name.remove(&NameKey { parent: key.parent, name: dentry.name.clone() }) {
                Some(entry)
                    if (entry.cookie, entry.ino, entry.kind) == (key.cookie, dentry.ino, dentry.kind) => {}
                other => self.wrong(format!("{at}: the name index has {other:?} for {dentry:?}")),
            }
            *links.entry(dentry.ino).or_default() += 1;
            let count = entries.entry(key.parent).or_default();
            count.0 += 1;
            match self.inodes.get(&dentry.ino).map(|inode| (inode.kind(), &inode.content)) {
                Some((kind, content)) if kind == dentry.kind => {
                    if let Content::Dir(dir) = content {
                        count.1 += 1;
                        if dir.parent != key.parent {
                            let parent = dir.parent;
                            self.wrong(format!("{at}: directory {} has the parent {parent}", dentry.ino));
                        }
                    }
                }
                other => self.wrong(format!("{at}: inode {} is {other:?}", dentry.ino)),
            }
            match self.inodes.get(&key.parent).map(|inode| &inode.content) {
                Some(Content::Dir(dir)) if key.cookie > 0 && key.cookie < dir.next_cookie => {}
                other => self.wrong(format!("{at}: its directory is {other:?}")),
            }
        }
        for (key, entry) in by_name {
            self.wrong(format!(
                "name {:?} of directory {} has no entry {}",
                key.name, key.parent, entry.cookie
            ));
        }
        self.link_counts(&links, &entries);
        Ok(())
    }

    fn link_counts(&mut self, links: &BTreeMap<Ino, u32>, entries: &BTreeMap<Ino, (u64, u32)>) {
        let mut wrong = Vec::new();
        for (ino, inode) in &self.inodes {
            let names = links.get(ino).copied().unwrap_or(0) + u32::from(*ino == Ino::ROOT);
            let (count, subdirectories) = entries.get(ino).copied().unwrap_or_default();
            let expected = match &inode.content {
                Content::Dir(dir) if dir.entries != count => {
                    wrong.push(format!("directory {ino} says {} entries and has {count}", dir.entries));
                    continue;
                }
                Content::Dir(_) if names == 0 => 0,
                Content::Dir(_) => 1 + names + subdirectories,
                Content::File(_) | Content::Symlink(_) | Content::Special { .. } => names,
            };
            if inode.nlink != expected {
                wrong.push(format!("inode {ino} says {} links and has {expected}", inode.nlink));
            }
        }
        self.wrong.append(&mut wrong);
    }

    fn orphans(&mut self, store: &Store) -> Result<(), StateError> {
        let listed: BTreeSet<Ino> =
            all(store, &OrphanKey(Ino(0)))?.into_iter().map(|(key, ())| key.0).collect();
        let actual: BTreeSet<Ino> =
            self.inodes.iter().filter(|(_, i)| i.nlink == 0).map(|(ino, _)| *ino).collect();
        if listed != actual {
            self.wrong(format!("orphans are {actual:?}, listed {listed:?}"));
        }
        self.usage.orphans = actual.len() as u64;
        self.usage.inodes = self.inodes.len() as u64;
        for inode in self.inodes.values() {
            match &inode.content {
                Content::File(file) => {
                    self.usage.files += 1;
                    self.usage.bytes = self.usage.bytes.wrapping_add(file.size);
                }
                Content::Dir(_) => self.usage.directories += 1,
                Content::Symlink(_) | Content::Special { .. } => {}
            }
        }
        Ok(())
    }

    /// Windows, their slices, chunk references, the delete queue.
    fn data(&mut self, store: &Store) -> Result<(), StateError> {
        let chunks: BTreeMap<ChunkId, _> =
            all(store, &ChunkKey(ChunkId(0)))?.into_iter().map(|(key, record)| (key.0, record)).collect();
        let files = self.files(store)?;
        let mut references: BTreeMap<ChunkId, u64> = BTreeMap::new();
        let mut allocated: BTreeMap<Ino, u64> = BTreeMap::new();
        for (key, window) in all(store, &WindowKey { data: Ino(0), index: WindowIndex(0) })? {
            let at = format!("window {} under the number {}", key.index, key.data);
            let Some(file) = files.get(&key.data) else {
                self.wrong(format!("{at}: no such file"));
                continue;
            };
            if window.slices.is_empty() || window.slices.len() > SLICES_MAX || window.version > file.layout {
                self.wrong(format!("{at}: {} slices, version {}", window.slices.len(), window.version));
            }
            for slice in &window.slices {
                let Some(id) = slice.chunk else { continue };
                *references.entry(id).or_default() += 1;
                let fits = chunks.get(&id).is_some_and(|c| slice.chunk_offset + slice.length <= c.length);
                let end = key.index.0 * CHUNK_SIZE + u64::from(slice.position + slice.length);
                let is_beyond = end > file.size && !file.has_erased(key.index, window.version);
                if !fits || is_beyond {
                    self.wrong(format!("{at}: {slice:?} of {:?} in {} bytes", chunks.get(&id), file.size));
                }
            }
            let data: u64 = slices::visible(&window.slices).iter().map(|s| u64::from(s.length)).sum();
            *allocated.entry(key.data).or_default() += data;
            self.usage.allocated += data;
        }
        let erased: BTreeSet<_> =
            all(store, &ErasedKey(Ino(0)))?.into_iter().map(|(key, ())| key.0).collect();
        let has_erased = |i: &&Inode| matches!(&i.content, Content::File(file) if file.erased.is_some());
        if erased.len() != self.inodes.values().filter(has_erased).count()
            || !erased.iter().all(|ino| self.inodes.get(ino).is_some_and(|inode| has_erased(&inode)))
        {
            self.wrong(format!("files listed with erased windows: {erased:?}"));
        }
        for (data, file) in &files {
            let found = allocated.get(data).copied().unwrap_or(0);
            if file.allocated != found {
                self.wrong(format!("a file has {found} bytes allocated: {file:?}"));
            }
        }
        for (id, record) in &chunks {
            let found = references.remove(id).unwrap_or(0);
            if record.refs == 0 || record.refs != found {
                self.wrong(format!("chunk {id} says {} references and has {found}", record.refs));
            }
            self.usage.chunks += 1;
            self.usage.chunk_bytes += u64::from(record.length);
        }
        if !references.is_empty() {
            self.wrong(format!("slices name chunks without a record: {references:?}"));
        }
        for (key, ()) in all(store, &DeleteKey { since: LogicalTime(0), id: ChunkId(0) })? {
            self.usage.deleting += 1;
            if chunks.contains_key(&key.id) {
                self.wrong(format!("chunk {} is in use and in the delete queue", key.id));
            }
        }
        Ok(())
    }

    /// The files by the number of their windows.
    fn files(&mut self, store: &Store) -> Result<BTreeMap<Ino, FileContent>, StateError> {
        let mut owners: BTreeMap<Ino, Ino> =
            all(store, &OwnerKey(Ino(0)))?.into_iter().map(|(key, ino)| (key.0, ino)).collect();
        let mut files = BTreeMap::new();
        let mut wrong = Vec::new();
        for (ino, inode) in &self.inodes {
            let Content::File(file) = &inode.content else { continue };
            if owners.remove(&file.data).unwrap_or(file.data) != *ino {
                wrong.push(format!("the windows of file {ino} belong to another"));
            }
            if files.insert(file.data, *file).is_some() {
                wrong.push(format!("two files have their windows under the number {}", file.data));
            }
        }
        if !owners.is_empty() {
            wrong.push(format!("windows of files that are not there: {owners:?}"));
        }
        self.wrong.append(&mut wrong);
        Ok(files)
    }

    fn xattrs(&mut self, store: &Store) -> Result<(), StateError> {
        let mut found: BTreeMap<Ino, (u32, bool, bool)> = BTreeMap::new();
        for (key, _) in all(store, &XattrKey { ino: Ino(0), name: Name::default() })? {
            let entry = found.entry(key.ino).or_default();
            entry.0 += key.name.len() as u32 + 1;
            entry.1 |= key.name.0 == acl::ACCESS;
            entry.2 |= key.name.0 == acl::DEFAULT;
        }
        for (ino, inode) in &self.inodes {
            let expected = (inode.xattr_list_bytes, inode.access_acl, inode.default_acl);
            let found = found.remove(ino).unwrap_or_default();
            if found != expected {
                self.wrong.push(format!("inode {ino} says attributes {expected:?} and has {found:?}"));
            }
        }
        if !found.is_empty() {
            self.wrong(format!("attributes of inodes that are not there: {found:?}"));
        }
        Ok(())
    }

    fn sessions(&mut self, store: &Store, count: u64) -> Result<(), StateError> {
        let open: BTreeSet<_> =
            all(store, &SessionKey(SessionId(0)))?.into_iter().map(|(key, _)| key.0).collect();
        if open.len() as u64 != count {
            self.wrong(format!("{count} sessions counted, {} there", open.len()));
        }
        for (session, record) in all(store, &SessionKey(SessionId(0)))? {
            let fences = fences::of_session(store, session.0)?;
            if fences.len() != record.fences as usize {
                self.wrong(format!(
                    "session {} counts {} fences of {}",
                    session.0,
                    record.fences,
                    fences.len()
                ));
            }
            if fences.iter().any(|(_, generation)| *generation < record.fenced_below) {
                self.wrong(format!("session {} has a fence below its floor", session.0));
            }
        }
        for (key, _) in all(store, &FenceKey { session: SessionId(0), ino: Ino(0) })? {
            if !open.contains(&key.session) {
                self.wrong(format!("a fence on {} of session {}, which ended", key.ino, key.session));
            }
        }
        let ended: BTreeSet<_> =
            all(store, &EndedKey(SessionId(0)))?.into_iter().map(|(key, _)| key.0).collect();
        if ended.len() as u64 != store.meta.ended_sessions || !ended.is_disjoint(&open) {
            self.wrong(format!("ended sessions: {} counted, {ended:?} there", store.meta.ended_sessions));
        }
        for (key, _) in all(store, &SlotKey { session: SessionId(0), slot: 0 })? {
            if !open.contains(&key.session) && !ended.contains(&key.session) {
                self.wrong(format!("slot {} of session {}, which ended", key.slot, key.session));
            }
        }
        Ok(())
    }
}
