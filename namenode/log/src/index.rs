//! What the log holds: where each entry is, and the newest entries themselves.

use crate::raft_types::{Payload, RaftEntry, RaftLogId, RaftMembership, RaftStoredMembership, log_id};
use openraft::EntryPayload;
use std::collections::VecDeque;

/// Where a record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    /// `None` until the entry is durable.
    place: Option<Place>,
}

/// An entry, or where to read it.
pub(crate) enum Found {
    Cached(RaftEntry),
    At(RaftLogId, Place),
}

/// All entries that are not purged, by index without gaps.
#[derive(Debug)]
pub(crate) struct LogIndex {
    purged: Option<RaftLogId>,
    slots: VecDeque<Slot>,
    /// In order of their indices; at most the first one is purged, it is the membership as of then.
    memberships: Vec<RaftStoredMembership>,
    /// The payloads of the newest slots.
    cache: VecDeque<Payload>,
    cached_bytes: usize,
    cache_limit: usize,
}

impl LogIndex {
    pub(crate) fn new(
        purged: Option<RaftLogId>,
        membership: Option<RaftStoredMembership>,
        cache_limit: usize,
    ) -> Self {
        Self {
            purged,
            slots: VecDeque::new(),
            memberships: membership.into_iter().collect(),
            cache: VecDeque::new(),
            cached_bytes: 0,
            cache_limit,
        }
    }

    /// The index that the first entry has, or will have.
    pub(crate) fn first(&self) -> u64 {
        self.purged.map_or(0, |p| p.index + 1)
    }

    /// The index that the next entry will have.
    pub(crate) fn next(&self) -> u64 {
        self.first() + self.slots.len() as u64
    }

    pub(crate) fn purged(&self) -> Option<RaftLogId> {
        self.purged
    }

    /// The newest entry, or the last one purged.
    pub(crate) fn last(&self) -> Option<RaftLogId> {
        match self.slots.back() {
            Some(slot) => Some(log_id(slot.term, self.next() - 1)),
            None => self.purged,
        }
    }

    pub(crate) fn log_id(&self, index: u64) -> Option<RaftLogId> {
        if let Some(purged) = self.purged.filter(|p| p.index == index) {
            return Some(purged);
        }
        let slot = self.slots.get(usize::try_from(index.checked_sub(self.first())?).ok()?)?;
        Some(log_id(slot.term, index))
    }

    /// The membership in force once the entry `index` is applied.
    pub(crate) fn membership_at(&self, index: u64) -> RaftStoredMembership {
        let known = self.memberships.iter().rev().find(|m| m.log_id().is_some_and(|l| l.index <= index));
        known.cloned().unwrap_or_default()
    }

    /// Takes in an entry that is already on disk.
    pub(crate) fn push_recovered(&mut self, id: RaftLogId, membership: Option<RaftMembership>, place: Place) {
        self.slots.push_back(Slot { term: id.leader_id.term, place: Some(place) });
        if let Some(membership) = membership {
            self.memberships.push(RaftStoredMembership::new(Some(id), membership));
        }
    }

