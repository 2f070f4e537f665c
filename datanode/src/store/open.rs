//! Opening and closing the store.

use super::dir::DataDir;
use super::error::OpenError;
use super::index::{Index, Place};
use super::meta::Owner;
use super::namespace::Stamp;
use super::report::Report;
use super::volume::{LongOperation, Volume};
use super::{Claims, Store};
use quarry_common::wire::cluster::NamespaceStamp;
use quarry_host::disk::Disk;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

/// What to open.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) owner: Owner,
    /// Bytes of each disk that stay free.
    pub(crate) reserve: u64,
    /// Most bytes that files may take.
    pub(crate) limit: Option<u64>,
}

/// Why a directory of the same node is refused.
pub(super) const ANOTHER_STORE: &str = "it is of another store of this DataNode than the other directories";

impl Store {
    /// Opens the directories, new ones with `new_id`, and finds out what is in them.
    ///
    /// # Errors
    /// When a directory belongs to somebody else, or none can be used.
    pub(crate) fn open(disk: Arc<dyn Disk>, options: &Options, new_id: u128) -> Result<Self, OpenError> {
        check_names(&options.dirs)?;
        let volumes: Vec<Volume> = options
            .dirs
            .iter()
            .map(|path| Volume::new(DataDir::new(disk.clone(), path), options.reserve))
            .collect();
        let ids = on_all(&volumes, {
            let owner = options.owner.clone();
            move |dir, _| dir.open(&owner, true)
        })?;
        let store_id = ids.iter().flatten().flatten().next().copied().unwrap_or(new_id);
        for (volume, id) in volumes.iter().zip(&ids) {
            match id {
                Some(Some(id)) if *id != store_id => return Err(refused(volume, ANOTHER_STORE.to_owned())),
                Some(None) => {
                    tracing::info!(dir = %volume.dir().path().display(), "beginning to use an empty data directory");
                    let owner = options.owner.clone();
                    if let Err(e) = volume.run(move |dir| dir.adopt(&owner, store_id)) {
                        failed(volume, &e);
                    }
                }
                Some(Some(_)) | None => {}
            }
        }
        let stamp = latest_stamp(&volumes)?;
        let index = recover(&volumes)?;
        if let Some(volume) = volumes.first().filter(|_| !volumes.iter().any(Volume::works)) {
            return Err(refused(volume, volume.trouble(0).unwrap_or_default()));
        }
        let store = Self {
            store_id,
            owner: options.owner.clone(),
            volumes,
            limit: options.limit,
            index: RwLock::new(index),
            claims: Claims::default(),
            reserved: Mutex::new(0),
            unsynced: Mutex::new(BTreeSet::new()),
            report: Report::default(),
            scrubbed: AtomicU64::new(0),
            scrub_ended_ms: AtomicU64::new(0),
            rotten: AtomicU64::new(0),
            stamp: Stamp::new(stamp),
        };
        (0..).zip(&store.volumes).for_each(|(number, _)| store.refresh(number));
        Ok(store)
    }

    /// Syncs everything, also what a run before this one left unsynced, so that the next start need not look for torn
    /// files.
    pub(crate) fn close(&self) {
        self.sync_waiting();
        for volume in self.volumes.iter().filter(|volume| volume.works()) {
            let closed = volume.run_long(|dir, _| dir.sync_all().and_then(|()| dir.close()));
            if let Err(e) = closed.flatten() {
                failed(volume, &e);
            }
        }
    }
}

/// The latest of what the directories say of the file system to which the chunks belong.
fn latest_stamp(volumes: &[Volume]) -> Result<Option<NamespaceStamp>, OpenError> {
    let stamps = on_all(volumes, |dir, _| dir.namespace())?;
    let mut latest: Option<NamespaceStamp> = None;
    for (volume, stamp) in volumes.iter().zip(stamps) {
        let Some(stamp) = stamp.flatten() else { continue };
        if latest.is_some_and(|other| other.namespace != stamp.namespace) {
            let why = "its chunks belong to another file system than those of the directories before it";
            return Err(refused(volume, why.to_owned()));
        }
        if latest.is_none_or(|other| stamp.is_ahead_of(&other)) {
            latest = Some(stamp);
        }
    }
    Ok(latest)
}

fn refused(volume: &Volume, why: String) -> OpenError {
    OpenError::Refused { dir: volume.dir().path().to_owned(), why }
}

fn check_names(dirs: &[PathBuf]) -> Result<(), OpenError> {
    if dirs.is_empty() {
        return Err(OpenError::Configuration("a DataNode needs at least one data directory".into()));
    }
    if dirs.len() > usize::from(u16::MAX) {
        return Err(OpenError::Configuration("too many data directories".into()));
    }
    let mut seen = BTreeSet::new();
    match dirs.iter().find(|dir| !seen.insert(*dir)) {
        Some(twice) => {
            Err(OpenError::Configuration(format!("the data directory {} is given twice", twice.display())))
        }
        None => Ok(()),
    }
}

fn failed(volume: &Volume, error: &std::io::Error) {
    tracing::error!(dir = %volume.dir().path().display(), %error, "a data directory failed, going on without it");
    volume.health.fail(&error.to_string());
    volume.health.give_up();
}

/// Does something in all directories that work, at the same time: each has its own disk. A disk that fails gives `None`.
///
/// # Errors
/// When a directory is refused.
fn on_all<T: Send + 'static>(
    volumes: &[Volume],
    work: impl Fn(&DataDir, &dyn Fn()) -> Result<T, OpenError> + Clone + Send + 'static,
) -> Result<Vec<Option<T>>, OpenError> {
    let running: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let work = work.clone();
            volume.works().then(|| volume.begin_long(move |dir, progress| work(dir, progress)))
        })
        .collect();
    let mut outcomes = Vec::with_capacity(volumes.len());
    for (volume, running) in volumes.iter().zip(running) {
        let Some(running) = running else {
            outcomes.push(None);
            continue;
        };
        match running.and_then(LongOperation::wait) {
            Ok(Ok(value)) => outcomes.push(Some(value)),
            Ok(Err(OpenError::Io(e))) | Err(e) => {
                failed(volume, &e);
                outcomes.push(None);
            }
            Ok(Err(refused)) => return Err(refused),
        }
    }
    Ok(outcomes)
}

/// What is in all directories.
fn recover(volumes: &[Volume]) -> Result<Index, OpenError> {
    let found = on_all(volumes, |dir, progress| dir.recover(false, progress))?;
    let mut index = Index::default();
    for ((number, volume), chunks) in (0..).zip(volumes).zip(found) {
        let Some(chunks) = chunks else { continue };
        tracing::info!(dir = %volume.dir().path().display(), chunks = chunks.len(), "opened a data directory");
        for (id, length) in chunks {
            if index.place(id).is_some() {
                // A directory that came back after its chunks were replaced elsewhere.
                volume.add_stray(id);
                continue;
            }
            index.insert(id, Place { dir: number, length, synced: false });
        }
    }
    Ok(index)
}
