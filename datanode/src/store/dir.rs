//! One data directory.
//!
//! ```text
//! quarry-store.toml            whose it is (`meta.rs`)
//! quarry-namespace.toml        to which file system the chunks belong (`namespace.rs`)
//! quarry-run.toml              whether it was closed cleanly
//! lock                         held by the process that serves it
//! data_blocks/<pg>/<chunk id>  a chunk (`trailer.rs`); the group in decimal, the id as 16 hexadecimal digits
//! data_blocks/<pg>/*.tmp       a chunk being written
//! quarantine/<chunk id>        a chunk that turned out to be rotten, kept for inspection
//! ```

use super::error::OpenError;
use super::health::{Health, Verdict, judge};
use super::meta::{self, Owner};
use super::namespace;
use super::trailer::{self, Trailer, TrailerError};
use bytes::Bytes;
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::cluster::NamespaceStamp;
use quarry_host::crashsafe::{self, TEMPORARY};
use quarry_host::disk::{Disk, DiskFile};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) const LOCK: &str = "lock";
const BLOCKS: &str = "data_blocks";
const QUARANTINE: &str = "quarantine";
/// Rotten files that are kept; more are removed, so that a dying disk does not fill itself.
const QUARANTINE_MAX: usize = 100;

/// A data directory that is locked and ours.
pub(crate) struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    pub(crate) health: Health,
    /// Groups whose directory exists, durably.
    groups: Mutex<HashSet<PgId>>,
    /// Makes temporary names unique.
    temporary: AtomicU64,
    /// Held as long as the store is open; `None` when the directory failed before it could be locked.
    _lock: Option<Box<dyn Send + Sync>>,
}

