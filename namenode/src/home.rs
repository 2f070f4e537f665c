//! The NameNode's directory: whose it is, and that only one process uses it.
//!
//! ```text
//! lock           locked while a NameNode runs on the directory
//! namenode.toml  format version, cluster and number of the NameNode that it belongs to
//! meta.redb      the database: what the last checkpoint made durable
//! log/           segments of the log
//! ```
//!
//! `namenode.toml` is written last of all that `quarry namenode format` makes. A directory without it holds no file system, and
//! never becomes one by itself: it may be the mount point of a disk that is missing.

use anyhow::{Context, bail};
use quarry_common::ids::NameNodeId;
use quarry_host::crashsafe;
use quarry_host::disk::{self, Disk};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of `namenode.toml`; a larger file is not ours.
const IDENTITY_MAX: u64 = 64 << 10;
/// The version of the directory's layout.
const FORMAT: u32 = 1;

/// Says that the directory holds a file system, and whose.
const IDENTITY: &str = "namenode.toml";
const DATABASE: &str = "meta.redb";
/// A database that is being made.
const NEW_DATABASE: &str = "meta.redb.new";
const LOG: &str = "log";

/// A directory that this process has for itself.
pub(crate) struct Home {
    dir: PathBuf,
    /// Holds the lock.
    _lock: Box<dyn Send + Sync>,
}

impl Home {
    /// Takes a directory that holds a file system.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, cluster: &str, node: NameNodeId) -> anyhow::Result<Self> {
        let path = dir.join(IDENTITY);
        let found = crashsafe::read_file(disk, &path, IDENTITY_MAX)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let Some(text) = found else {
            bail!(
                "{} holds no file system. If a disk belongs there, mount it. `quarry namenode format` makes a new, \
                 empty file system, `quarry meta restore` brings a backup back.",
                dir.display()
            );
        };
        check(&text, cluster, node).with_context(|| format!("cannot use {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock(disk, dir)? })
    }

    /// The database's file.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// The log's directory.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }
}

/// Whether a directory holds a file system.
///
/// # Errors
/// When it cannot be read.
pub fn is_formatted(dir: &Path) -> anyhow::Result<bool> {
    let found = crashsafe::read_file(&*disk::current(), &dir.join(IDENTITY), IDENTITY_MAX);
    Ok(found.with_context(|| format!("cannot read {}", dir.display()))?.is_some())
}

/// A directory in which a file system is being made.
pub(crate) struct NewHome {
    home: Home,
}

impl NewHome {
    /// Takes a directory that holds no file system; it is made if it is missing.
    pub(crate) fn prepare(disk: &dyn Disk, dir: &Path) -> anyhow::Result<Self> {
        crashsafe::create_dir(disk, dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let home = Home { dir: dir.to_owned(), _lock: lock(disk, dir)? };
        let names: Vec<String> = disk
            .list(dir)
            .with_context(|| format!("cannot read {}", dir.display()))?
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        for (name, what) in [(IDENTITY, "a file system"), (LOG, "a log")] {
            if names.iter().any(|n| n == name) {
                bail!(
                    "{} holds {what} already ({name}); move the directory away if it is not needed any more",
                    dir.display()
                );
            }
        }
        // Without a log and without its identity a database is what a format that was cut short has left.
        for name in names.iter().filter(|n| [DATABASE, NEW_DATABASE].contains(&n.as_str())) {
            disk.remove(&dir.join(name))
                .with_context(|| format!("cannot remove a half-made database in {}", dir.display()))?;
        }
        Ok(Self { home })
    }

    /// Where the database is made.
    pub(crate) fn new_database(&self) -> PathBuf {
        self.home.dir.join(NEW_DATABASE)
    }

    /// The database is complete: the directory holds a file system from now on.
    pub(crate) fn complete(self, disk: &dyn Disk, cluster: &str, node: NameNodeId) -> anyhow::Result<()> {
        let dir = &self.home.dir;
        crashsafe::rename_durable(disk, &self.new_database(), &self.home.database())
            .with_context(|| format!("cannot name the database in {}", dir.display()))?;
        let text = format!("format = {FORMAT}\ncluster = \"{cluster}\"\nnode = {node}\n");
        let path = dir.join(IDENTITY);
        crashsafe::write_file(disk, &path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> anyhow::Result<Box<dyn Send + Sync>> {
    let path = dir.join("lock");
    match disk.lock(&path) {
        Ok(lock) => Ok(lock),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            bail!("{} is in use by another NameNode process", dir.display())
        }
        Err(e) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[derive(serde::Deserialize)]
struct Owner {
    cluster: String,
    node: u64,
}

fn check(text: &[u8], cluster: &str, node: NameNodeId) -> anyhow::Result<()> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let text = std::str::from_utf8(text).context("its namenode.toml is damaged")?;
    let Version { format } = toml::from_str(text).context("its namenode.toml is damaged")?;
    if format > FORMAT {
        bail!("it has format {format}, this program reads up to {FORMAT}: use a newer version");
    }
    let owner: Owner = toml::from_str(text).context("its namenode.toml is damaged")?;
    if owner.cluster != cluster {
        bail!("it belongs to cluster `{}`, the certificate to `{cluster}`", owner.cluster);
    }
    if owner.node != node.0 {
        bail!("it belongs to NameNode {}, this is NameNode {node}", owner.node);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_host::disk::RealDisk;

    fn open(dir: &Path, cluster: &str, node: u64) -> Result<Home, String> {
        Home::open(&RealDisk, dir, cluster, NameNodeId(node)).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_directory_knows_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path(), "a", 1).err().unwrap();
        assert!(error.contains("holds no file system") && error.contains("format"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made by itself");
        std::fs::write(dir.path().join("meta.redb.new"), "cut short").unwrap();
        let new = NewHome::prepare(&RealDisk, dir.path()).unwrap();
        std::fs::write(new.new_database(), "").unwrap();
        new.complete(&RealDisk, "a", NameNodeId(1)).unwrap();
        let error = NewHome::prepare(&RealDisk, dir.path()).err().unwrap().to_string();
        assert!(error.contains("holds a file system already"), "{error}");
        let home = open(dir.path(), "a", 1).unwrap();
        let error = open(dir.path(), "a", 1).err().unwrap();
        assert!(error.contains("in use by another"), "{error}");
        drop(home);
        drop(open(dir.path(), "a", 1).unwrap());
        let error = open(dir.path(), "b", 1).err().unwrap();
        assert!(error.contains("belongs to cluster `a`"), "{error}");
        let error = open(dir.path(), "a", 2).err().unwrap();
        assert!(error.contains("belongs to NameNode 1"), "{error}");
    }

    #[test]
    fn the_future_and_damage_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("namenode.toml");
        std::fs::write(&path, "format = 99\nwhatever = 1\n").unwrap();
        let error = open(dir.path(), "a", 1).err().unwrap();
        assert!(error.contains("format 99"), "{error}");
        std::fs::write(&path, [0xff, 0x00]).unwrap();
        assert!(open(dir.path(), "a", 1).is_err());
        std::fs::write(&path, "format = 1\n").unwrap();
        assert!(open(dir.path(), "a", 1).err().unwrap().contains("damaged"));
    }
}
