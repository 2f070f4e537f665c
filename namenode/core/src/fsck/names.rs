//! Inodes, the entries of directories, the index of names, extended attributes.

use super::Fsck;
use crate::base::BaseError;
use crate::health::mix;
use crate::records::{Content, Dentry, DirContent, Inode, NameEntry};
use crate::tables::{DentryKey, InodeKey, NameKey, OrphanKey, WindowKey, XattrKey};
use quarry_common::acl;
use quarry_common::ids::Ino;
use quarry_common::limits::FILE_SIZE_MAX;

/// The directory whose entries pass by.
pub(super) struct Directory {
    ino: Ino,
    /// `None`: the entries belong to nothing.
    inode: Option<(DirContent, u32)>,
    entries: u64,
    subdirectories: u32,
}

/// The inode whose extended attributes pass by.
pub(super) struct Attributes {
    ino: Ino,
    list_bytes: u32,
    access_acl: bool,
    default_acl: bool,
}

/// Names that an inode must have.
pub(super) fn names_claimed(ino: Ino, inode: &Inode) -> u32 {
    match &inode.content {
        Content::Dir(_) => u32::from(inode.nlink > 0 && ino != Ino::ROOT),
        Content::File(_) | Content::Symlink(_) | Content::Special { .. } => inode.nlink,
    }
}

impl Fsck {
    pub(super) fn root(&mut self) -> Result<(), BaseError> {
        let root = self.row(&InodeKey(Ino::ROOT))?;
        if !root.is_some_and(|inode| matches!(inode.content, Content::Dir(_)) && inode.nlink > 0) {
            self.of_inode(Ino::ROOT, "the root directory is missing".to_owned());
        }
        Ok(())
    }

    pub(super) fn inode(&mut self, ino: Ino, inode: &Inode) -> Result<(), BaseError> {
        self.counts.inodes += 1;
        self.usage.inodes += 1;
        self.links = self.links.wrapping_add(u64::from(names_claimed(ino, inode)).wrapping_mul(mix(ino.0)));
        if ino >= self.meta.next_ino {
            self.of_inode(ino, format!("the next inode is to be {}", self.meta.next_ino));
        }
        if inode.nlink == 0 {
            self.usage.orphans += 1;
            if !self.exists(&OrphanKey(ino))? {
                self.of_inode(ino, "it has no name and is not listed for removal".to_owned());
            }
        }
        let claims_attributes = inode.xattr_list_bytes > 0 || inode.access_acl || inode.default_acl;
        if claims_attributes && !self.has_rows::<XattrKey>(ino)? {
            self.of_inode(ino, "its extended attributes are missing".to_owned());
        }
        match &inode.content {
            Content::File(file) => {
                self.usage.files += 1;
                self.usage.bytes = self.usage.bytes.wrapping_add(file.size);
                if file.size > FILE_SIZE_MAX {
                    self.of_inode(ino, format!("its size is {}", file.size));
                }
                self.place(ino, file.data)?;
                if file.allocated > 0 && !self.has_rows::<WindowKey>(file.data)? {
                    self.of_inode(ino, format!("its {} bytes of data are missing", file.allocated));
                }
            }
            Content::Dir(dir) => {
                self.usage.directories += 1;
                if (dir.entries > 0 || inode.nlink > 2) && !self.has_rows::<DentryKey>(ino)? {
                    self.of_inode(ino, format!("its {} entries are missing", dir.entries));
                }
                if inode.nlink > 0 {
                    self.reach(ino, dir)?;
                }
            }
            Content::Symlink(_) | Content::Special { .. } => {}
        }
        Ok(())
    }

    /// Walks up from a directory to the root, or to one with a smaller number, whose own walk was made before.
    fn reach(&mut self, ino: Ino, dir: &DirContent) -> Result<(), BaseError> {
        let (mut at, mut parent) = (ino, dir.parent);
        // Brent's way to see a circle: compare with a place that is moved ahead at powers of two.
        let (mut mark, mut steps, mut limit) = (ino, 0u64, 1u64);
        while at != Ino::ROOT && at >= ino {
            match self.row(&InodeKey(parent))?.map(|inode| inode.content) {
                Some(Content::Dir(above)) => (at, parent) = (parent, above.parent),
                _ => {
                    self.of_inode(ino, format!("its parent {parent}, above {at}, is no directory"));
                    return Ok(());
                }
            }
            if at == mark && at != Ino::ROOT {
                self.of_inode(
                    ino,
                    "it cannot be reached from the root: its parents form a circle".to_owned(),
                );
                return Ok(());
            }
            steps += 1;
            if steps == limit {
                (mark, steps, limit) = (at, 0, limit * 2);
            }
        }
        Ok(())
    }