    /// Takes in an entry that is on its way to the disk.
    pub(crate) fn push(&mut self, entry: RaftEntry) {
        self.slots.push_back(Slot { term: entry.log_id.leader_id.term, place: None });
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.memberships.push(RaftStoredMembership::new(Some(entry.log_id), membership.clone()));
        }
        self.cached_bytes += cost(&entry.payload);
        self.cache.push_back(entry.payload);
    }

    /// Notes that entries are durable, and drops from the cache what is over its limit.
    pub(crate) fn set_places(&mut self, places: impl Iterator<Item = (u64, Place)>) {
        let first = self.first();
        for (index, place) in places {
            // What was purged meanwhile is of no interest.
            let slot = index.checked_sub(first).and_then(|at| self.slots.get_mut(at as usize));
            if let Some(slot) = slot {
                slot.place = Some(place);
            }
        }
        while self.cached_bytes > self.cache_limit {
            let oldest = self.slots.len() - self.cache.len();
            if self.slots.get(oldest).is_none_or(|slot| slot.place.is_none()) {
                break;
            }
            self.drop_oldest_cached();
        }
    }

    fn drop_oldest_cached(&mut self) {
        if let Some(payload) = self.cache.pop_front() {
            self.cached_bytes -= cost(&payload);
        }
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.next() > index.max(self.first()) {
            self.slots.pop_back();
            if let Some(payload) = self.cache.pop_back() {
                self.cached_bytes -= cost(&payload);
            }
        }
        self.memberships.retain(|m| m.log_id().is_some_and(|l| l.index < index));
    }

    /// Forgets the entries up to `id`, which must be one of them.
    pub(crate) fn purge(&mut self, id: RaftLogId) {
        let count = (id.index + 1).saturating_sub(self.first()).min(self.slots.len() as u64);
        self.slots.drain(..count as usize);
        self.purged = self.purged.max(Some(id));
        while self.cache.len() > self.slots.len() {
            self.drop_oldest_cached();
        }
        let kept = self.memberships.iter().rposition(|m| m.log_id().is_some_and(|l| l.index <= id.index));
        self.memberships.drain(..kept.unwrap_or(0));
    }

    /// The entries from `start` to before `end` that the log holds.
    pub(crate) fn range(&self, start: u64, end: u64) -> Vec<Found> {
        let first = self.first();
        let cached_from = self.next() - self.cache.len() as u64;
        (start.max(first)..end.min(self.next()))
            .map(|index| {
                let slot = self.slots[(index - first) as usize];
                let id = log_id(slot.term, index);
                match (index.checked_sub(cached_from), slot.place) {
                    (Some(at), _) => {
                        Found::Cached(RaftEntry { log_id: id, payload: self.cache[at as usize].clone() })
                    }
                    (None, Some(place)) => Found::At(id, place),
                    (None, None) => unreachable!("only durable entries leave the cache"),
                }
            })
            .collect()
    }
}

/// Bytes that a cached payload is counted with.
fn cost(payload: &Payload) -> usize {
    let content = match payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    size_of::<Payload>() + content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::Proposal;
    use bytes::Bytes;

    fn entry(term: u64, index: u64, size: usize) -> RaftEntry {
        let payload = EntryPayload::Normal(Proposal(Bytes::from(vec![index as u8; size])));
        RaftEntry { log_id: log_id(term, index), payload }
    }

    fn place(index: u64) -> Place {
        Place { segment: 1, offset: index as u32 * 4096, length: 100 }
    }

    #[test]
    fn durable_entries_leave_the_cache_and_others_stay() {
        let mut index = LogIndex::new(None, None, 500);
        for i in 0..10 {
            index.push(entry(1, i, 100));
        }
        let cached =
            |index: &LogIndex| index.range(0, 99).iter().filter(|f| matches!(f, Found::Cached(_))).count();
        assert_eq!(cached(&index), 10);
        index.set_places((0..4).map(|i| (i, place(i))));
        assert_eq!(cached(&index), 6, "the cache is over its limit, but these are not durable");
        index.set_places((4..10).map(|i| (i, place(i))));
        assert!(cached(&index) < 5);
        let found = index.range(2, 3);
        assert!(matches!(found[..], [Found::At(id, at)] if id == log_id(1, 2) && at == place(2)));
    }

    #[test]
    fn purging_and_truncating_keep_indices_and_memberships_right() {
        let mut index = LogIndex::new(None, None, 1 << 20);
        let members = RaftMembership::new_with_defaults(vec![[1].into()], []);
        index.push(RaftEntry { log_id: log_id(0, 0), payload: EntryPayload::Membership(members.clone()) });
        for i in 1..10 {
            index.push(entry(1, i, 10));
        }
        assert_eq!(index.membership_at(5).log_id(), &Some(log_id(0, 0)));
        index.purge(log_id(1, 4));
        assert_eq!((index.first(), index.next()), (5, 10));
        assert_eq!((index.log_id(3), index.log_id(4)), (None, Some(log_id(1, 4))));
        assert_eq!(index.membership_at(5).log_id(), &Some(log_id(0, 0)), "survives the purge");
        index.push(RaftEntry { log_id: log_id(2, 10), payload: EntryPayload::Membership(members) });
        assert_eq!(index.membership_at(10).log_id(), &Some(log_id(2, 10)));
        index.truncate(8);
        assert_eq!(index.last(), Some(log_id(1, 7)));
        assert_eq!(index.membership_at(10).log_id(), &Some(log_id(0, 0)));
        assert_eq!(index.range(0, 100).len(), 3);
        index.purge(log_id(1, 7));
        assert_eq!((index.last(), index.range(0, 100).len()), (Some(log_id(1, 7)), 0));
    }
}
