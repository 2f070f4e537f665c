//! One data directory.
//!
//! ```text
//! quarry-store.toml            whose it is (`meta.rs`)
//! quarry-namespace.toml        to which file system the chunks belong (`namespace.rs`)
//! quarry-run.toml              whether it was closed cleanly
//! lock                         held by the process that serves it
//! data_blocks/<pg>/<chunk id>  a chunk (`trailer.rs`); the group in decimal, the id as 16 hexadecimal digits
//! data_blocks/<pg>/*.tmp       a chunk being written
//! probe.tmp                    a probe of the disk
//! quarantine/<chunk id>        a chunk that turned out to be rotten, kept for inspection
//! ```

use super::error::OpenError;
use super::health::{Verdict, judge};
use super::meta::{self, Owner};
use super::namespace;
use super::trailer::{self, Trailer, TrailerError};
use bytes::Bytes;
use quarry_common::ids::{ChunkId, PgId};
use quarry_common::wire::cluster::NamespaceStamp;
use quarry_host::crashsafe::{self, TEMPORARY};
use quarry_host::disk::{Disk, DiskFile, Identity, Space};
use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) const LOCK: &str = "lock";
const BLOCKS: &str = "data_blocks";
const QUARANTINE: &str = "quarantine";
/// Rotten files that are kept; more are removed, so that a dying disk does not fill itself.
const QUARANTINE_MAX: usize = 100;

/// The file that a probe writes, reads and removes.
const PROBE: &str = "probe.tmp";
const PROBE_CONTENT: &[u8] = b"Quarry writes this file to see whether the disk works.\n";
/// Files that a recovery looks at before it tells that it has come further.
const PROGRESS_FILES: usize = 256;

/// What became of chunks that were to be made durable.
#[derive(Debug, Default)]
pub(crate) struct Synced {
    pub(crate) durable: Vec<ChunkId>,
    /// Their content may be lost.
    pub(crate) failed: Vec<(ChunkId, io::Error)>,
    /// Groups in whose directory the names are not durable.
    pub(crate) unnamed: Vec<(PgId, io::Error)>,
}

/// A data directory. Its operations wait for the disk: they run on the threads of the disk's queue.
pub(crate) struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Groups whose directory exists, durably.
    groups: Mutex<HashSet<PgId>>,
    /// Makes temporary names unique.
    temporary: AtomicU64,
    opened: Mutex<Opened>,
}

/// What is known of a directory since it was opened.
#[derive(Default)]
struct Opened {
    /// Held as long as the directory is in use.
    lock: Option<Box<dyn Send + Sync>>,
    /// The file that says whose directory it is. It changes when the directory is removed or replaced, or when its file
    /// system is unmounted and the mount point shows.
    meta: Option<Identity>,
}

