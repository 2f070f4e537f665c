//! The key schema: one type per table, whose order is the order of its bytes.
//!
//! ```text
//! table  key                                value
//! 0x01   -                                  Meta: counters and settings
//! 0x02   inode                              Inode
//! 0x03   directory, cookie                  Dentry: name, inode, kind     (readdir)
//! 0x04   directory, name                    NameEntry: cookie, inode, kind (lookup)
//! 0x05   data number, window index               WindowRecord: slices
//! 0x06   inode, attribute name              value
//! 0x07   inode                              -: an orphan
//! 0x08   FileContent::data                 inode: whose windows these are, where the numbers differ
//! 0x09   inode                              -: a file with erased windows to be freed
//! 0x10   chunk id (group first)             ChunkRecord: length, hash, references
//! 0x11   logical time, chunk id             -: delete queue
//! 0x12   chunk id                           -: a retired id at or above its group's floor
//! 0x20   session                            SessionRecord
//! 0x21   session, slot                      SlotRecord: last sequence and its reply
//! 0x22   session, inode                     LeaseGeneration: the lease, and all earlier ones, are broken
//! 0x23   session                            EndedRecord: its slots are kept for requests about their fate
//! 0x30   node                               NodeRecord
//! 0x31   placement group                    Group
//! 0x32   placement group                    Cursor: next sequence and floor
//! ```
//!
//! Integers are big-endian, so that keys sort as numbers do.

use crate::command::LogicalTime;
use crate::records::{
    ChunkRecord, Cursor, Dentry, EndedRecord, Inode, Meta, NameEntry, NodeRecord, SessionRecord, SlotRecord,
    WindowRecord,
};
use quarry_common::ids::{ChunkId, Ino, LeaseGeneration, NodeId, PgId, SessionId, WindowIndex};
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::cluster::Group;
use quarry_common::wire::fs::Name;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A key of a table.
pub(crate) trait Key: Sized {
    /// What the table holds for it.
    type Value: Serialize + DeserializeOwned;
    /// First byte of every key of the table.
    const TABLE: u8;

    /// Puts the key's fields behind the table's byte.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what `write` wrote.
    fn read(fields: Fields<'_>) -> Option<Self>;

    /// The whole key.
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.push(Self::TABLE);
        self.write(&mut out);
        out
    }
}

/// The fields of a key, read from the front.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// Declares a key made of one integer newtype.
macro_rules! id_key {
    ($(#[$doc:meta])* $table:literal $name:ident($id:ty: $int:ty) => $value:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) $id);

        impl Key for $name {
            type Value = $value;
            const TABLE: u8 = $table;
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0.0.to_be_bytes());
            }
            fn read(mut fields: Fields<'_>) -> Option<Self> {
                let id = <$int>::from_be_bytes(fields.take()?);
                fields.end(Self(<$id>::from(Wrap(id))))
            }
        }
    };
}

/// Carries an integer into its newtype.
struct Wrap<T>(T);

macro_rules! wrap {
    ($($id:ident: $int:ty),*) => {$(
        impl From<Wrap<$int>> for $id {
            fn from(v: Wrap<$int>) -> Self {
                $id(v.0)
            }
        }
    )*};
}
wrap!(Ino: u64, ChunkId: u64, SessionId: u64, NodeId: u32, PgId: u32);

/// The one key of the first table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MetaKey;

impl Key for MetaKey {
    type Value = Meta;
    const TABLE: u8 = 0x01;
    fn write(&self, _out: &mut Vec<u8>) {}
    fn read(fields: Fields<'_>) -> Option<Self> {
        fields.end(Self)
    }
}

id_key! {
    /// Inodes.
    0x02 InodeKey(Ino: u64) => Inode
}

/// Entries of a directory in the order of their creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DentryKey {
    pub(crate) parent: Ino,
    pub(crate) cookie: u64,
}

impl Key for DentryKey {
    type Value = Dentry;
    const TABLE: u8 = 0x03;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.parent.0.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (parent, cookie) = (Ino(fields.u64()?), fields.u64()?);
        fields.end(Self { parent, cookie })
    }
}

/// Entries of a directory by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NameKey {
    pub(crate) parent: Ino,
    pub(crate) name: Name,
}

impl Key for NameKey {
    type Value = NameEntry;
    const TABLE: u8 = 0x04;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.parent.0.to_be_bytes());
        out.extend_from_slice(&self.name);
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let parent = Ino(fields.u64()?);
        Some(Self { parent, name: fields.rest().into() })
    }
}

/// Windows of a file in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WindowKey {
    /// The file's [`FileContent::data`](crate::FileContent::data).
    pub(crate) data: Ino,
    pub(crate) index: WindowIndex,
}

