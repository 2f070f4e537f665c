//! The NameNode's directory: whose it is, and that only one process uses it.
//!
//! ```text
//! lock           locked while a NameNode runs on the directory
//! namenode.toml  format version, cluster and number of the NameNode that it belongs to
//! meta.redb      the database: what the last checkpoint made durable
//! log/           segments of the log
//! ```
//!
//! `namenode.toml` is written last of all that a first start makes, so a directory without it holds nothing that counts.

use anyhow::{Context, bail};
use quarry_common::ids::NameNodeId;
use quarry_host::crashsafe;
use quarry_host::disk::Disk;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of `namenode.toml`; a larger file is not ours.
const IDENTITY_MAX: u64 = 64 << 10;
/// The version of the directory's layout.
const FORMAT: u32 = 1;

/// A directory that this process has for itself.
pub(crate) struct Home {
    dir: PathBuf,
    /// Holds the lock.
    _lock: Box<dyn Send + Sync>,
}

impl Home {
    /// Takes the directory, which is made if it is missing.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, cluster: &str, node: NameNodeId) -> anyhow::Result<Self> {
        disk.create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = lock(disk, dir)?;
        let home = Self { dir: dir.to_owned(), _lock: lock };
        let path = home.identity();
        let found = crashsafe::read_file(disk, &path, IDENTITY_MAX)
            .with_context(|| format!("cannot read {}", path.display()))?;
        match found {
            Some(text) => {
                check(&text, cluster, node).with_context(|| format!("cannot use {}", dir.display()))?;
            }
            None => {
                let mut text = String::new();
                write!(text, "format = {FORMAT}\ncluster = \"{cluster}\"\nnode = {node}\n")
                    .expect("a string takes what is written to it");
                crashsafe::write_file(disk, &path, text.as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(home)
    }

    fn identity(&self) -> PathBuf {
        self.dir.join("namenode.toml")
    }

    /// The database's file.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join("meta.redb")
    }

    /// The log's directory.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
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