impl DataDir {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: &Path) -> Self {
        Self {
            disk,
            path: path.to_owned(),
            groups: Mutex::default(),
            temporary: AtomicU64::new(0),
            opened: Mutex::default(),
        }
    }

    /// Locks the directory and reads whose it is; gives the id of its store, or `None` for one that was never used. With
    /// `create`, it is made if it does not exist.
    ///
    /// # Errors
    /// `Refused` when it belongs to another node or cluster, or another process uses it.
    pub(crate) fn open(&self, owner: &Owner, create: bool) -> Result<Option<u128>, OpenError> {
        // The lock of a directory that is gone keeps its disk busy, and one on a file that was replaced locks nothing.
        self.opened().lock = None;
        if create {
            crashsafe::create_dir(self.disk.as_ref(), &self.path)?;
        } else if let Err(e) = self.disk.identity(&self.path.join(meta::META)) {
            // It may be a mount point without its disk: not even the lock file is written below it.
            return if e.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(e.into()) };
        }
        let lock = self.disk.lock(&self.path.join(LOCK)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => {
                OpenError::Refused { dir: self.path.clone(), why: "another process uses it".into() }
            }
            _ => e.into(),
        })?;
        let store_id = meta::read(self.disk.as_ref(), &self.path, owner)?;
        let meta = match store_id {
            Some(_) => Some(self.disk.identity(&self.path.join(meta::META))?),
            None => None,
        };
        *self.opened() = Opened { lock: Some(lock), meta };
        Ok(store_id)
    }

    /// Makes a new directory ours, durably: its own name and those above it may be new as well.
    pub(crate) fn adopt(&self, owner: &Owner, store_id: u128) -> io::Result<()> {
        meta::write(self.disk.as_ref(), &self.path, owner, store_id)?;
        let identity = self.disk.identity(&self.path.join(meta::META))?;
        self.opened().meta = Some(identity);
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

    /// Fails when the directory is not the one that was opened, so that nothing is written to the disk below a file system
    /// that was unmounted.
    ///
    /// # Errors
    /// `StaleNetworkFileHandle` when it was removed, replaced or unmounted; those of stat(2).
    pub(crate) fn check_identity(&self) -> io::Result<()> {
        let known = self.opened().meta;
        match self.disk.identity(&self.path.join(meta::META)) {
            Ok(now) if known == Some(now) => Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Err(io::Error::new(
                io::ErrorKind::StaleNetworkFileHandle,
                "the data directory was removed, replaced or unmounted",
            )),
        }
    }

    /// Whether the disk works: the directory is the one that was opened, and takes and gives a small file.
    ///
    /// # Errors
    /// Those of the disk, and of [`DataDir::check_identity`].
    pub(crate) fn probe(&self) -> io::Result<()> {
        self.check_identity()?;
        let path = self.path.join(PROBE);
        let file = self.disk.create(&path)?;
        let tried = file
            .write(0, &[Bytes::from_static(PROBE_CONTENT)])
            .and_then(|()| file.sync())
            .and_then(|()| file.read(0, PROBE_CONTENT.len()));
        let removed = self.disk.remove(&path);
        if tried? != PROBE_CONTENT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the disk gives other bytes than it took",
            ));
        }
        removed
    }

    /// The file system's size and room.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub(crate) fn space(&self) -> io::Result<Space> {
        self.disk.space(&self.path)
    }

    /// Cleans up after a crash, and gives the chunks that are here with their lengths. Every file is looked into if the machine
    /// stopped since, or if `distrust` is set. `progress` is called now and then.
    ///
    /// # Errors
    /// `Refused` when a chunk file is that of a newer program, `Io` when the disk fails.
    pub(crate) fn recover(
        &self,
        distrust: bool,
        progress: &dyn Fn(),
    ) -> Result<Vec<(ChunkId, u32)>, OpenError> {
        let torn = distrust || meta::may_be_torn(self.disk.as_ref(), &self.path)?;
        self.groups().clear();
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
            self.recover_group(pg, torn, progress, &mut chunks)?;
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

    fn recover_group(
        &self,
        pg: PgId,
        torn: bool,
        progress: &dyn Fn(),
        chunks: &mut Vec<(ChunkId, u32)>,
    ) -> Result<(), OpenError> {
        let dir = self.group_path(pg);
        for (number, entry) in self.disk.list(&dir)?.into_iter().enumerate() {
            if number % PROGRESS_FILES == 0 {
                progress();
            }
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
        self.check_identity()?;
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
            if e.kind() == io::ErrorKind::NotFound {
                // The group's directory was removed: the next write makes it again.
                self.groups().remove(&id.pg());
            }
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

    fn groups(&self) -> MutexGuard<'_, HashSet<PgId>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open_chunk(&self, id: ChunkId) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.chunk_path(id))
    }

    pub(crate) fn remove(&self, id: ChunkId) -> io::Result<()> {
        self.disk.remove(&self.chunk_path(id))
    }

    /// Makes chunks durable; says of each whether that went well.
    ///
    /// All are on their way before the first is waited for: the journal then commits them together, in a third of the time.
    /// (A sync of the whole file system is faster still for small files, but waits for whatever others wrote to it.)
    /// `progress` is called after each.
    pub(crate) fn sync(&self, ids: &[ChunkId], progress: &dyn Fn()) -> Synced {
        let files: Vec<_> = ids.iter().map(|id| (*id, self.open_chunk(*id))).collect();
        files.iter().filter_map(|(_, file)| file.as_ref().ok()).for_each(|file| file.begin_sync());
        let mut synced = Synced::default();
        let mut groups = BTreeSet::new();
        for (id, file) in files {
            match file.and_then(|file| file.sync()) {
                Ok(()) => {
                    synced.durable.push(id);
                    groups.insert(id.pg());
                }
                Err(e) => synced.failed.push((id, e)),
            }
            progress();
        }
        for pg in groups {
            if let Err(e) = self.disk.sync_dir(&self.group_path(pg)) {
                // The names may be gone after a power failure, the content is there.
                synced.durable.retain(|id| id.pg() != pg);
                synced.unnamed.push((pg, e));
            }
        }
        synced
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
