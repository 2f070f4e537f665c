//! POSIX access control lists in the form that Linux gives them as extended attributes.
//!
//! `struct posix_acl_xattr_header` and `_entry` of `include/uapi/linux/posix_acl_xattr.h`, all little-endian:
//!
//! ```text
//! u32 version = 2, then per entry: u16 tag, u16 permissions (rwx), u32 id
//! ```
//!
//! The rules are those of `fs/posix_acl.c`: entries in the order of [`Tag`], ids only for named users and groups, and a
//! mask if there are any of these.

/// The attribute that holds an inode's access ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds a directory's default ACL.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_SIZE: usize = 4;
const ENTRY_SIZE: usize = 8;
/// The id of an entry that names no user or group.
pub const NO_ID: u32 = u32::MAX;
/// Read, write and execute.
const RWX: u16 = 0o7;

/// The subject of an entry, with the numbers of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// The inode's owner.
    Owner = 0x01,
    /// A user by id.
    User = 0x02,
    /// The inode's group.
    OwningGroup = 0x04,
    /// A group by id.
    Group = 0x08,
    /// Upper bound of the permissions of named users and of all groups.
    Mask = 0x10,
    /// Everybody else.
    Other = 0x20,
}

impl Tag {
    fn from_number(number: u16) -> Option<Self> {
        [Self::Owner, Self::User, Self::OwningGroup, Self::Group, Self::Mask, Self::Other]
            .into_iter()
            .find(|tag| *tag as u16 == number)
    }

    fn is_named(self) -> bool {
        matches!(self, Self::User | Self::Group)
    }
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its subject.
    pub tag: Tag,
    /// Read 4, write 2, execute 1.
    pub permissions: u16,
    /// The user or group of a named entry, else [`NO_ID`].
    pub id: u32,
}

/// A valid access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

/// The value is no access control list.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidAcl;

