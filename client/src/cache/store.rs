//! Questions and their answers, changes and what is left of the answers after them.

use super::Ticket;
use super::table::{Known, Node, Page, Table};
use crate::error::MutateError;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{
    Attr, Commit, DirEntry, FileKind, Mutation, MutationReply, Name, NewNode, Query, QueryReply, RenameMode,
    SetAttr,
};

/// A larger attribute is read too seldom to be kept.
const XATTR_KEEP: usize = 4096;

impl Table {
    /// The answer to a question, if all of it is known.
    pub(super) fn find(&mut self, query: &Query) -> Option<Result<QueryReply, FsError>> {
        match query {
            Query::Lookup { parent, name } => match *self.leased(*parent)?.names.get(name)? {
                Known::Inode(ino) => self.find_attr(ino),
                Known::Absent => Some(Err(FsError::NotFound)),
            },
            Query::Attr { ino } => self.find_attr(*ino),
            Query::Parent { ino } => {
                let parent = self.leased(*ino)?.parent?;
                self.find_attr(parent)
            }
            Query::ReadDir { ino, after, limit, plus } => self.find_page(*ino, (*after, *limit, *plus)),
            Query::ReadLink { ino } => {
                let target = self.leased(*ino)?.target.as_deref()?;
                Some(Ok(QueryReply::Bytes(target.into())))
            }
            Query::GetXattr { ino, name } => match self.leased(*ino)?.xattrs.get(name)? {
                Some(value) => Some(Ok(QueryReply::Bytes(value.as_slice().into()))),
                None => Some(Err(FsError::NoAttribute)),
            },
            Query::ListXattr { ino } => {
                let names = self.leased(*ino)?.xattr_names.as_deref()?;
                Some(Ok(QueryReply::Bytes(names.into())))
            }
            Query::Layout { .. } | Query::NextWindow { .. } | Query::Chunks { .. } | Query::StatFs => None,
        }
    }

    fn find_attr(&mut self, ino: Ino) -> Option<Result<QueryReply, FsError>> {
        self.leased(ino)?.attr.clone().map(|attr| Ok(QueryReply::Attr(attr)))
    }

    fn find_page(&mut self, ino: Ino, key: (u64, u32, bool)) -> Option<Result<QueryReply, FsError>> {
        let page = self.leased(ino)?.pages.get(&key)?;
        let (end, newest) = (page.end, page.newest);
        let mut entries = Vec::with_capacity(page.entries.len());
        for (cookie, ino, kind, name) in &page.entries {
            entries.push(DirEntry {
                cookie: *cookie,
                ino: *ino,
                kind: *kind,
                name: name.clone(),
                attr: None,
            });
        }
        if key.2 {
            for entry in &mut entries {
                entry.attr = Some(self.leased(entry.ino)?.attr.clone()?);
            }
        }
        Some(Ok(QueryReply::Entries { entries, end, newest }))
    }

    /// Keeps what an answer says, as far as leases protect it.
    pub(super) fn store(&mut self, ticket: Ticket, query: &Query, answer: &Result<QueryReply, FsError>) {
        match (query, answer) {
            (Query::Lookup { parent, name }, Ok(QueryReply::Attr(attr))) => {
                self.store_name(ticket, *parent, name, Known::Inode(attr.ino));
                self.store_attr(ticket, attr);
            }
            (Query::Lookup { parent, name }, Err(FsError::NotFound)) => {
                self.store_name(ticket, *parent, name, Known::Absent);
            }
            (
                Query::Attr { .. } | Query::Layout { .. },
                Ok(QueryReply::Attr(attr) | QueryReply::Layout { attr, .. }),
            ) => {
                self.store_attr(ticket, attr);
            }
            (Query::Parent { ino }, Ok(QueryReply::Attr(attr))) => {
                if self.may_keep(*ino, ticket) {
                    self.update(*ino, |node| node.parent = Some(attr.ino));
                }
                self.store_attr(ticket, attr);
            }
            (
                Query::ReadDir { ino, after, limit, plus },
                Ok(QueryReply::Entries { entries, end, newest }),
            ) => {
                self.store_page(ticket, *ino, (*after, *limit, *plus), (entries, *end, *newest));
            }
            (Query::ReadLink { ino }, Ok(QueryReply::Bytes(target))) if self.may_keep(*ino, ticket) => {
                self.update(*ino, |node| node.set_target(target));
            }
            (Query::ListXattr { ino }, Ok(QueryReply::Bytes(names))) if self.may_keep(*ino, ticket) => {
                self.update(*ino, |node| node.set_xattr_names(names));
            }
            (Query::GetXattr { ino, name }, answer) if self.may_keep(*ino, ticket) => match answer {
                Ok(QueryReply::Bytes(value)) if value.len() <= XATTR_KEEP => {
                    self.update(*ino, |node| node.set_xattr(name, Some(value)));
                }
                Err(FsError::NoAttribute) => self.update(*ino, |node| node.set_xattr(name, None)),
                _ => {}
            },
            _ => {}
        }
    }

