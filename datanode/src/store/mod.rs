//! Chunks on the disks of this node.
//!
//! All methods block and are called on threads that may. They may be called from many threads at once.

mod claims;
mod dir;
mod error;
mod health;
mod index;
mod meta;
mod namespace;
mod open;
mod queue;
mod read;
mod report;
#[cfg(test)]
mod sick_disk_tests;
mod sync;
mod tend;
#[cfg(test)]
mod tests;
mod trailer;
mod volume;

pub(crate) use error::StoreError;
pub(crate) use meta::Owner;
pub(crate) use namespace::Strange;
pub(crate) use open::Options;
use report::Report;
pub(crate) use trailer::{Trailer, blocks, length_fits};

use bytes::Bytes;
use claims::{Claim, Claims};
use index::{Index, Place};
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::cluster::GroupDigest;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use trailer::{TRAILER_MAX, file_size};
use volume::Volume;

/// Chunks that wait for the background syncer. When there are more, each write syncs for itself: the disk is then the
/// limit anyway, and a power failure must not take more than a few seconds' worth from those who did not ask for sync.
const UNSYNCED_MAX: usize = 8192;
/// Room that a directory needs to be of use: the largest chunk file.
const LARGEST_FILE: u64 = CHUNK_SIZE + TRAILER_MAX;

/// A disk is slow when its operations take so many times as long as those of the disk in the middle ...
const SLOW_FACTOR: u32 = 8;
/// ... and at least this long: below it, a difference means nothing.
const SLOW_MIN: Duration = Duration::from_millis(50);

/// The chunk store over all data directories.
pub(crate) struct Store {
    store_id: u128,
    owner: Owner,
    volumes: Vec<Volume>,
    /// Most bytes that files may take.
    limit: Option<u64>,
    index: RwLock<Index>,
    claims: Claims,
    /// Bytes of files being written.
    reserved: Mutex<u64>,
    unsynced: Mutex<BTreeSet<ChunkId>>,
    report: Report,
    scrubbed: AtomicU64,
    /// Unix time at which the scrubber came to the end of all chunks; 0 before.
    scrub_ended_ms: AtomicU64,
    rotten: AtomicU64,
    /// The file system to which the chunks belong, as the NameNode last said.
    stamp: namespace::Stamp,
}

impl Store {
    /// Made when the directories were.
    pub(crate) fn store_id(&self) -> u128 {
        self.store_id
    }

    /// Writes a chunk whose blocks the caller has checked against the trailer's CRCs. One that is there already with
    /// the same content is not written again.
    ///
    /// When it returns and `durable` is set, file and name are on the disk; else they are soon.
    ///
    /// # Errors
    /// `Conflict`; `NoSpace` when no directory that works has room; `Io` when none works, or every one refused it.
    pub(crate) fn put(&self, chunk: &Trailer, data: &[Bytes], durable: bool) -> Result<(), StoreError> {
        debug_assert_eq!(data.iter().map(Bytes::len).sum::<usize>(), chunk.length as usize);
        let claim = self.claims.take(chunk.id);
        // Not in the condition below: its guard would live until the end of the block.
        let place = self.index().place(chunk.id);
        if let Some(place) = place {
            match self.trailer(chunk.id, place) {
                Ok(there) if there.sha256 == chunk.sha256 && there.length == chunk.length => {
                    return if durable && !place.synced { self.sync_one(&claim, place) } else { Ok(()) };
                }
                Ok(_) => return Err(StoreError::Conflict(chunk.id)),
                Err(StoreError::Rotten { why, .. }) => self.quarantine(&claim, &why),
                // Its disk does not answer: another one takes the chunk.
                Err(StoreError::Io { .. }) if !self.volumes[usize::from(place.dir)].works() => {
                    self.displace(&claim, place);
                }
                Err(e) => return Err(e),
            }
        }
        let size = file_size(chunk.length);
        let _reservation = self.reserve(size)?;
        let durable = durable || self.unsynced().len() >= UNSYNCED_MAX;
        let mut parts = data.to_vec();
        parts.push(chunk.encode().into());
        let mut refusal = None;
        for (number, volume) in self.in_order_of_choice(chunk.id, size) {
            match volume.write(chunk.id, parts.clone(), durable) {
                Ok(()) => {
                    volume.health.took(size);
                    let place = Place { dir: number, length: chunk.length, synced: durable };
                    self.index_mut().insert(chunk.id, place);
                    if !durable {
                        self.unsynced().insert(chunk.id);
                    }
                    return Ok(());
                }
                Err(e) => {
                    tracing::error!(id = %chunk.id, dir = %volume.dir().path().display(), error = %e, "cannot write a chunk");
                    self.write_failed(number, &e);
                    refusal = Some(e);
                }
            }
        }
        let what = format!("cannot write chunk {}", chunk.id);
        Err(match refusal {
            Some(source) if health::judge(&source) != health::Verdict::Full => {
                StoreError::Io { what, source }
            }
            _ if !self.volumes.iter().any(Volume::works) => {
                StoreError::Io { what, source: io::Error::other(self.trouble()) }
            }
            _ => StoreError::NoSpace(self.trouble()),
        })
    }