impl DataDir {
    /// Locks a directory and reads whose it is; it is made if it does not exist. A disk that fails gives a directory
    /// that has failed.
    ///
    /// # Errors
    /// `Refused` when it belongs to somebody else, or another process uses it.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        owner: &Owner,
        reserve: u64,
    ) -> Result<(Self, Option<u128>), OpenError> {
        let health = Health::new(reserve);
        let (lock, store_id) = match Self::lock(disk.as_ref(), path, owner) {
            Ok((lock, store_id)) => (Some(lock), store_id),
            Err(OpenError::Io(e)) => {
                tracing::error!(dir = %path.display(), error = %e, "cannot open a data directory, going on without it");
                health.fail(&e.to_string());
                (None, None)
            }
            Err(refused) => return Err(refused),
        };
        let dir = Self {
            disk,
            path: path.to_owned(),
            health,
            groups: Mutex::default(),
            temporary: AtomicU64::new(0),
            _lock: lock,
        };
        Ok((dir, store_id))
    }

    fn lock(
        disk: &dyn Disk,
        path: &Path,
        owner: &Owner,
    ) -> Result<(Box<dyn Send + Sync>, Option<u128>), OpenError> {
        disk.create_dir(path)?;
        let lock = disk.lock(&path.join(LOCK)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => {
                OpenError::Refused { dir: path.to_owned(), why: "another process uses it".into() }
            }
            _ => e.into(),
        })?;
        Ok((lock, meta::read(disk, path, owner)?))
    }

    /// Makes a new directory ours, durably: its own name and those above it may be new as well.
    pub(crate) fn adopt(&self, owner: &Owner, store_id: u128) -> io::Result<()> {
        meta::write(self.disk.as_ref(), &self.path, owner, store_id)?;
        for above in self.path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            match self.disk.sync_dir(above) {
                // Not ours to open, so we did not make a name in it either.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => break,
                synced => synced?,
            }
        }
        Ok(())
    }

    /// The file system to which the chunks belong, as far as this directory knows.
    ///
    /// # Errors
    /// `Refused` when it is damaged.
    pub(crate) fn namespace(&self) -> Result<Option<NamespaceStamp>, OpenError> {
        namespace::read(self.disk.as_ref(), &self.path)
            .map_err(|e| OpenError::Refused { dir: self.path.clone(), why: e.to_string() })
    }

    /// Writes a small file, so that after a crash the old or the new content is there.
    pub(crate) fn write_small(&self, name: &str, content: &[u8]) -> io::Result<()> {
        crashsafe::write_file(self.disk.as_ref(), &self.path.join(name), content)
    }

    /// Cleans up after a crash, and gives the chunks that are here with their lengths.
    ///
    /// # Errors
    /// `Refused` when a chunk file is that of a newer program, `Io` when the disk fails.
    pub(crate) fn recover(&self) -> Result<Vec<(ChunkId, u32)>, OpenError> {
        let torn = meta::may_be_torn(self.disk.as_ref(), &self.path)?;
        let blocks = self.path.join(BLOCKS);
        self.disk.create_dir(&blocks)?;
        self.disk.create_dir(&self.path.join(QUARANTINE))?;
        self.disk.sync_dir(&self.path)?;
        let mut chunks = Vec::new();
        for entry in self.disk.list(&blocks)? {
            let pg = entry.name.parse().ok().map(PgId).filter(|pg| *pg <= ChunkId::MAX_PG);
            let (true, Some(pg)) = (entry.is_dir, pg) else {
                tracing::warn!(dir = %blocks.display(), name = entry.name, "ignoring what is no placement group");
                continue;
            };
            self.recover_group(pg, torn, &mut chunks)?;
            self.groups().insert(pg);
        }
        // After the last look at the old one: a crash in between repeats the recovery.
        match meta::write_run(self.disk.as_ref(), &self.path, false) {
            // A full disk can still be read, and be made emptier.
            Err(e) if judge(&e) == Verdict::Full => meta::remove_run(self.disk.as_ref(), &self.path)?,
            written => written?,
        }
        Ok(chunks)
    }

    fn recover_group(&self, pg: PgId, torn: bool, chunks: &mut Vec<(ChunkId, u32)>) -> Result<(), OpenError> {
        let dir = self.group_path(pg);
        for entry in self.disk.list(&dir)? {
            if entry.name.ends_with(TEMPORARY) {
                self.disk.remove(&dir.join(&entry.name))?;
                continue;
            }
            let id =
                entry.name.parse::<ChunkId>().ok().filter(|id| id.to_string() == entry.name && id.pg() == pg);
            let Some(id) = id else {
                tracing::warn!(dir = %dir.display(), name = entry.name, "ignoring what is no chunk of this group");
                continue;
            };
            match self.check(id, entry.size, torn) {
                Ok(length) => chunks.push((id, length)),
                Err(TrailerError::Damaged(why)) => {
                    tracing::warn!(%id, dir = %dir.display(), why, "moving a torn chunk to quarantine");
                    self.quarantine(id)?;
                }
                Err(newer @ TrailerError::Newer(_)) => {
                    let why = format!("chunk file {}: {newer}", dir.join(entry.name).display());
                    return Err(OpenError::Refused { dir: self.path.clone(), why });
                }
            }
        }
        Ok(())
    }

    /// The length of the chunk in a file that may be torn.
    fn check(&self, id: ChunkId, size: u64, torn: bool) -> Result<u32, TrailerError> {
        let unreadable = |e: io::Error| TrailerError::Damaged(e.to_string());
        let length = trailer::length_in(size);
        if let Some(length) = length
            && !torn
        {
            return Ok(length);
        }
        let end_size = length.map_or(size.min(trailer::TRAILER_MAX), trailer::trailer_size);
        let file = self.open_chunk(id).map_err(unreadable)?;
        let end = file.read(size - end_size, end_size as usize).map_err(unreadable)?;
        match length {
            Some(length) => Trailer::decode(&end, id, length).map(|trailer| trailer.length),
            None => {
                Trailer::check_version(&end)?;
                Err(TrailerError::Damaged(format!("no chunk file has {size} bytes")))
            }
        }
    }

    /// Writes a chunk file: data, then trailer.
    ///
    /// The file gets its name when it is complete, so a process that dies leaves a temporary file and nothing else.
    /// When `durable`, content is synced *before* the rename and the directory after it. The other way round, a power
    /// failure in between would leave the name with an empty or half-written file, and the trailer would be the only
    /// thing that tells; and without the sync of the directory the name itself could be gone after we said it is there.
    /// When not `durable`, the order on the disk is the file system's choice: that is why recovery reads trailers after
    /// the machine has stopped, and why nobody is told that the chunk is durable before `Store::sync`.
    pub(crate) fn write(&self, id: ChunkId, parts: &[Bytes], durable: bool) -> io::Result<()> {
        self.make_group(id.pg())?;
        let dir = self.group_path(id.pg());
        let temporary =
            dir.join(format!("{id}.{}{TEMPORARY}", self.temporary.fetch_add(1, Ordering::Relaxed)));
        let written = self.disk.create(&temporary).and_then(|file| {
            file.write(0, parts)?;
            if durable {
                file.sync()?;
            }
            self.disk.rename(&temporary, &self.chunk_path(id))
        });
        if let Err(e) = written {
            // If this fails as well, the next start removes it.
            let _ = self.disk.remove(&temporary);
            return Err(e);
        }
        if durable && let Err(e) = self.disk.sync_dir(&dir) {
            // It has its name, but whether it keeps it nobody knows: the writer is told that it failed, so it goes.
            let _ = self.disk.remove(&self.chunk_path(id));
            return Err(e);
        }
        Ok(())
    }

    fn make_group(&self, pg: PgId) -> io::Result<()> {
        if self.groups().contains(&pg) {
            return Ok(());
        }
        self.disk.create_dir(&self.group_path(pg))?;
        self.disk.sync_dir(&self.path.join(BLOCKS))?;
        self.groups().insert(pg);
        Ok(())
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, HashSet<PgId>> {
        self.groups.lock().expect("no thread panics while it holds the lock")
    }

    pub(crate) fn open_chunk(&self, id: ChunkId) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.chunk_path(id))
    }

    pub(crate) fn remove(&self, id: ChunkId) -> io::Result<()> {
        self.disk.remove(&self.chunk_path(id))
    }

    /// Makes the names of a group durable.
    pub(crate) fn sync_group(&self, pg: PgId) -> io::Result<()> {
        self.disk.sync_dir(&self.group_path(pg))
    }

    /// Makes everything in the directory durable.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.disk.sync_all(&self.path)
    }

    /// Moves a chunk to where nobody reads it.
    pub(crate) fn quarantine(&self, id: ChunkId) -> io::Result<()> {
        let dir = self.path.join(QUARANTINE);
        if self.disk.list(&dir)?.len() >= QUARANTINE_MAX {
            return self.remove(id);
        }
        self.disk.rename(&self.chunk_path(id), &dir.join(id.to_string()))
    }

    /// Asks the file system how much room there is.
    pub(crate) fn refresh(&self) {
        self.health.refresh(self.disk.space(&self.path));
    }

    /// Says that everything is synced and nothing more will be written.
    pub(crate) fn close(&self) -> io::Result<()> {
        meta::write_run(self.disk.as_ref(), &self.path, true)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn group_path(&self, pg: PgId) -> PathBuf {
        self.path.join(BLOCKS).join(pg.to_string())
    }

    fn chunk_path(&self, id: ChunkId) -> PathBuf {
        self.group_path(id.pg()).join(id.to_string())
    }
}
