//! Making durable what was written without waiting for the disk.

use super::Store;
use super::claims::Claim;
use super::dir::Synced;
use super::error::StoreError;
use super::health::{Verdict, judge};
use super::index::Place;
use quarry_common::ids::ChunkId;
use std::collections::BTreeMap;
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
        let volume = &self.volumes[usize::from(number)];
        let mut outcome = Ok(());
        for batch in ids.chunks(BATCH) {
            let batch = batch.to_vec();
            let synced = volume.run_long(move |dir, progress| dir.sync(&batch, progress));
            let Synced { durable, failed, unnamed } = synced.map_err(|source| StoreError::Io {
                what: format!("cannot sync chunks in {}", volume.dir().path().display()),
                source,
            })?;
            self.synced(&durable);
            for (id, e) in failed {
                outcome = Err(self.sync_failed(id, number, e));
            }
            for (pg, e) in unnamed {
                // Tried again later.
                tracing::error!(%pg, dir = %volume.dir().path().display(), error = %e, "cannot sync a placement group's directory");
                volume.health.write_failed(&e);
                outcome =
                    Err(StoreError::Io { what: format!("cannot sync placement group {pg}"), source: e });
            }
        }
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
        let (id, volume) = (claim.id(), &self.volumes[usize::from(place.dir)]);
        let io = |source| StoreError::Io { what: format!("cannot sync chunk {id}"), source };
        let Synced { failed, unnamed, .. } =
            volume.run_long(move |dir, progress| dir.sync(&[id], progress)).map_err(io)?;
        let failed = failed.into_iter().map(|(_, e)| e).chain(unnamed.into_iter().map(|(_, e)| e)).next();
        if let Some(source) = failed {
            volume.health.write_failed(&source);
            return Err(io(source));
        }
        self.synced(&[id]);
        Ok(())
    }

    /// After a failed sync nobody knows what is on the disk, and a second sync would say that all is well: the kernel
    /// has dropped the pages. So the chunk is given up.
    fn sync_failed(&self, id: ChunkId, number: u16, error: io::Error) -> StoreError {
        let volume = &self.volumes[usize::from(number)];
        let claim = self.claims.take(id);
        if self.index().place(id).is_none() {
            return StoreError::NotFound(id);
        }
        if judge(&error) == Verdict::Neither && error.kind() != io::ErrorKind::NotFound {
            return StoreError::Io { what: format!("cannot sync chunk {id}"), source: error };
        }
        volume.health.write_failed(&error);
        let why = format!("it could not be synced: {error}");
        self.quarantine(&claim, &why);
        StoreError::Rotten { id, why }
    }
}