    pub(super) fn entry(&mut self, key: DentryKey, dentry: &Dentry) -> Result<(), BaseError> {
        if self.directory.as_ref().is_none_or(|d| d.ino != key.parent) {
            self.finish_directory();
            self.open_directory(key.parent)?;
        }
        self.counts.dentries += 1;
        self.links = self.links.wrapping_sub(mix(dentry.ino.0));
        let at = format!("entry `{}`", dentry.name.escape_ascii());
        let indexed = self.row(&NameKey { parent: key.parent, name: dentry.name.clone() })?;
        if indexed != Some(NameEntry { cookie: key.cookie, ino: dentry.ino, kind: dentry.kind }) {
            self.of_inode(key.parent, format!("{at}: the index of names has {indexed:?}"));
        }
        let is_dir = match self.row(&InodeKey(dentry.ino))? {
            None => {
                self.of_inode(
                    dentry.ino,
                    format!("{at} of directory {} names it, it is missing", key.parent),
                );
                false
            }
            Some(inode) => {
                if inode.kind() != dentry.kind {
                    let is = inode.kind();
                    self.of_inode(dentry.ino, format!("it is {is:?}, its {at} says {:?}", dentry.kind));
                }
                if let Content::Dir(dir) = &inode.content
                    && dir.parent != key.parent
                {
                    let what = format!("its parent is {}, its {at} is in {}", dir.parent, key.parent);
                    self.of_inode(dentry.ino, what);
                }
                matches!(inode.content, Content::Dir(_))
            }
        };
        let Some(directory) = &mut self.directory else { return Ok(()) };
        directory.entries += 1;
        directory.subdirectories += u32::from(is_dir);
        let next = directory.inode.map(|(dir, _)| dir.next_cookie);
        if next.is_some_and(|next| key.cookie == 0 || key.cookie >= next) {
            self.of_inode(key.parent, format!("{at} has the cookie {}, the next is {next:?}", key.cookie));
        }
        Ok(())
    }

    fn open_directory(&mut self, ino: Ino) -> Result<(), BaseError> {
        let inode = match self.row(&InodeKey(ino))? {
            Some(Inode { content: Content::Dir(dir), nlink, .. }) => Some((dir, nlink)),
            _ => {
                self.of_inode(ino, "there are entries of this directory, which is none".to_owned());
                None
            }
        };
        self.directory = Some(Directory { ino, inode, entries: 0, subdirectories: 0 });
        Ok(())
    }

    pub(super) fn finish_directory(&mut self) {
        let Some(Directory { ino, inode, entries, subdirectories }) = self.directory.take() else { return };
        let Some((dir, nlink)) = inode else { return };
        if dir.entries != entries {
            self.of_inode(ino, format!("it says {} entries and has {entries}", dir.entries));
        }
        if nlink != 2 + subdirectories {
            self.of_inode(ino, format!("it says {nlink} links and has {}", 2 + subdirectories));
        }
    }

    pub(super) fn name(&mut self, key: &NameKey, entry: NameEntry) -> Result<(), BaseError> {
        let there = self.row(&DentryKey { parent: key.parent, cookie: entry.cookie })?;
        if there.is_none_or(|dentry| dentry.name != key.name) {
            let name = key.name.escape_ascii();
            self.of_inode(key.parent, format!("the index has `{name}`, which is no entry"));
        }
        Ok(())
    }

    pub(super) fn orphan(&mut self, ino: Ino) -> Result<(), BaseError> {
        if self.row(&InodeKey(ino))?.is_none_or(|inode| inode.nlink != 0) {
            self.of_inode(ino, "it is listed for removal, but has names or is missing".to_owned());
        }
        Ok(())
    }

    pub(super) fn attribute(&mut self, key: &XattrKey) -> Result<(), BaseError> {
        if self.attributes.as_ref().is_none_or(|a| a.ino != key.ino) {
            self.finish_attributes();
            let Some(inode) = self.row(&InodeKey(key.ino))? else {
                self.of_inode(
                    key.ino,
                    "there are extended attributes of this inode, which is missing".to_owned(),
                );
                return Ok(());
            };
            // Counted down to nothing.
            self.attributes = Some(Attributes {
                ino: key.ino,
                list_bytes: inode.xattr_list_bytes,
                access_acl: inode.access_acl,
                default_acl: inode.default_acl,
            });
        }
        if let Some(attributes) = &mut self.attributes {
            attributes.list_bytes = attributes.list_bytes.wrapping_sub(key.name.len() as u32 + 1);
            attributes.access_acl ^= key.name.0 == acl::ACCESS;
            attributes.default_acl ^= key.name.0 == acl::DEFAULT;
        }
        Ok(())
    }

    pub(super) fn finish_attributes(&mut self) {
        let Some(left) = self.attributes.take() else { return };
        if left.list_bytes != 0 || left.access_acl || left.default_acl {
            self.of_inode(left.ino, "its extended attributes are not those that it says".to_owned());
        }
    }
}