    fn store_name(&mut self, ticket: Ticket, parent: Ino, name: &Name, known: Known) {
        if self.may_keep(parent, ticket) {
            self.update(parent, |node| node.know(name, known));
        }
    }

    fn store_attr(&mut self, ticket: Ticket, attr: &Attr) {
        if self.may_keep(attr.ino, ticket) {
            self.update(attr.ino, |node| {
                // Two answers may come to their callers in the wrong order.
                if node.attr.as_ref().is_none_or(|known| known.version <= attr.version) {
                    node.attr = Some(attr.clone());
                }
            });
        }
    }

    fn store_page(
        &mut self,
        ticket: Ticket,
        ino: Ino,
        key: (u64, u32, bool),
        (entries, end, newest): (&[DirEntry], bool, u64),
    ) {
        for attr in entries.iter().filter_map(|entry| entry.attr.as_ref()) {
            self.store_attr(ticket, attr);
        }
        if !self.may_keep(ino, ticket) {
            return;
        }
        let list = entries.iter().map(|e| (e.cookie, e.ino, e.kind, e.name.clone())).collect();
        self.update(ino, |node| {
            for entry in entries.iter().filter(|entry| entry.attr.is_some()) {
                node.know(&entry.name, Known::Inode(entry.ino));
            }
            node.add_page(key, Page { entries: list, end, newest });
        });
    }

    /// Brings what is known in line with a change that was made here, whether or not it succeeded: what it may have
    /// touched is forgotten, and what its answer says is known.
    pub(super) fn changed(
        &mut self,
        ticket: Ticket,
        mutation: &Mutation,
        answer: &Result<MutationReply, MutateError>,
    ) {
        match mutation {
            Mutation::Create { parent, name, node, .. } => {
                self.change_entry(ticket, *parent, name, new_entry(answer));
                if let (Some(attr), NewNode::Symlink(target)) = (attr_of(answer), node) {
                    let target = target.0.clone();
                    if self.may_keep(attr.ino, ticket) {
                        self.update(attr.ino, |node| node.set_target(&target));
                    }
                }
                self.change_inode(ticket, attr_of(answer));
            }
            Mutation::Link { ino, parent, name } => {
                self.change_entry(ticket, *parent, name, new_entry(answer));
                self.change_attr(ticket, *ino, attr_of(answer));
            }
            Mutation::Unlink { parent, name } | Mutation::Rmdir { parent, name } => {
                let known = answer.is_ok().then_some(Known::Absent);
                self.change_entry(ticket, *parent, name, known);
                self.change_inode(ticket, attr_of(answer));
            }
            Mutation::Rename { from, from_name, to, to_name, mode } => {
                let (old, new) = renamed(answer, *mode, (from, from_name) == (to, to_name));
                let fresh = self.may_keep(*from, ticket);
                self.change_entry(ticket, *to, to_name, new);
                self.touch_entry(*from, from_name, old.filter(|_| fresh));
                if let Ok(MutationReply::Renamed { moved, other }) = answer {
                    for attr in std::iter::once(moved).chain(other) {
                        self.update(attr.ino, |node| node.parent = None);
                        self.change_inode(ticket, Some(attr));
                    }
                }
            }
            Mutation::SetAttr { ino, set, .. } => {
                // A new mode may change the ACL.
                let only_times = SetAttr { atime: set.atime, mtime: set.mtime, ..SetAttr::default() };
                if *set != only_times {
                    self.update(*ino, |node| node.drop_xattrs());
                }
                self.change_attr(ticket, *ino, attr_of(answer));
            }
            Mutation::SetXattr { ino, .. } | Mutation::RemoveXattr { ino, .. } => {
                self.update(*ino, |node| node.drop_xattrs());
                self.change_attr(ticket, *ino, attr_of(answer));
            }
            // A change of data costs the file its capabilities.
            Mutation::Commit(Commit { ino, .. })
            | Mutation::Fallocate { ino, .. }
            | Mutation::CopyRange { to: ino, .. } => {
                self.update(*ino, Node::drop_capability);
                self.change_attr(ticket, *ino, attr_of(answer));
            }
        }
    }

