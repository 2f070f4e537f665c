//! ACLs in the notation of HDFS: `user:alice:rwx,group::r-x,default:other::---`.

use super::status::{Names, permission};
use super::{Call, json};
use crate::error::{Error, Result};
use axum::response::{IntoResponse, Response};
use quarry_common::acl::{self, Acl, Entry, NO_ID, Tag};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind, SetXattrMode};
use serde_json::json;

/// Entries of one specification, as HDFS has it for a list.
const ENTRIES_MAX: usize = 64;

/// The entries of both lists of a directory; files have the first only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lists {
    access: Vec<Entry>,
    default: Vec<Entry>,
}

impl Lists {
    /// Reads a specification. Without `permissions`, entries name what is to be removed.
    fn parse(spec: &str, names: &Names, permissions: bool) -> Result<Self> {
        let mut lists = Self::default();
        let texts: Vec<&str> = spec.split(',').map(str::trim).filter(|t| !t.is_empty()).collect();
        if texts.is_empty() || texts.len() > ENTRIES_MAX {
            return Err(Error::Bad(format!("an ACL has 1 to {ENTRIES_MAX} entries")));
        }
        for text in texts {
            let (list, entry) = match text.strip_prefix("default:") {
                Some(rest) => (&mut lists.default, rest),
                None => (&mut lists.access, text),
            };
            list.push(parse_entry(entry, names, permissions)?);
        }
        Ok(lists)
    }
}