impl Acl {
    /// Reads an attribute's value. `None`: a list without entries, which stands for no list.
    ///
    /// # Errors
    /// For bytes that Linux refuses as well.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, InvalidAcl> {
        let (header, body) = value.split_first_chunk::<HEADER_SIZE>().ok_or(InvalidAcl)?;
        if u32::from_le_bytes(*header) != VERSION || body.len() % ENTRY_SIZE != 0 {
            return Err(InvalidAcl);
        }
        if body.is_empty() {
            return Ok(None);
        }
        let entries =
            body.chunks_exact(ENTRY_SIZE).map(parse_entry).collect::<Option<Vec<_>>>().ok_or(InvalidAcl)?;
        let acl = Self { entries };
        if acl.is_valid() { Ok(Some(acl)) } else { Err(InvalidAcl) }
    }

    /// A list of the given entries, in any order.
    ///
    /// # Errors
    /// When a mandatory entry is missing or present twice, or named entries lack a mask.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, InvalidAcl> {
        entries.sort_by_key(|e| (e.tag, e.id));
        let acl = Self { entries };
        let sound =
            acl.entries.iter().all(|e| e.permissions & !RWX == 0 && e.tag.is_named() == (e.id != NO_ID));
        if sound && acl.is_valid() { Ok(acl) } else { Err(InvalidAcl) }
    }

    /// In the order of [`Tag`].
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the list grants all of `wanted` (read 4, write 2, execute 1) to a user with these groups, by the rules of
    /// acl(5): the first class that matches decides, and within the group class any matching entry suffices.
    pub fn permits(&self, owner: u32, group: u32, uid: u32, gids: &[u32], wanted: u16) -> bool {
        let grants = |permissions: u16| permissions & wanted == wanted;
        let mask = self.permissions(Tag::Mask).unwrap_or(RWX);
        if uid == owner {
            return grants(self.permissions(Tag::Owner).unwrap_or(0));
        }
        if let Some(named) = self.entries.iter().find(|e| e.tag == Tag::User && e.id == uid) {
            return grants(named.permissions & mask);
        }
        let mut matching = self.entries.iter().filter(|e| match e.tag {
            Tag::OwningGroup => gids.contains(&group),
            Tag::Group => gids.contains(&e.id),
            Tag::Owner | Tag::User | Tag::Mask | Tag::Other => false,
        });
        match matching.next() {
            Some(first) => grants(first.permissions & mask) || matching.any(|e| grants(e.permissions & mask)),
            None => grants(self.permissions(Tag::Other).unwrap_or(0)),
        }
    }

    /// The attribute's value.
    pub fn format(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER_SIZE + self.entries.len() * ENTRY_SIZE);
        value.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.entries {
            value.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            value.extend_from_slice(&entry.permissions.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// The permission bits of a mode that show this list: the mask, where there is one, stands for the group.
    pub fn mode_bits(&self) -> u16 {
        let group = self.permissions(Tag::Mask).or(self.permissions(Tag::OwningGroup));
        (self.permissions(Tag::Owner).unwrap_or(0) << 6)
            | (group.unwrap_or(0) << 3)
            | self.permissions(Tag::Other).unwrap_or(0)
    }

    /// The list says no more than the permission bits do.
    pub fn is_equivalent_to_mode(&self) -> bool {
        !self.entries.iter().any(|e| e.tag.is_named() || e.tag == Tag::Mask)
    }

    /// `chmod`: the owner's, the group class's and the others' permissions become those of the mode.
    pub fn chmod(&mut self, mode: u16) {
        let class = self.group_class();
        for entry in &mut self.entries {
            if let Some(shift) = shift(entry.tag, class) {
                entry.permissions = (mode >> shift) & RWX;
            }
        }
    }

    /// The access list of a new inode below a directory with this default list, and its permission bits: at most
    /// those that the creator asked for (`posix_acl_create_masq`).
    pub fn inherit(&self, mode: u16) -> (Self, u16) {
        let mut acl = self.clone();
        let class = acl.group_class();
        for entry in &mut acl.entries {
            if let Some(shift) = shift(entry.tag, class) {
                entry.permissions &= (mode >> shift) & RWX;
            }
        }
        let bits = acl.mode_bits();
        (acl, bits)
    }

    /// The entry that the group bits of the mode stand for.
    fn group_class(&self) -> Tag {
        if self.permissions(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup }
    }

    fn permissions(&self, tag: Tag) -> Option<u16> {
        self.entries.iter().find(|e| e.tag == tag).map(|e| e.permissions)
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.entries.iter().filter(|e| e.tag == tag).count();
        let named = self.entries.iter().any(|e| e.tag.is_named());
        self.entries.is_sorted_by_key(|e| e.tag)
            && [Tag::Owner, Tag::OwningGroup, Tag::Other].into_iter().all(|tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (!named || count(Tag::Mask) == 1)
    }
}

/// Where the entry's permissions are in a mode, if they are there.
fn shift(tag: Tag, group_class: Tag) -> Option<u32> {
    match tag {
        Tag::Owner => Some(6),
        Tag::Other => Some(0),
        tag if tag == group_class => Some(3),
        Tag::User | Tag::OwningGroup | Tag::Group | Tag::Mask => None,
    }
}

fn parse_entry(bytes: &[u8]) -> Option<Entry> {
    let (tag, rest) = bytes.split_first_chunk::<2>()?;
    let (permissions, rest) = rest.split_first_chunk::<2>()?;
    let (id, _) = rest.split_first_chunk::<4>()?;
    let tag = Tag::from_number(u16::from_le_bytes(*tag))?;
    let permissions = u16::from_le_bytes(*permissions);
    let id = u32::from_le_bytes(*id);
    if permissions & !RWX != 0 || (tag.is_named() && id == NO_ID) {
        return None;
    }
    Some(Entry { tag, permissions, id: if tag.is_named() { id } else { NO_ID } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An attribute's value from (tag, permissions, id) triples.
    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// `u::rwx,u:1000:rw-,g::r-x,m::rwx,o::---`
    fn with_named_user() -> Vec<u8> {
        value(&[(1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (0x10, 7, NO_ID), (0x20, 0, NO_ID)])
    }

    fn parse(value: &[u8]) -> Acl {
        Acl::parse(value).expect("valid").expect("not empty")
    }

    #[test]
    fn minimal_lists_are_modes() {
        let acl = parse(&value(&[(1, 6, NO_ID), (4, 4, NO_ID), (0x20, 0, NO_ID)]));
        assert!(acl.is_equivalent_to_mode());
        assert_eq!(acl.mode_bits(), 0o640);
    }

    #[test]
    fn the_mask_stands_for_the_group() {
        let mut acl = parse(&with_named_user());
        assert!(!acl.is_equivalent_to_mode());
        assert_eq!(acl.mode_bits(), 0o770);
        acl.chmod(0o640);
        assert_eq!(acl.mode_bits(), 0o640);
        assert_eq!(acl.permissions(Tag::OwningGroup), Some(5));
        assert_eq!(acl.permissions(Tag::User), Some(6));
    }

    #[test]
    fn inheritance_is_limited_by_the_creators_mode() {
        let (acl, bits) = parse(&with_named_user()).inherit(0o666);
        assert_eq!(bits, 0o660);
        assert_eq!(acl.permissions(Tag::Mask), Some(6));
        assert_eq!(acl.permissions(Tag::OwningGroup), Some(5));
    }

    #[test]
    fn broken_lists_are_refused() {
        let base = [(1, 7, NO_ID), (4, 5, NO_ID), (0x20, 0, NO_ID)];
        assert!(Acl::parse(&value(&base)).is_ok());
        assert_eq!(Acl::parse(&value(&[])), Ok(None));
        let broken: [&[(u16, u16, u32)]; 6] = [
            &[(4, 5, NO_ID), (1, 7, NO_ID), (0x20, 0, NO_ID)],
            &[(1, 7, NO_ID), (0x20, 0, NO_ID)],
            &[(1, 8, NO_ID), (4, 5, NO_ID), (0x20, 0, NO_ID)],
            &[(1, 7, NO_ID), (2, 7, 5), (4, 5, NO_ID), (0x20, 0, NO_ID)],
            &[(1, 7, NO_ID), (2, 7, NO_ID), (4, 5, NO_ID), (0x10, 7, NO_ID), (0x20, 0, NO_ID)],
            &[(1, 7, NO_ID), (3, 7, 5), (4, 5, NO_ID), (0x20, 0, NO_ID)],
        ];
        for entries in broken {
            assert_eq!(Acl::parse(&value(entries)), Err(InvalidAcl), "{entries:?}");
        }
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(InvalidAcl));
        assert_eq!(Acl::parse(&[2, 0, 0]), Err(InvalidAcl));
        assert_eq!(Acl::parse(&[2, 0, 0, 0, 1]), Err(InvalidAcl));
    }

    #[test]
    fn the_first_class_that_matches_decides() {
        let acl = parse(&value(&[
            (1, 7, NO_ID),
            (2, 6, 1000),
            (2, 0, 1001),
            (4, 4, NO_ID),
            (8, 7, 50),
            (0x10, 6, NO_ID),
            (0x20, 1, NO_ID),
        ]));
        let permits = |uid, gids: &[u32], wanted| acl.permits(1, 2, uid, gids, wanted);
        assert!(permits(1, &[], 7));
        assert!(permits(1000, &[], 6) && !permits(1000, &[], 1));
        assert!(!permits(1001, &[50], 4), "a named user's entry hides the groups");
        assert!(permits(9, &[2], 4) && !permits(9, &[2], 2));
        assert!(permits(9, &[2, 50], 6) && !permits(9, &[50], 1), "the mask bounds groups");
        assert!(permits(9, &[3], 1) && !permits(9, &[3], 4));
        let entries = acl.entries().iter().rev().copied().collect();
        assert_eq!(Acl::new(entries), Ok(acl.clone()));
        assert_eq!(Acl::new(acl.entries()[1..].to_vec()), Err(InvalidAcl));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(value in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(acl)) = Acl::parse(&value) {
                prop_assert_eq!(Acl::parse(&acl.format()), Ok(Some(acl)));
            }
        }
    }
}
