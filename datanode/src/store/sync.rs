//! Making durable what was written without waiting for the disk.

use super::Store;
use super::claims::Claim;
use super::error::StoreError;
use super::health::{Verdict, judge};
use super::index::Place;
use quarry_common::ids::{ChunkId, PgId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Files that are open at once for a sync.
const BATCH: usize = 64;

impl Store {
    /// Returns when all of these chunks are durable.
    ///
    /// # Errors
    /// `NotFound` when one is not here, `Rotten` when the disk refused one, which is then lost.
    pub(crate) fn sync(&self, ids: &[ChunkId]) -> Result<(), StoreError> {
        let mut by_dir: BTreeMap<u16, Vec<ChunkId>> = BTreeMap::new();
        {
            let index = self.index();
            for id in ids {
                let place = index.place(*id).ok_or(StoreError::NotFound(*id))?;
                if !place.synced {
                    by_dir.entry(place.dir).or_default().push(*id);
                }
            }
        }
        let mut outcome = Ok(());
        for (dir, ids) in by_dir {
            outcome = outcome.and(self.sync_in(dir, &ids));
        }
        outcome
    }

    /// Syncs what waits for the background syncer. What the disk refuses is dealt with and not waiting any more.
    pub(crate) fn sync_waiting(&self) {
        let waiting: Vec<ChunkId> = self.unsynced().iter().copied().collect();
        let mut by_dir: BTreeMap<u16, Vec<ChunkId>> = BTreeMap::new();
        {
            let index = self.index();
            for id in waiting {
                if let Some(place) = index.place(id) {
                    by_dir.entry(place.dir).or_default().push(id);
                }
            }
        }
        for (dir, ids) in by_dir {
            // Logged where it is dealt with.
            let _ = self.sync_in(dir, &ids);
        }
    }

    fn sync_in(&self, number: u16, ids: &[ChunkId]) -> Result<(), StoreError> {
        let dir = &self.dirs[usize::from(number)];
        let mut outcome = Ok(());
        let mut done = Vec::with_capacity(ids.len());
        let mut groups: BTreeSet<PgId> = BTreeSet::new();
        for batch in ids.chunks(BATCH) {
            // All are on their way before the first is waited for: the journal then commits them together, in a third of
            // the time. (A sync of the whole file system would be faster still for small files, but waits for whatever
            // others wrote to it.)
            let files: Vec<_> = batch.iter().map(|id| (*id, dir.open_chunk(*id))).collect();
            files.iter().filter_map(|(_, file)| file.as_ref().ok()).for_each(|file| file.begin_sync());
            for (id, file) in files {
                match file.and_then(|file| file.sync()) {
                    Ok(()) => {
                        done.push(id);
                        groups.insert(id.pg());
                    }
                    Err(e) => outcome = Err(self.sync_failed(id, number, e)),
                }
            }
        }
        for pg in groups {
            if let Err(e) = dir.sync_group(pg) {
                // The names may be gone after a power failure, the content is there: report, and try again later.
                tracing::error!(%pg, dir = %dir.path().display(), error = %e, "cannot sync a placement group's directory");
                dir.health.write_failed(&e);
                done.retain(|id| id.pg() != pg);
                outcome =
                    Err(StoreError::Io { what: format!("cannot sync placement group {pg}"), source: e });
            }
        }
        self.synced(&done);
        outcome
    }

    fn synced(&self, ids: &[ChunkId]) {
        {
            let mut index = self.index_mut();
            ids.iter().for_each(|id| index.mark_synced(*id));
        }
        let mut unsynced = self.unsynced();
        ids.iter().for_each(|id| {
            unsynced.remove(id);
        });
    }

    /// Makes one chunk durable that the caller has claimed.
    pub(super) fn sync_one(&self, claim: &Claim<'_>, place: Place) -> Result<(), StoreError> {
        let (id, dir) = (claim.id(), &self.dirs[usize::from(place.dir)]);
        dir.open_chunk(id).and_then(|file| file.sync()).and_then(|()| dir.sync_group(id.pg())).map_err(
            |source| {
                dir.health.write_failed(&source);
                StoreError::Io { what: format!("cannot sync chunk {id}"), source }
            },
        )?;
        self.synced(&[id]);
        Ok(())
    }

    /// After a failed sync nobody knows what is on the disk, and a second sync would say that all is well: the kernel
    /// has dropped the pages. So the chunk is given up.
    fn sync_failed(&self, id: ChunkId, number: u16, error: io::Error) -> StoreError {
        let dir = &self.dirs[usize::from(number)];
        let claim = self.claims.take(id);
        if self.index().place(id).is_none() {
            return StoreError::NotFound(id);
        }
        if judge(&error) == Verdict::Neither && error.kind() != io::ErrorKind::NotFound {
            return StoreError::Io { what: format!("cannot sync chunk {id}"), source: error };
        }
        dir.health.write_failed(&error);
        let why = format!("it could not be synced: {error}");
        self.quarantine(&claim, &why);
        StoreError::Rotten { id, why }
    }
}