fn parse_entry(text: &str, names: &Names, permissions: bool) -> Result<Entry> {
    let bad = || Error::Bad(format!("`{text}` is no entry of an ACL"));
    let mut parts = text.split(':');
    let (kind, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let bits = match (parts.next(), permissions) {
        (Some(bits), true) => parse_bits(bits).ok_or_else(bad)?,
        (None | Some(""), false) => 0,
        _ => return Err(bad()),
    };
    let unknown = || Error::Bad(format!("there is no user or group `{name}`"));
    let (tag, id) = match (kind, name) {
        ("user", "") => (Tag::Owner, NO_ID),
        ("user", name) => (Tag::User, names.uid(name).ok_or_else(unknown)?),
        ("group", "") => (Tag::OwningGroup, NO_ID),
        ("group", name) => (Tag::Group, names.gid(name).ok_or_else(unknown)?),
        ("mask", "") => (Tag::Mask, NO_ID),
        ("other", "") => (Tag::Other, NO_ID),
        _ => return Err(bad()),
    };
    Ok(Entry { tag, permissions: bits, id })
}

fn parse_bits(text: &str) -> Option<u16> {
    let bytes: [u8; 3] = text.as_bytes().try_into().ok()?;
    bytes.iter().zip(*b"rwx").zip([4, 2, 1]).try_fold(0, |bits, ((byte, letter), bit)| match byte {
        b'-' => Some(bits),
        byte if *byte == letter => Some(bits | bit),
        _ => None,
    })
}

fn format_bits(bits: u16) -> String {
    [(4, 'r'), (2, 'w'), (1, 'x')].iter().map(|(bit, c)| if bits & bit != 0 { *c } else { '-' }).collect()
}

fn format_entry(entry: &Entry, names: &mut Names) -> String {
    let subject = match entry.tag {
        Tag::Owner => "user:".to_owned(),
        Tag::User => format!("user:{}", names.user(entry.id)),
        Tag::OwningGroup => "group:".to_owned(),
        Tag::Group => format!("group:{}", names.group(entry.id)),
        Tag::Mask => "mask:".to_owned(),
        Tag::Other => "other:".to_owned(),
    };
    format!("{subject}:{}", format_bits(entry.permissions))
}

/// The three entries that a mode stands for.
fn of_mode(mode: u16) -> Vec<Entry> {
    [(Tag::Owner, 6), (Tag::OwningGroup, 3), (Tag::Other, 0)]
        .into_iter()
        .map(|(tag, shift)| Entry { tag, permissions: (mode >> shift) & 7, id: NO_ID })
        .collect()
}

/// Whether two entries are of the same subject.
fn same(a: &Entry, b: &Entry) -> bool {
    a.tag == b.tag && a.id == b.id
}

/// A complete list: what is missing of owner, group and others comes from `base`, and the mask, unless it was given, is the union
/// of what it bounds.
fn complete(mut entries: Vec<Entry>, base: &[Entry], mask_given: bool) -> Result<Acl> {
    for needed in base.iter().filter(|e| matches!(e.tag, Tag::Owner | Tag::OwningGroup | Tag::Other)) {
        if !entries.iter().any(|e| e.tag == needed.tag) {
            entries.push(*needed);
        }
    }
    let bounded = |e: &Entry| matches!(e.tag, Tag::User | Tag::Group | Tag::OwningGroup);
    let needs_mask = entries.iter().any(|e| matches!(e.tag, Tag::User | Tag::Group));
    if !mask_given {
        entries.retain(|e| e.tag != Tag::Mask);
        if needs_mask {
            let permissions = entries.iter().filter(|e| bounded(e)).fold(0, |bits, e| bits | e.permissions);
            entries.push(Entry { tag: Tag::Mask, permissions, id: NO_ID });
        }
    }
    Acl::new(entries).map_err(|_| Error::Bad("the entries make no valid ACL".to_owned()))
}

impl Call {
    fn spec(&self, names: &Names, permissions: bool) -> Result<Lists> {
        Lists::parse(self.params.required("aclspec")?, names, permissions)
    }

    async fn current(&self, attr: &Attr) -> Result<Lists> {
        let access = self
            .fs
            .acl(attr, acl::ACCESS)
            .await?
            .map_or_else(|| of_mode(attr.mode), |a| a.entries().to_vec());
        let default = match attr.kind {
            FileKind::Dir => {
                self.fs.acl(attr, acl::DEFAULT).await?.map(|a| a.entries().to_vec()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        Ok(Lists { access, default })
    }

    async fn store(&self, attr: &Attr, name: &[u8], list: Option<&Acl>) -> Result<()> {
        match list {
            Some(list) => {
                self.fs.set_xattr(attr, name, list.format(), SetXattrMode::Either).await?;
            }
            None => match self.fs.remove_xattr(attr, name).await {
                Ok(_) | Err(FsError::NoAttribute) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }

    /// Stores what differs from the lists before.
    async fn store_lists(
        &self,
        attr: &Attr,
        old: &Lists,
        new: Lists,
        masks: (bool, bool),
    ) -> Result<Response> {
        if new.access != old.access {
            let list = complete(new.access, &of_mode(attr.mode), masks.0)?;
            self.store(attr, acl::ACCESS, Some(&list)).await?;
        }
        if new.default != old.default {
            let list = match new.default.is_empty() {
                true => None,
                false => Some(complete(new.default, &of_mode(attr.mode), masks.1)?),
            };
            self.store(attr, acl::DEFAULT, list.as_ref()).await?;
        }
        Ok(().into_response())
    }

    pub(super) async fn acl_status(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        let mut names = Names::new(self.gateway.auth.users());
        let lists = self.current(&attr).await?;
        // Owner, others and mask are told by the permission; a list that says no more than a mode has no entries.
        let extended = lists.access.len() > 3;
        let shown = |e: &&Entry| extended && matches!(e.tag, Tag::User | Tag::OwningGroup | Tag::Group);
        let mut entries: Vec<String> =
            lists.access.iter().filter(shown).map(|e| format_entry(e, &mut names)).collect();
        entries.extend(lists.default.iter().map(|e| format!("default:{}", format_entry(e, &mut names))));
        Ok(json(json!({ "AclStatus": {
            "entries": entries,
            "owner": names.user(attr.uid),
            "group": names.group(attr.gid),
            "permission": permission(attr.mode),
            "stickyBit": attr.mode & 0o1000 != 0,
        } })))
    }

    pub(super) async fn set_acl(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        let old = self.current(&attr).await?;
        let spec = self.spec(&Names::new(self.gateway.auth.users()), true)?;
        let masks = (has_mask(&spec.access), has_mask(&spec.default));
        // A specification with default entries only leaves the access list alone.
        let access = if spec.access.is_empty() { old.access.clone() } else { spec.access };
        self.store_lists(&attr, &old, Lists { access, default: spec.default }, masks).await
    }

    pub(super) async fn modify_acl(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        let old = self.current(&attr).await?;
        let spec = self.spec(&Names::new(self.gateway.auth.users()), true)?;
        let masks = (has_mask(&spec.access), has_mask(&spec.default));
        let merge = |old: &[Entry], new: Vec<Entry>| {
            let kept = old.iter().filter(|o| !new.iter().any(|n| same(o, n))).copied();
            kept.chain(new.iter().copied()).collect::<Vec<_>>()
        };
        let new =
            Lists { access: merge(&old.access, spec.access), default: merge(&old.default, spec.default) };
        self.store_lists(&attr, &old, new, masks).await
    }

    pub(super) async fn remove_acl_entries(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        let old = self.current(&attr).await?;
        let spec = self.spec(&Names::new(self.gateway.auth.users()), false)?;
        let without = |old: &[Entry], gone: &[Entry]| {
            old.iter().filter(|o| !gone.iter().any(|g| same(o, g))).copied().collect::<Vec<_>>()
        };
        let new = Lists {
            access: without(&old.access, &spec.access),
            default: without(&old.default, &spec.default),
        };
        self.store_lists(&attr, &old, new, (false, false)).await
    }

    pub(super) async fn remove_default_acl(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        self.store(&attr, acl::DEFAULT, None).await?;
        Ok(().into_response())
    }

    pub(super) async fn remove_acl(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        // What the owning group may do without the list is what its entry says, not the mask.
        if let Some(list) = self.fs.acl(&attr, acl::ACCESS).await? {
            let is_plain = |e: &&Entry| matches!(e.tag, Tag::Owner | Tag::OwningGroup | Tag::Other);
            let plain = complete(list.entries().iter().filter(is_plain).copied().collect(), &[], false)?;
            self.store(&attr, acl::ACCESS, Some(&plain)).await?;
        }
        if attr.kind == FileKind::Dir {
            self.store(&attr, acl::DEFAULT, None).await?;
        }
        Ok(().into_response())
    }
}

fn has_mask(entries: &[Entry]) -> bool {
    entries.iter().any(|e| e.tag == Tag::Mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn names() -> Names {
        Names::new(Arc::default())
    }

    #[test]
    fn entries_are_read_and_written() {
        let spec =
            "user::rwx,user:1234:rw-,group::r-x,group:77:---,mask::rwx,other::--x,default:user:1234:r--";
        let lists = Lists::parse(spec, &names(), true).unwrap();
        assert_eq!((lists.access.len(), lists.default.len()), (6, 1));
        assert_eq!(format_entry(&lists.access[1], &mut names()), "user:1234:rw-");
        for bad in [
            "",
            "user",
            "user::rwxr",
            "user::xwr",
            "mask:1:rwx",
            "other:1:rwx",
            "who::rwx",
            "user:no-such-user-here:rwx",
        ] {
            assert!(Lists::parse(bad, &names(), true).is_err(), "{bad}");
        }
        assert!(
            Lists::parse("user:1234", &names(), false).is_ok()
                && Lists::parse("user:1234:rwx", &names(), false).is_err()
        );
    }

    #[test]
    fn a_mask_is_made_of_what_it_bounds() {
        let lists = Lists::parse("user:5:rw-", &names(), true).unwrap();
        let list = complete(lists.access, &of_mode(0o751), false).unwrap();
        assert_eq!(list.mode_bits(), 0o771);
        assert!(list.permits(1, 2, 5, &[9], 6) && !list.permits(1, 2, 5, &[9], 1));
        let plain = complete(of_mode(0o640), &[], false).unwrap();
        assert!(plain.is_equivalent_to_mode());
    }
}
