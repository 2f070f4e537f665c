//! Newtypes for everything that has a number.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// An inode number. Never reused; 1 is the root directory, 0 is no inode.
    Ino(u64)
}
id! {
    /// A DataNode's number, chosen by the operator and bound to its certificate. 0 is no node.
    NodeId(u32)
}
id! {
    /// A NameNode's number in its Raft group. 0 is no node.
    NameNodeId(u64)
}
id! {
    /// A placement group: an ordered list of DataNodes that hold the same chunks.
    PgId(u32)
}
id! {
    /// Counts the membership changes of one placement group.
    Epoch(u64)
}
id! {
    /// A client's session with the NameNode. Never reused.
    SessionId(u64)
}
id! {
    /// The generation of a lease: one uninterrupted period of ownership. Never repeated, also not by a later run of the
    /// NameNode; later grants have greater numbers. 0 is no lease.
    LeaseGeneration(u64)
}
id! {
    /// The index of a 2 MiB window of a file: `offset / CHUNK_SIZE`.
    WindowIndex(u64)
}

/// The identity of a file system: made when its NameNode's folder is formatted, and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamespaceId(pub u128);

impl fmt::Display for NamespaceId {
    /// As a UUID is written: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
        f.write_str(&groups.join("-"))
    }
}

impl std::str::FromStr for NamespaceId {
    type Err = std::num::ParseIntError;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(&s.replace('-', ""), 16).map(Self)
    }
}

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// A chunk's number: the placement group in the high 20 bits, a sequence within the group in the low 44.
///
/// The location of a chunk is therefore one look-up in the table of placement groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(pub u64);

impl ChunkId {
    /// Bits of the sequence: 2^44 chunks of 2 MiB are 32 EiB in one group.
    pub const SEQUENCE_BITS: u32 = 44;
    /// The largest sequence number of a group.
    pub const MAX_SEQUENCE: u64 = (1 << Self::SEQUENCE_BITS) - 1;
    /// The largest placement group that a chunk id can name.
    pub const MAX_PG: PgId = PgId((1 << (u64::BITS - Self::SEQUENCE_BITS)) - 1);

    /// # Panics
    /// When `pg` or `sequence` do not fit: ids are only made by the NameNode, which checks both.
    pub fn new(pg: PgId, sequence: u64) -> Self {
        assert!(pg <= Self::MAX_PG && sequence <= Self::MAX_SEQUENCE, "chunk id out of range");
        Self((u64::from(pg.0) << Self::SEQUENCE_BITS) | sequence)
    }

    /// The placement group that holds the chunk.
    pub fn pg(self) -> PgId {
        PgId((self.0 >> Self::SEQUENCE_BITS) as u32)
    }

    /// The chunk's number within its group.
    pub fn sequence(self) -> u64 {
        self.0 & Self::MAX_SEQUENCE
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for ChunkId {
    type Err = std::num::ParseIntError;

    /// Reads the 16 hexadecimal digits that [`Display`](fmt::Display) writes.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_reads_what_it_writes() {
        let id = NamespaceId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn chunk_ids_split_into_group_and_sequence() {
        let id = ChunkId::new(ChunkId::MAX_PG, 7);
        assert_eq!((id.pg(), id.sequence()), (ChunkId::MAX_PG, 7));
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
    }
}
