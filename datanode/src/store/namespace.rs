//! Which file system the chunks belong to: `quarry-namespace.toml` in each data directory.
//!
//! It is what the NameNode last said of itself, and is written anew while the file system goes on. A directory that could not be
//! written keeps an older one, so the latest of all directories counts.

use super::Store;
use quarry_common::ids::NamespaceId;
use quarry_common::wire::cluster::{Holdings, NamespaceStamp};
use quarry_host::crashsafe;
use quarry_host::disk::Disk;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const NAMESPACE: &str = "quarry-namespace.toml";

/// Bytes of the file; a larger one is not ours.
const FILE_MAX: u64 = 64 << 10;

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Written {
    /// As a UUID.
    namespace: String,
    generation: u64,
    position: u64,
}

/// The last stamp that is on the disks.
#[derive(Debug, Default)]
pub(crate) struct Stamp(Mutex<Option<NamespaceStamp>>);

impl Stamp {
    pub(crate) fn new(stamp: Option<NamespaceStamp>) -> Self {
        Self(Mutex::new(stamp))
    }

    fn last(&self) -> Option<NamespaceStamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The NameNode is another than the one to which the chunks belong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Strange {
    #[error(
        "the chunks here belong to the file system {ours}, the NameNode to {theirs}: give the NameNode the folder of \
         that file system, or this DataNode empty data directories"
    )]
    Foreign { ours: NamespaceId, theirs: NamespaceId },
    #[error(
        "the NameNode has an old copy of its folder: it is at {theirs:?}, this DataNode has seen {ours:?}"
    )]
    OldCopy { ours: NamespaceStamp, theirs: NamespaceStamp },
}

impl Store {
    /// What a NameNode must know before this node registers.
    pub(crate) fn holdings(&self) -> Holdings {
        Holdings { stamp: self.stamp.last(), next: self.index().above() }
    }

    /// Whether a NameNode with this stamp is the one that the chunks belong to, and no older.
    ///
    /// # Errors
    /// When it is not: then nothing may be done for it.
    pub(crate) fn check_namespace(&self, theirs: &NamespaceStamp) -> Result<(), Strange> {
        match self.stamp.last() {
            Some(ours) if ours.namespace != theirs.namespace => {
                Err(Strange::Foreign { ours: ours.namespace, theirs: theirs.namespace })
            }
            Some(ours) if ours.is_ahead_of(theirs) => Err(Strange::OldCopy { ours, theirs: *theirs }),
            _ => Ok(()),
        }
    }

    /// Remembers what the NameNode said of itself, on every disk that works.
    pub(crate) fn keep_namespace(&self, stamp: NamespaceStamp) {
        if self.stamp.last() == Some(stamp) {
            return;
        }
        let mut kept = false;
        for volume in self.volumes.iter().filter(|volume| volume.works()) {
            let written = volume.run(move |dir| {
                dir.check_identity().and_then(|()| dir.write_small(NAMESPACE, &encode(&stamp)))
            });
            match written {
                Ok(()) => kept = true,
                // The state of the disk shows in its health; a full one keeps an older stamp.
                Err(error) => {
                    tracing::debug!(dir = %volume.dir().path().display(), %error, "cannot write {NAMESPACE}")
                }
            }
        }
        if kept {
            *self.stamp.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
        }
    }
}

fn encode(stamp: &NamespaceStamp) -> Vec<u8> {
    let written = Written {
        namespace: stamp.namespace.to_string(),
        generation: stamp.generation,
        position: stamp.position,
    };
    let text = toml::to_string(&written).expect("text and numbers are always valid TOML");
    format!("# Written by Quarry. Do not edit.\n{text}").into_bytes()
}

/// What a directory says; `None` if it was never told.
///
/// # Errors
/// When it cannot be read, or is damaged: without it, the chunks of one file system could be taken for garbage of another.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<NamespaceStamp>> {
    let Some(bytes) = crashsafe::read_file(disk, &dir.join(NAMESPACE), FILE_MAX)? else { return Ok(None) };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{NAMESPACE} is damaged"));
    let written: Written =
        toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|_: toml::de::Error| damaged())?;
    let namespace = written.namespace.parse().map_err(|_| damaged())?;
    Ok(Some(NamespaceStamp { namespace, generation: written.generation, position: written.position }))
}