impl Key for WindowKey {
    type Value = WindowRecord;
    const TABLE: u8 = 0x05;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.data.0.to_be_bytes());
        out.extend_from_slice(&self.index.0.to_be_bytes());
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (data, index) = (Ino(fields.u64()?), WindowIndex(fields.u64()?));
        fields.end(Self { data, index })
    }
}

/// Extended attributes of an inode by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct XattrKey {
    pub(crate) ino: Ino,
    pub(crate) name: Name,
}

impl Key for XattrKey {
    type Value = ByteString;
    const TABLE: u8 = 0x06;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ino.0.to_be_bytes());
        out.extend_from_slice(&self.name);
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let ino = Ino(fields.u64()?);
        Some(Self { ino, name: fields.rest().into() })
    }
}

id_key! {
    /// Inodes without a name.
    0x07 OrphanKey(Ino: u64) => ()
}
id_key! {
    /// The file whose windows are kept under a number that is not its own.
    0x08 OwnerKey(Ino: u64) => Ino
}
id_key! {
    /// Files with [`erased`](crate::FileContent::erased) windows.
    0x09 ErasedKey(Ino: u64) => ()
}
id_key! {
    /// Chunks that slices name.
    0x10 ChunkKey(ChunkId: u64) => ChunkRecord
}

/// Chunks that no slice names any more, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeleteKey {
    pub(crate) since: LogicalTime,
    pub(crate) id: ChunkId,
}

impl Key for DeleteKey {
    type Value = ();
    const TABLE: u8 = 0x11;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.since.0.to_be_bytes());
        out.extend_from_slice(&self.id.0.to_be_bytes());
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (since, id) = (LogicalTime(fields.u64()?), ChunkId(fields.u64()?));
        fields.end(Self { since, id })
    }
}

id_key! {
    /// Ids whose chunks were released while their group's floor was at or below them: a late commit that brings
    /// one again must be refused, for its data may be deleted already.
    0x12 RetiredKey(ChunkId: u64) => ()
}
id_key! {
    /// Open sessions.
    0x20 SessionKey(SessionId: u64) => SessionRecord
}

/// The last mutation of each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotKey {
    pub(crate) session: SessionId,
    pub(crate) slot: u16,
}

impl Key for SlotKey {
    type Value = SlotRecord;
    const TABLE: u8 = 0x21;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0.to_be_bytes());
        out.extend_from_slice(&self.slot.to_be_bytes());
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (session, slot) = (SessionId(fields.u64()?), u16::from_be_bytes(fields.take()?));
        fields.end(Self { session, slot })
    }
}

/// Broken leases that their session has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FenceKey {
    pub(crate) session: SessionId,
    pub(crate) ino: Ino,
}

impl Key for FenceKey {
    type Value = LeaseGeneration;
    const TABLE: u8 = 0x22;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0.to_be_bytes());
        out.extend_from_slice(&self.ino.0.to_be_bytes());
    }
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (session, ino) = (SessionId(fields.u64()?), Ino(fields.u64()?));
        fields.end(Self { session, ino })
    }
}

id_key! {
    /// Sessions that ended without their client's request, and whose slots are kept.
    0x23 EndedKey(SessionId: u64) => EndedRecord
}
id_key! {
    /// DataNodes.
    0x30 NodeKey(NodeId: u32) => NodeRecord
}
id_key! {
    /// Placement groups.
    0x31 GroupKey(PgId: u32) => Group
}
id_key! {
    /// Chunk numbers of placement groups.
    0x32 CursorKey(PgId: u32) => Cursor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<K: Key + PartialEq + std::fmt::Debug>(key: K) {
        let bytes = key.bytes();
        assert_eq!(bytes[0], K::TABLE);
        assert_eq!(K::read(Fields(&bytes[1..])), Some(key));
    }

    #[test]
    fn keys_read_what_they_write() {
        round_trip(InodeKey(Ino(7)));
        round_trip(DentryKey { parent: Ino(1), cookie: u64::MAX });
        round_trip(NameKey { parent: Ino(1), name: b"\xff\x01"[..].into() });
        round_trip(WindowKey { data: Ino(3), index: WindowIndex(1 << 42) });
        round_trip(DeleteKey { since: LogicalTime(5), id: ChunkId(9) });
        round_trip(SlotKey { session: SessionId(1), slot: 63 });
        round_trip(FenceKey { session: SessionId(1), ino: Ino(2) });
        round_trip(GroupKey(PgId(2)));
        assert_eq!(InodeKey::read(Fields(&[1, 2])), None);
    }

    #[test]
    fn the_delete_queue_is_in_order_of_time() {
        let key = |t| DeleteKey { since: LogicalTime(t), id: ChunkId(0) }.bytes();
        assert!(key(0) < key(1) && key(255) < key(256));
    }
}