    /// An entry of a directory changed, and so did the directory.
    fn change_entry(&mut self, ticket: Ticket, parent: Ino, name: &Name, known: Option<Known>) {
        let known = known.filter(|_| self.may_keep(parent, ticket));
        self.touch_entry(parent, name, known);
    }

    fn touch_entry(&mut self, parent: Ino, name: &Name, known: Option<Known>) {
        self.happened(parent);
        self.update(parent, |node| {
            node.attr = None;
            node.drop_pages();
            match known {
                None => node.unknow(name),
                Some(known) => node.know(name, known),
            }
        });
    }

    /// The attributes of an inode changed; its answer tells to what.
    fn change_attr(&mut self, ticket: Ticket, ino: Ino, attr: Option<&Attr>) {
        match attr {
            Some(attr) => self.change_inode(ticket, Some(attr)),
            None => self.touch(ino),
        }
    }

    fn change_inode(&mut self, ticket: Ticket, attr: Option<&Attr>) {
        let Some(attr) = attr else { return };
        let fresh = self.may_keep(attr.ino, ticket);
        self.happened(attr.ino);
        self.update(attr.ino, |node| {
            let newer = node.attr.as_ref().is_none_or(|known| known.version <= attr.version);
            if newer {
                node.attr = fresh.then(|| attr.clone());
            }
        });
    }

    fn touch(&mut self, ino: Ino) {
        self.happened(ino);
        self.update(ino, |node| node.attr = None);
    }
}

fn attr_of(answer: &Result<MutationReply, MutateError>) -> Option<&Attr> {
    match answer.as_ref().ok()? {
        MutationReply::Attr(attr) | MutationReply::Removed(attr) => Some(attr),
        MutationReply::Committed { attr, .. } | MutationReply::Copied { attr, .. } => Some(attr),
        MutationReply::Renamed { moved, .. } => Some(moved),
    }
}

fn new_entry(answer: &Result<MutationReply, MutateError>) -> Option<Known> {
    attr_of(answer).map(|attr| Known::Inode(attr.ino))
}

/// What the old and the new name stand for after a rename, if that is known.
fn renamed(
    answer: &Result<MutationReply, MutateError>,
    mode: RenameMode,
    same_name: bool,
) -> (Option<Known>, Option<Known>) {
    let Ok(MutationReply::Renamed { moved, other }) = answer else {
        return (None, None);
    };
    let old = match (mode, other) {
        (RenameMode::Exchange, Some(other)) => Some(Known::Inode(other.ino)),
        // Both names may have been the same inode's, and then nothing has happened.
        (_, None) if moved.kind != FileKind::Dir && moved.nlink > 1 => None,
        _ if same_name || mode == RenameMode::Whiteout => None,
        _ => Some(Known::Absent),
    };
    (old, (!same_name).then_some(Known::Inode(moved.ino)))
}
