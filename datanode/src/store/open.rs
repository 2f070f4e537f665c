//! Opening and closing the store.

use super::dir::DataDir;
use super::error::OpenError;
use super::index::{Index, Place};
use super::meta::Owner;
use super::namespace::Stamp;
use super::report::Report;
use super::{Claims, Store};
use quarry_common::wire::cluster::NamespaceStamp;
use quarry_host::disk::Disk;
use quarry_host::thread;
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

impl Store {
    /// Opens the directories, new ones with `new_id`, and finds out what is in them.
    ///
    /// # Errors
    /// When a directory belongs to somebody else, or none can be used.
    pub(crate) fn open(disk: Arc<dyn Disk>, options: &Options, new_id: u128) -> Result<Self, OpenError> {
        check_names(&options.dirs)?;
        let mut dirs = Vec::with_capacity(options.dirs.len());
        let mut ids = Vec::with_capacity(options.dirs.len());
        for path in &options.dirs {
            let (dir, id) = DataDir::open(disk.clone(), path, &options.owner, options.reserve)?;
            dirs.push(dir);
            ids.push(id);
        }
        let store_id = ids.iter().flatten().next().copied().unwrap_or(new_id);
        for (dir, id) in dirs.iter().zip(&ids) {
            match id {
                Some(id) if *id != store_id => {
                    let why =
                        "it is of another store of this DataNode than the directories before it".to_owned();
                    return Err(OpenError::Refused { dir: dir.path().to_owned(), why });
                }
                None if !dir.health.is_failed() => {
                    tracing::info!(dir = %dir.path().display(), "beginning to use an empty data directory");
                    if let Err(e) = dir.adopt(&options.owner, store_id) {
                        failed(dir, &e);
                    }
                }
                _ => {}
            }
        }
        let stamp = latest_stamp(&dirs)?;
        let index = recover(&dirs)?;
        if let Some(dir) = dirs.iter().find(|_| dirs.iter().all(|d| d.health.is_failed())) {
            let why = dir.health.trouble(0).unwrap_or_default();
            return Err(OpenError::Refused { dir: dir.path().to_owned(), why });
        }
        let store = Self {
            store_id,
            dirs,
            limit: options.limit,
            index: RwLock::new(index),
            claims: Claims::default(),
            reserved: Mutex::new(0),
            unsynced: Mutex::new(BTreeSet::new()),
            report: Report::default(),
            scrubbed: AtomicU64::new(0),
            rotten: AtomicU64::new(0),
            stamp: Stamp::new(stamp),
        };
        store.refresh();
        Ok(store)
    }

    /// Syncs everything, also what a run before this one left unsynced, so that the next start need not look for torn
    /// files.
    pub(crate) fn close(&self) {
        self.sync_waiting();
        for dir in self.dirs.iter().filter(|d| !d.health.is_failed()) {
            if let Err(e) = dir.sync_all().and_then(|()| dir.close()) {
                failed(dir, &e);
            }
        }
    }
}

/// The latest of what the directories say of the file system to which the chunks belong.
fn latest_stamp(dirs: &[DataDir]) -> Result<Option<NamespaceStamp>, OpenError> {
    let mut latest: Option<NamespaceStamp> = None;
    for dir in dirs.iter().filter(|d| !d.health.is_failed()) {
        let Some(stamp) = dir.namespace()? else { continue };
        if latest.is_some_and(|other| other.namespace != stamp.namespace) {
            let why =
                "its chunks belong to another file system than those of the directories before it".to_owned();
            return Err(OpenError::Refused { dir: dir.path().to_owned(), why });
        }
        if latest.is_none_or(|other| stamp.is_ahead_of(&other)) {
            latest = Some(stamp);
        }
    }
    Ok(latest)
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

fn failed(dir: &DataDir, error: &std::io::Error) {
    tracing::error!(dir = %dir.path().display(), %error, "a data directory failed, going on without it");
    dir.health.fail(&error.to_string());
}

/// Looks into all directories at the same time: each has its own disk.
fn recover(dirs: &[DataDir]) -> Result<Index, OpenError> {
    let recover = |dir: &DataDir| if dir.health.is_failed() { Ok(Vec::new()) } else { dir.recover() };
    let found = thread::all(dirs.iter().map(|dir| move || recover(dir)));
    let mut index = Index::default();
    for ((number, dir), found) in (0..).zip(dirs).zip(found) {
        let chunks = match found {
            Ok(chunks) => chunks,
            Err(OpenError::Io(e)) => {
                failed(dir, &e);
                continue;
            }
            Err(refused) => return Err(refused),
        };
        tracing::info!(dir = %dir.path().display(), chunks = chunks.len(), "opened a data directory");
        for (id, length) in chunks {
            if index.place(id).is_some() {
                // A directory that came back from the dead, after its chunks were replaced elsewhere.
                tracing::warn!(%id, dir = %dir.path().display(), "moving a second copy of a chunk to quarantine");
                if let Err(e) = dir.quarantine(id) {
                    failed(dir, &e);
                }
                continue;
            }
            index.insert(id, Place { dir: number, length, synced: false });
        }
    }
    Ok(index)
}
