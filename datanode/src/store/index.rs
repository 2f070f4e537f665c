//! Which chunks are here, in memory: rebuilt from the names and sizes of files at each start.

use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::cluster::GroupDigest;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::trailer::file_size;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The data directory, by its position in the configuration.
    pub(crate) dir: u16,
    /// Bytes of data.
    pub(crate) length: u32,
    /// File and name are known to be on the disk.
    pub(crate) synced: bool,
}

#[derive(Debug, Default)]
struct Group {
    chunks: BTreeMap<ChunkId, Place>,
    digest: GroupDigest,
}

/// All chunks, by group and id.
#[derive(Debug, Default)]
pub(crate) struct Index {
    groups: BTreeMap<PgId, Group>,
    chunks: u64,
    bytes: u64,
    file_bytes: u64,
}

impl Index {
    pub(crate) fn place(&self, id: ChunkId) -> Option<Place> {
        self.groups.get(&id.pg())?.chunks.get(&id).copied()
    }

    /// Adds a chunk that is not there yet.
    pub(crate) fn insert(&mut self, id: ChunkId, place: Place) {
        let group = self.group(id.pg());
        let old = group.chunks.insert(id, place);
        assert!(old.is_none(), "chunk {id} is in the index twice");
        group.digest.add(id);
        self.chunks += 1;
        self.bytes += u64::from(place.length);
        self.file_bytes += file_size(place.length);
    }

    pub(crate) fn remove(&mut self, id: ChunkId) -> Option<Place> {
        let group = self.groups.get_mut(&id.pg())?;
        let place = group.chunks.remove(&id)?;
        group.digest.remove(id);
        self.chunks -= 1;
        self.bytes -= u64::from(place.length);
        self.file_bytes -= file_size(place.length);
        Some(place)
    }

    /// Takes all chunks of a data directory out; gives them, ascending.
    pub(crate) fn remove_all(&mut self, dir: u16) -> Vec<ChunkId> {
        let chunks = self.groups.values().flat_map(|group| &group.chunks);
        let gone: Vec<ChunkId> = chunks.filter(|(_, place)| place.dir == dir).map(|(id, _)| *id).collect();
        for id in &gone {
            self.remove(*id);
        }
        gone
    }

    /// Notes that the chunk is on the disk, if it is still there.
    pub(crate) fn mark_synced(&mut self, id: ChunkId) {
        if let Some(place) = self.groups.get_mut(&id.pg()).and_then(|g| g.chunks.get_mut(&id)) {
            place.synced = true;
        }
    }

    /// Makes a group known, so that its emptiness is reported as well.
    pub(crate) fn know(&mut self, pg: PgId) {
        self.group(pg);
    }

    fn group(&mut self, pg: PgId) -> &mut Group {
        self.groups.entry(pg).or_insert_with(|| Group {
            chunks: BTreeMap::new(),
            digest: GroupDigest { pg, ..GroupDigest::default() },
        })
    }

    /// Ids of a group in ascending order with their lengths, and whether there are no more.
    pub(crate) fn list(&self, pg: PgId, after: Option<ChunkId>, limit: usize) -> (Vec<(ChunkId, u32)>, bool) {
        let Some(group) = self.groups.get(&pg) else { return (Vec::new(), true) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = group.chunks.range((from, Bound::Unbounded)).map(|(id, place)| (*id, place.length));
        let ids = rest.by_ref().take(limit).collect();
        (ids, rest.next().is_none())
    }

    /// The first chunk after this one in the order of ids, which is the order of groups as well.
    pub(crate) fn next(&self, after: Option<ChunkId>) -> Option<(ChunkId, Place)> {
        let pg = after.map_or(PgId(0), ChunkId::pg);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.groups.range(pg..).find_map(|(_, group)| {
            group.chunks.range((from, Bound::Unbounded)).next().map(|(id, place)| (*id, *place))
        })
    }

    /// Of each group that has chunks, the smallest sequence number above all of them.
    pub(crate) fn above(&self) -> Vec<(PgId, u64)> {
        let last = |(pg, group): (&PgId, &Group)| {
            group.chunks.last_key_value().map(|(id, _)| (*pg, id.sequence() + 1))
        };
        self.groups.iter().filter_map(last).collect()
    }

    pub(crate) fn digest(&self, pg: PgId) -> GroupDigest {
        self.groups.get(&pg).map_or(GroupDigest { pg, ..GroupDigest::default() }, |g| g.digest)
    }

    /// Digests of up to `limit` groups, beginning after one, starting over at the end, none twice.
    pub(crate) fn digests(&self, after: Option<PgId>, limit: usize) -> Vec<GroupDigest> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.groups.range((from, Bound::Unbounded));
        let earlier = self.groups.iter().take_while(|(pg, _)| after.is_some_and(|after| **pg <= after));
        later.chain(earlier).take(limit).map(|(_, g)| g.digest).collect()
    }

    /// Chunks.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes of data.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of files, with trailers.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(pg: u32, sequence: u64) -> ChunkId {
        ChunkId::new(PgId(pg), sequence)
    }

    const PLACE: Place = Place { dir: 0, length: 10, synced: false };

    #[test]
    fn lists_in_pages_and_walks_over_groups() {
        let mut index = Index::default();
        let all = [id(1, 3), id(1, 9), id(4, 1)];
        for id in all {
            index.insert(id, PLACE);
        }
        assert_eq!(index.list(PgId(1), None, 1), (vec![(id(1, 3), 10)], false));
        assert_eq!(index.list(PgId(1), Some(id(1, 3)), 5), (vec![(id(1, 9), 10)], true));
        assert_eq!(index.list(PgId(2), None, 5), (vec![], true));
        let mut walked = Vec::new();
        while let Some((id, _)) = index.next(walked.last().copied()) {
            walked.push(id);
        }
        assert_eq!(walked, all);
    }

    #[test]
    fn digests_take_turns_and_empty_groups_are_told() {
        let mut index = Index::default();
        for pg in 1..=3 {
            index.know(PgId(pg));
        }
        index.insert(id(2, 1), PLACE);
        let turn =
            |after, limit| index.digests(after, limit).iter().map(|d| (d.pg.0, d.count)).collect::<Vec<_>>();
        assert_eq!(turn(None, 2), [(1, 0), (2, 1)]);
        assert_eq!(turn(Some(PgId(2)), 2), [(3, 0), (1, 0)]);
        assert_eq!(turn(Some(PgId(3)), 9), [(1, 0), (2, 1), (3, 0)]);
        assert_eq!(index.remove(id(2, 1)).map(|p| p.length), Some(10));
        assert_eq!((index.digest(PgId(2)).count, index.digest(PgId(2)).sum, index.file_bytes()), (0, 0, 0));
    }
}
