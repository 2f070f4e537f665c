//! From inodes to paths, for the change feed.
//!
//! The state knows the parent of a directory, but no name of an inode: nothing else needs one, and an index would cost
//! every mutation a write. So names are remembered as they pass by, in mutations and in the answers to queries. A
//! directory whose name did not pass by is looked for in its parent; a file's parent is not known at all then.

use hashlink::LruCache;
use quarry_common::ids::Ino;
use quarry_common::limits::READDIR_ENTRIES_MAX;
use quarry_common::wire::fs::{Name, Query, QueryReply};
use quarry_namenode_core::{Content, State, StateError};

/// Inodes whose names are remembered, those used last. Some 20 MiB with names as they usually are.
const PLACES_MAX: usize = 1 << 17;
/// Pages of a directory that are searched for a name: the owner's thread does it, and must be back soon.
const SEARCH_PAGES: usize = 4;
/// Directories above an inode that are looked at. A path that a system call takes cannot have more.
const DEPTH_MAX: usize = 2048;
/// Bytes of a directory's path; of a longer one the beginning is left out. Twice what a system call takes.
pub(super) const PATH_BYTES_MAX: usize = 8192;

/// Where an inode is, or was last seen.
#[derive(Clone, Debug)]
struct Place {
    parent: Ino,
    /// `None`: a search did not find it.
    name: Option<Name>,
}

/// A path, and the directories it leads through.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) path: Vec<u8>,
    /// The nearest first. Empty if not even the first is known.
    pub(super) within: Vec<Ino>,
}

/// What is remembered.
pub(super) struct Places(LruCache<Ino, Place>);

impl Places {
    pub(super) fn new() -> Self {
        Self(LruCache::new(PLACES_MAX))
    }

    /// The inode has this name.
    pub(super) fn learn(&mut self, ino: Ino, parent: Ino, name: &Name) {
        // The usual case, and the one without an allocation: it is known.
        let known = self.0.get(&ino).is_some_and(|p| p.parent == parent && p.name.as_ref() == Some(name));
        if !known {
            self.0.insert(ino, Place { parent, name: Some(name.clone()) });
        }
    }

    /// The inode no longer has this name. It may have others, which are not known.
    pub(super) fn forget(&mut self, ino: Ino, parent: Ino, name: &Name) {
        let is_it = |p: &Place| p.parent == parent && p.name.as_ref().is_none_or(|n| n == name);
        if self.0.peek(&ino).is_some_and(is_it) {
            self.0.remove(&ino);
        }
    }

    /// Learns from the answer to a query.
    pub(super) fn passed(&mut self, query: &Query, answer: &QueryReply) {
        match (query, answer) {
            (Query::Lookup { parent, name }, QueryReply::Attr(attr)) => self.learn(attr.ino, *parent, name),
            // Who wants attributes goes on with the inodes, and may not look them up again.
            (Query::ReadDir { ino, plus: true, .. }, QueryReply::Entries { entries, .. }) => {
                for entry in entries {
                    self.learn(entry.ino, *ino, &entry.name);
                }
            }
            _ => {}
        }
    }

    /// The path of a name in a directory.
    pub(super) fn of_name(&mut self, state: &State, parent: Ino, name: &Name) -> Result<Located, StateError> {
        let mut located = self.of_directory(state, parent)?;
        if !located.path.ends_with(b"/") {
            located.path.push(b'/');
        }
        located.path.extend_from_slice(name);
        Ok(located)
    }

    /// The path of an inode, by the name that was seen last.
    pub(super) fn of_inode(&mut self, state: &State, ino: Ino) -> Result<Located, StateError> {
        if state.inode(ino)?.is_some_and(|inode| matches!(inode.content, Content::Dir(_))) {
            return self.of_directory(state, ino);
        }
        match self.0.get(&ino) {
            Some(Place { parent, name: Some(name) }) => {
                let (parent, name) = (*parent, name.clone());
                self.of_name(state, parent, &name)
            }
            _ => Ok(Located { path: nameless(ino), within: Vec::new() }),
        }
    }

    fn of_directory(&mut self, state: &State, ino: Ino) -> Result<Located, StateError> {
        let (mut names, mut bytes) = (Vec::new(), 0);
        let mut within = Vec::new();
        // The directory at which the known part of the path begins, when that is not the root.
        let mut begin = None;
        let mut at = ino;
        while at != Ino::ROOT && within.len() < DEPTH_MAX {
            within.push(at);
            let Some(place) = self.of_subdirectory(state, at)? else {
                begin = begin.or(Some(at));
                break;
            };
            if begin.is_none() {
                match place.name {
                    Some(name) if bytes + name.len() < PATH_BYTES_MAX => {
                        bytes += name.len() + 1;
                        names.push(name);
                    }
                    _ => begin = Some(at),
                }
            }
            at = place.parent;
        }
        if at == Ino::ROOT {
            within.push(at);
        } else {
            begin = begin.or(Some(at));
        }
        let mut path = begin.map_or_else(Vec::new, nameless);
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Located { path, within })
    }

    /// Where a directory is, which is not the root; `None` if there is no such directory.
    fn of_subdirectory(&mut self, state: &State, ino: Ino) -> Result<Option<Place>, StateError> {
        if let Some(place) = self.0.get(&ino) {
            return Ok(Some(place.clone()));
        }
        let Some(Content::Dir(dir)) = state.inode(ino)?.map(|inode| inode.content) else { return Ok(None) };
        let place = Place { parent: dir.parent, name: search(state, dir.parent, ino)? };
        self.0.insert(ino, place.clone());
        Ok(Some(place))
    }
}

/// What is shown for an inode whose name is not known.
fn nameless(ino: Ino) -> Vec<u8> {
    format!("inode:{ino}").into_bytes()
}

/// The name of an inode in a directory, if it is among the oldest.
fn search(state: &State, parent: Ino, ino: Ino) -> Result<Option<Name>, StateError> {
    let mut after = 0;
    for _ in 0..SEARCH_PAGES {
        let page = Query::ReadDir { ino: parent, after, limit: READDIR_ENTRIES_MAX, plus: false };
        let Ok(QueryReply::Entries { entries, end, .. }) = state.query(&page)? else { break };
        after = entries.last().map_or(after, |entry| entry.cookie);
        if let Some(entry) = entries.into_iter().find(|entry| entry.ino == ino) {
            return Ok(Some(entry.name));
        }
        if end {
            break;
        }
    }
    Ok(None)
}