    /// Removes chunks; those that are not here are fine.
    ///
    /// The names are not synced: a chunk that a power failure brings back shows in the group's digest, and is deleted
    /// again as one that no file refers to. The same is true of a file that a disk does not remove.
    pub(crate) fn delete(&self, ids: &[ChunkId]) {
        for id in ids {
            let _claim = self.claims.take(*id);
            let Some(place) = self.index_mut().remove(*id) else { continue };
            self.unsynced().remove(id);
            self.remove_file(*id, place.dir);
        }
    }

    fn remove_file(&self, id: ChunkId, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        match volume.run(move |dir| dir.remove(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%id, dir = %volume.dir().path().display(), error = %e, "cannot remove a chunk");
                self.write_failed(number, &e);
            }
            _ => {}
        }
    }

    /// Takes note of a write that a directory refused. One that is gone is given up at once.
    fn write_failed(&self, number: u16, error: &io::Error) {
        self.volumes[usize::from(number)].health.write_failed(error);
        if error.kind() == io::ErrorKind::StaleNetworkFileHandle {
            self.give_up(number);
        }
    }

    /// Whether the chunk is here.
    pub(crate) fn has(&self, id: ChunkId) -> bool {
        self.index().place(id).is_some()
    }

    /// See [`DataRequest::List`](quarry_common::wire::data::DataRequest::List).
    pub(crate) fn list(&self, pg: PgId, after: Option<ChunkId>, limit: usize) -> (Vec<(ChunkId, u32)>, bool) {
        self.index().list(pg, after, limit)
    }

    /// The first chunk after this one, and its length.
    pub(crate) fn next(&self, after: Option<ChunkId>) -> Option<(ChunkId, u32)> {
        self.index().next(after).map(|(id, place)| (id, place.length))
    }

    /// What is here of a group.
    pub(crate) fn digest(&self, pg: PgId) -> GroupDigest {
        self.index().digest(pg)
    }

    /// See [`Index::digests`].
    pub(crate) fn digests(&self, after: Option<PgId>, limit: usize) -> Vec<GroupDigest> {
        self.index().digests(after, limit)
    }

    /// Makes groups known of which there may be nothing here yet.
    pub(crate) fn know(&self, groups: impl IntoIterator<Item = PgId>) {
        let mut index = self.index_mut();
        groups.into_iter().for_each(|pg| index.know(pg));
    }

    /// Directories with enough room, the chosen one first: by a number that is spread like the ids, so that each
    /// directory gets its share by free space and all of them work at the same time.
    ///
    /// Directories on slow disks come after all others: a write waits as long as the disk that takes it.
    fn in_order_of_choice(&self, id: ChunkId, size: u64) -> impl Iterator<Item = (u16, &Volume)> {
        let slow = self.slow_disks();
        let mut left: Vec<(u16, u64)> = (0..).zip(self.volumes.iter().map(Volume::room)).collect();
        left.retain(|(_, room)| *room >= size);
        let (mut last, mut left): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|(number, _)| slow.contains(number));
        let mut draw = GroupDigest::mix(id);
        std::iter::from_fn(move || {
            if left.is_empty() {
                left = std::mem::take(&mut last);
            }
            let total = left.iter().fold(0u64, |sum, (_, room)| sum.saturating_add(*room));
            let mut at = draw.checked_rem(total)?;
            draw = draw.rotate_left(17);
            let chosen = left.iter().position(|(_, room)| match at.checked_sub(*room) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            });
            let (number, _) = left.swap_remove(chosen.unwrap_or(0));
            Some((number, &self.volumes[usize::from(number)]))
        })
    }

    /// Disks whose operations take many times as long as those of the others.
    fn slow_disks(&self) -> Vec<u16> {
        let latencies: Vec<Duration> = self.volumes.iter().map(|volume| volume.load().latency).collect();
        slow_ones(&latencies)
    }

    /// Takes bytes of the limit for a file that is about to be written.
    fn reserve(&self, size: u64) -> Result<Reservation<'_>, StoreError> {
        let mut reserved = self.reserved();
        if let Some(limit) = self.limit
            && self.index().file_bytes() + *reserved + size > limit
        {
            return Err(StoreError::NoSpace(format!("the capacity limit of {limit} bytes is reached")));
        }
        *reserved += size;
        Ok(Reservation { store: self, size })
    }

    /// Takes a chunk out of the index, moves its file away, and has it reported.
    fn quarantine(&self, claim: &Claim<'_>, why: &str) {
        let id = claim.id();
        let Some(place) = self.index_mut().remove(id) else { return };
        let volume = &self.volumes[usize::from(place.dir)];
        let dir = volume.dir().path().display();
        tracing::error!(%id, %dir, why, "moving a rotten chunk to quarantine");
        self.unsynced().remove(&id);
        self.rotten.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = volume.run(move |dir| dir.quarantine(id))
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%id, %dir, error = %e, "cannot move a rotten chunk");
        }
        self.report.add([id]);
    }

    /// Takes a chunk out of the index whose disk does not work, so that another one can take it. If the disk comes back, its
    /// file is one too many.
    fn displace(&self, claim: &Claim<'_>, place: Place) {
        self.index_mut().remove(claim.id());
        self.unsynced().remove(&claim.id());
        self.volumes[usize::from(place.dir)].add_stray(claim.id());
    }

    /// Gives up the chunks of a directory that has failed: they are gone as far as the cluster is concerned, and are had again
    /// from other nodes.
    fn give_up(&self, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        if !volume.health.give_up() {
            return;
        }
        let lost = self.index_mut().remove_all(number);
        {
            let mut unsynced = self.unsynced();
            lost.iter().for_each(|id| {
                unsynced.remove(id);
            });
        }
        let dir = volume.dir().path().display();
        tracing::error!(%dir, chunks = lost.len(), "giving up a data directory");
        self.report.add(lost);
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserved(&self) -> MutexGuard<'_, u64> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<ChunkId>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that count against the limit while a file is being written.
struct Reservation<'a> {
    store: &'a Store,
    size: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *self.store.reserved() -= self.size;
    }
}

/// Of disks with these mean times, those that are slow among their peers.
fn slow_ones(latencies: &[Duration]) -> Vec<u16> {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    // The lower of the two in the middle: of two disks, one may be slow.
    let Some(median) = sorted.get(sorted.len().saturating_sub(1) / 2).copied() else { return Vec::new() };
    let limit = (median * SLOW_FACTOR).max(SLOW_MIN);
    (0..).zip(latencies).filter(|(_, latency)| **latency > limit).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod slowness {
    use super::*;

    #[test]
    fn a_disk_is_slow_only_among_its_peers() {
        let ms =
            |times: &[u64]| slow_ones(&times.iter().map(|t| Duration::from_millis(*t)).collect::<Vec<_>>());
        assert_eq!(ms(&[]), [0; 0]);
        assert_eq!(ms(&[900]), [0; 0], "alone");
        assert_eq!(ms(&[1, 40, 2]), [0; 0], "a difference that means nothing");
        assert_eq!(ms(&[5, 900, 6]), [1]);
        assert_eq!(ms(&[900, 5]), [0]);
        assert_eq!(ms(&[800, 900, 950]), [0; 0], "all alike");
    }
}
