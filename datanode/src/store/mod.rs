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
mod read;
mod report;
mod sync;
#[cfg(test)]
mod tests;
mod trailer;

pub(crate) use error::StoreError;
pub(crate) use meta::Owner;
pub(crate) use namespace::Strange;
pub(crate) use open::Options;
use report::Report;
pub(crate) use trailer::{Trailer, blocks, length_fits};

use bytes::Bytes;
use claims::{Claim, Claims};
use dir::DataDir;
use index::{Index, Place};
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::cluster::GroupDigest;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use trailer::{TRAILER_MAX, file_size};

/// Chunks that wait for the background syncer. When there are more, each write syncs for itself: the disk is then the
/// limit anyway, and a power failure must not take more than a few seconds' worth from those who did not ask for sync.
const UNSYNCED_MAX: usize = 8192;
/// Room that a directory needs to be of use: the largest chunk file.
const LARGEST_FILE: u64 = CHUNK_SIZE + TRAILER_MAX;

/// The chunk store over all data directories.
pub(crate) struct Store {
    store_id: u128,
    dirs: Vec<DataDir>,
    /// Most bytes that files may take.
    limit: Option<u64>,
    index: RwLock<Index>,
    claims: Claims,
    /// Bytes of files being written.
    reserved: Mutex<u64>,
    unsynced: Mutex<BTreeSet<ChunkId>>,
    report: Report,
    scrubbed: AtomicU64,
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
    /// `Conflict`, `NoSpace`, or `Io` when every directory refused it.
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
                Err(e) => return Err(e),
            }
        }
        let size = file_size(chunk.length);
        let _reservation = self.reserve(size)?;
        let durable = durable || self.unsynced().len() >= UNSYNCED_MAX;
        let mut parts = data.to_vec();
        parts.push(chunk.encode().into());
        let mut refusal = None;
        for (number, dir) in self.in_order_of_choice(chunk.id, size) {
            match dir.write(chunk.id, &parts, durable) {
                Ok(()) => {
                    dir.health.took(size);
                    let place = Place { dir: number, length: chunk.length, synced: durable };
                    self.index_mut().insert(chunk.id, place);
                    if !durable {
                        self.unsynced().insert(chunk.id);
                    }
                    return Ok(());
                }
                Err(e) => {
                    tracing::error!(id = %chunk.id, dir = %dir.path().display(), error = %e, "cannot write a chunk");
                    dir.health.write_failed(&e);
                    refusal = Some(e);
                }
            }
        }
        Err(match refusal {
            Some(e) if health::judge(&e) != health::Verdict::Full => {
                StoreError::Io { what: format!("cannot write chunk {}", chunk.id), source: e }
            }
            _ => StoreError::NoSpace(self.trouble()),
        })
    }

    /// Removes chunks; those that are not here are fine.
    ///
    /// The names are not synced: a chunk that a power failure brings back shows in the group's digest, and is deleted
    /// again as one that no file refers to.
    pub(crate) fn delete(&self, ids: &[ChunkId]) {
        for id in ids {
            let _claim = self.claims.take(*id);
            let Some(place) = self.index_mut().remove(*id) else { continue };
            self.unsynced().remove(id);
            let dir = &self.dirs[usize::from(place.dir)];
            match dir.remove(*id) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%id, dir = %dir.path().display(), error = %e, "cannot remove a chunk");
                    dir.health.write_failed(&e);
                }
                _ => {}
            }
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
    fn in_order_of_choice(&self, id: ChunkId, size: u64) -> impl Iterator<Item = (u16, &DataDir)> {
        let mut left: Vec<(u16, u64)> = (0..).zip(self.dirs.iter().map(|d| d.health.room())).collect();
        left.retain(|(_, room)| *room >= size);
        let mut draw = GroupDigest::mix(id);
        std::iter::from_fn(move || {
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
            Some((number, &self.dirs[usize::from(number)]))
        })
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
        let dir = &self.dirs[usize::from(place.dir)];
        tracing::error!(%id, dir = %dir.path().display(), why, "moving a rotten chunk to quarantine");
        self.unsynced().remove(&id);
        self.rotten.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = dir.quarantine(id)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%id, dir = %dir.path().display(), error = %e, "cannot move a rotten chunk");
        }
        self.report.add([id]);
    }

    /// Gives up a directory whose disk cannot be read: its chunks are gone as far as the cluster is concerned.
    fn give_up(&self, number: u16) {
        let mut index = self.index_mut();
        let mut lost = Vec::new();
        let mut at = None;
        while let Some((id, place)) = index.next(at) {
            at = Some(id);
            if place.dir == number {
                lost.push(id);
            }
        }
        for id in &lost {
            index.remove(*id);
        }
        drop(index);
        let dir = self.dirs[usize::from(number)].path().display();
        tracing::error!(%dir, chunks = lost.len(), "giving up a data directory");
        self.report.add(lost);
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no thread panics while it holds the lock")
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("no thread panics while it holds the lock")
    }

    fn reserved(&self) -> MutexGuard<'_, u64> {
        self.reserved.lock().expect("no thread panics while it holds the lock")
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<ChunkId>> {
        self.unsynced.lock().expect("no thread panics while it holds the lock")
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
