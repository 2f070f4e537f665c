//! What an operation works with while it is applied.

use crate::command::Effect;
use crate::error::{OpError, StateError};
use crate::records::{Content, Dentry, DirContent, FileContent, Inode, NameEntry};
use crate::store::Store;
use crate::tables::{DentryKey, InodeKey, NameKey, OrphanKey};
use quarry_common::ids::Ino;
use quarry_common::limits::NAME_MAX;
use quarry_common::mode::without_suidgid;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FileKind, Name, Timestamp};

/// One command being applied: the tables, the command's time, and what to tell the shell.
///
/// An operation reads and checks first and changes after, so that an error leaves everything as it was.
pub(crate) struct Tx<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) now: Timestamp,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Tx<'_> {
    /// Records that an inode changed, stores it and counts its version up.
    pub(crate) fn save(&mut self, ino: Ino, inode: &mut Inode) {
        inode.version += 1;
        self.store.put(&InodeKey(ino), inode);
        self.changed(ino);
    }

    /// Tells the shell that an inode changed, once per command.
    pub(crate) fn changed(&mut self, ino: Ino) {
        self.effect(Effect::Changed(ino));
    }

    /// Tells the shell, once per command: a command has few effects, so a search is cheap.
    pub(crate) fn effect(&mut self, effect: Effect) {
        if !self.effects.contains(&effect) {
            self.effects.push(effect);
        }
    }

    /// Takes one name off an inode; without its last name it becomes an orphan.
    pub(crate) fn drop_name(&mut self, ino: Ino, inode: &mut Inode) {
        inode.nlink = match inode.content {
            Content::Dir(_) => 0,
            _ => inode.nlink - 1,
        };
        inode.ctime = self.now;
        self.save(ino, inode);
        if inode.nlink == 0 {
            self.store.put(&OrphanKey(ino), &());
            self.store.meta.usage.orphans += 1;
            self.effect(Effect::Orphaned(ino));
        }
    }

    /// Puts a new entry into a directory. The caller saves the directory.
    pub(crate) fn insert_entry(
        &mut self,
        parent: Ino,
        dir: &mut Inode,
        name: &Name,
        ino: Ino,
        kind: FileKind,
    ) {
        let content = dir_mut(dir);
        let cookie = content.next_cookie;
        content.next_cookie += 1;
        content.entries += 1;
        self.set_entry(parent, name, NameEntry { cookie, ino, kind });
        dir.mtime = self.now;
        dir.ctime = self.now;
    }

    /// Makes the entry at a cookie name an inode. The caller saves the directory.
    pub(crate) fn set_entry(&mut self, parent: Ino, name: &Name, entry: NameEntry) {
        let NameEntry { cookie, ino, kind } = entry;
        self.store.put(&DentryKey { parent, cookie }, &Dentry { ino, kind, name: name.clone() });
        self.store.put(&NameKey { parent, name: name.clone() }, &entry);
    }

    /// Takes an entry out of a directory. The caller saves the directory.
    pub(crate) fn remove_entry(&mut self, parent: Ino, dir: &mut Inode, name: &Name, cookie: u64) {
        dir_mut(dir).entries -= 1;
        self.store.delete(&DentryKey { parent, cookie });
        self.store.delete(&NameKey { parent, name: name.clone() });
        dir.mtime = self.now;
        dir.ctime = self.now;
    }
}

/// The inode, which a client names by its number: it may be gone.
pub(crate) fn inode(store: &Store, ino: Ino) -> Result<Inode, OpError> {
    Ok(store.get(&InodeKey(ino))?.ok_or(FsError::Stale)?)
}

/// A directory, possibly removed.
pub(crate) fn directory(store: &Store, ino: Ino) -> Result<Inode, OpError> {
    let inode = inode(store, ino)?;
    match inode.content {
        Content::Dir(_) => Ok(inode),
        _ => Err(FsError::NotDir.into()),
    }
}

/// A directory that still has its name: only such a one takes new entries.
pub(crate) fn live_directory(store: &Store, ino: Ino) -> Result<Inode, OpError> {
    let inode = directory(store, ino)?;
    if inode.nlink == 0 { Err(FsError::NotFound.into()) } else { Ok(inode) }
}

/// A regular file, possibly unlinked.
pub(crate) fn file(store: &Store, ino: Ino) -> Result<Inode, OpError> {
    let inode = inode(store, ino)?;
    match inode.content {
        Content::File(_) => Ok(inode),
        Content::Dir(_) => Err(FsError::IsDir.into()),
        _ => Err(FsError::Invalid.into()),
    }
}

/// The inode behind an entry, which must be there.
pub(crate) fn linked(store: &Store, ino: Ino) -> Result<Inode, StateError> {
    store.expect(&InodeKey(ino))
}

/// The entry of a name.
pub(crate) fn entry(store: &Store, parent: Ino, name: &Name) -> Result<Option<NameEntry>, StateError> {
    store.get(&NameKey { parent, name: name.clone() })
}

/// The directory part of an inode that was read as a directory.
pub(crate) fn dir_ref(inode: &Inode) -> &DirContent {
    match &inode.content {
        Content::Dir(dir) => dir,
        other => unreachable!("a directory was read, now it is {other:?}"),
    }
}

pub(crate) fn dir_mut(inode: &mut Inode) -> &mut DirContent {
    match &mut inode.content {
        Content::Dir(dir) => dir,
        other => unreachable!("a directory was read, now it is {other:?}"),
    }
}

/// The file part of an inode that was read as a file.
pub(crate) fn file_mut(inode: &mut Inode) -> &mut FileContent {
    match &mut inode.content {
        Content::File(file) => file,
        other => unreachable!("a file was read, now it is {other:?}"),
    }
}

/// The file part of an inode that was read as a file.
pub(crate) fn file_ref(inode: &Inode) -> &FileContent {
    match &inode.content {
        Content::File(file) => file,
        other => unreachable!("a file was read, now it is {other:?}"),
    }
}

/// Checks the name of a new or wanted entry.
pub(crate) fn check_name(name: &Name) -> Result<(), FsError> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() || name.0 == b"." || name.0 == b".." || name.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// Clears suid, and sgid where the group may execute, as a change by an unprivileged process does.
pub(crate) fn kill_suidgid(inode: &mut Inode) {
    if matches!(inode.content, Content::Dir(_)) {
        return;
    }
    inode.mode = without_suidgid(inode.mode);
}
