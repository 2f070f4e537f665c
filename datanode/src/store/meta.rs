//! What a data directory says about itself: `quarry-store.toml`.
//!
//! It keeps a directory from being served by another node, for another cluster, or by an older program than the one
//! that wrote it. `quarry-run.toml` next to it says whether files may be torn: they may when the machine stopped while
//! the store was open.

use super::error::OpenError;
use quarry_common::ids::NodeId;
use quarry_host::crashsafe;
use quarry_host::disk::Disk;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Changes with every change of the layout that an older program would not understand.
const FORMAT_VERSION: u32 = 1;
/// Bytes of a small file; a larger one is not ours.
const SMALL_MAX: u64 = 64 << 10;
pub(crate) const META: &str = "quarry-store.toml";
pub(crate) const RUN: &str = "quarry-run.toml";

/// Whose directory it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
}

/// The content of `quarry-store.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    format_version: u32,
    cluster: String,
    node: NodeId,
    /// 32 hexadecimal digits: TOML has no numbers of 128 bits.
    store_id: String,
}

/// Only this is read of a file whose version is unknown.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// The content of `quarry-run.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// The run of the machine in which the store was opened.
    boot_id: String,
    /// It was closed with everything synced.
    closed: bool,
}

/// The store id of a directory, or `None` for one that nobody has used yet.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, owner: &Owner) -> Result<Option<u128>, OpenError> {
    let refused = |why: String| OpenError::Refused { dir: dir.to_owned(), why };
    let Some(bytes) = crashsafe::read_file(disk, &dir.join(META), SMALL_MAX)? else {
        let strange = disk.list(dir)?.into_iter().find(|e| !ours_or_harmless(&e.name));
        return match strange {
            None => Ok(None),
            Some(e) => Err(refused(format!(
                "it holds `{}` but no {META}: give an empty directory, or one of this DataNode",
                e.name
            ))),
        };
    };
    let text = String::from_utf8_lossy(&bytes);
    let unreadable = |e: toml::de::Error| refused(format!("{META} is damaged: {}", e.message()));
    let version: Version = toml::from_str(&text).map_err(unreadable)?;
    if version.format_version != FORMAT_VERSION {
        return Err(refused(format!(
            "its format version is {}, this program knows {FORMAT_VERSION}: update Quarry",
            version.format_version
        )));
    }
    let meta: Meta = toml::from_str(&text).map_err(unreadable)?;
    if meta.cluster != owner.cluster {
        return Err(refused(format!("it belongs to cluster `{}`, not `{}`", meta.cluster, owner.cluster)));
    }
    if meta.node != owner.node {
        return Err(refused(format!(
            "it belongs to DataNode {}, this is DataNode {}",
            meta.node, owner.node
        )));
    }
    match u128::from_str_radix(&meta.store_id, 16) {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err(refused(format!("{META} is damaged: store_id is no number"))),
    }
}

/// Makes a directory ours.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, owner: &Owner, store_id: u128) -> io::Result<()> {
    let meta = Meta {
        format_version: FORMAT_VERSION,
        cluster: owner.cluster.clone(),
        node: owner.node,
        store_id: format!("{store_id:032x}"),
    };
    let text = toml::to_string(&meta).map_err(io::Error::other)?;
    let text = format!("# Written by Quarry. Do not edit.\n{text}");
    crashsafe::write_file(disk, &dir.join(META), text.as_bytes())
}

/// Whether the machine stopped since the store was opened and before it was closed: only then can a file have its
/// final name and not its content.
pub(crate) fn may_be_torn(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    let run = crashsafe::read_file(disk, &dir.join(RUN), SMALL_MAX)?;
    let run = run.and_then(|bytes| toml::from_str::<Run>(&String::from_utf8_lossy(&bytes)).ok());
    Ok(run.is_none_or(|run| !run.closed && (run.boot_id.is_empty() || run.boot_id != disk.boot_id())))
}

/// Says that the store is open, before anything is written, or that it is closed, after everything is synced.
pub(crate) fn write_run(disk: &dyn Disk, dir: &Path, closed: bool) -> io::Result<()> {
    let run = Run { boot_id: disk.boot_id(), closed };
    let text = toml::to_string(&run).map_err(io::Error::other)?;
    crashsafe::write_file(disk, &dir.join(RUN), text.as_bytes())
}

/// Takes back what was said last: the next start then looks at every file. Needs no room.
pub(crate) fn remove_run(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.remove(&dir.join(RUN)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => disk.sync_dir(dir),
    }
}

/// What may be in a directory that was never used: our own beginnings, and what mkfs makes.
fn ours_or_harmless(name: &str) -> bool {
    name == "lost+found" || name == super::dir::LOCK || name.ends_with(crashsafe::TEMPORARY)
}
