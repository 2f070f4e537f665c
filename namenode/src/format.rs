//! Making a NameNode's folder: a new file system, or one from a backup.
//!
//! Both work on a folder that holds none, while no NameNode runs on it. The database is built under a temporary name, and
//! `namenode.toml` is written last, so what was cut short holds nothing that counts.

use crate::backup::BackupReader;
use crate::config::NameNodeConfig;
use crate::home::NewHome;
use crate::kv::RedbBase;
use anyhow::{Context, bail};
use quarry_common::ids::NamespaceId;
use quarry_common::wire::fs::Timestamp;
use quarry_host::{clock, disk, random};
use quarry_namenode_core::{Body, Command, LogicalTime, Outcome, Overlay, State, new_generation};
use rand::Rng;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Records of a backup that go into the database in one transaction: some megabytes.
const RESTORE_RECORDS: usize = 20_000;

/// Makes a new, empty file system in the folder of the configuration, and gives its identity.
///
/// # Errors
/// When the folder holds a file system already, is in use, or cannot be written.
pub fn format(config: &NameNodeConfig) -> anyhow::Result<NamespaceId> {
    let disk = disk::current();
    let home = NewHome::prepare(&*disk, &config.dir)?;
    let namespace = NamespaceId(random::rng().random());
    let now = clock::wall();
    let base = Arc::new(RedbBase::create(&*disk, &home.new_database())?);
    let mut state = State::open(base.clone())?;
    let body = Body::Format {
        cluster: config.cluster.clone(),
        namespace,
        generation: generation(now)?,
        default_replication: config.default_replication,
    };
    // No entry of a log has index 0: the first one is applied on top of this.
    match state.apply(0, &Command { now, clock: LogicalTime::default(), body })? {
        (Outcome::Done, _) => base.checkpoint(&state.freeze())?,
        (other, _) => bail!("cannot make a file system: {other:?}"),
    }
    drop((state, base));
    home.complete(&*disk, &config.cluster, config.node)?;
    tracing::info!(dir = %config.dir.display(), cluster = %config.cluster, %namespace, "made a new file system");
    Ok(namespace)
}

/// Makes the file system of a backup in the folder of the configuration, as a new generation of it, and gives its identity.
///
/// # Errors
/// As [`format()`], and when the backup is damaged, is another cluster's, or is of another version.
pub fn restore(config: &NameNodeConfig, backup: impl Read) -> anyhow::Result<NamespaceId> {
    let disk = disk::current();
    let home = NewHome::prepare(&*disk, &config.dir)?;
    let base = Arc::new(RedbBase::create(&*disk, &home.new_database())?);
    fill(backup, &base)?;
    let (overlay, meta) = new_generation(base.clone(), generation(clock::wall())?)?;
    if meta.cluster != config.cluster {
        bail!("the backup is of cluster `{}`, the certificate of `{}`", meta.cluster, config.cluster);
    }
    base.checkpoint(&overlay)?;
    drop(base);
    home.complete(&*disk, &config.cluster, config.node)?;
    let (namespace, generation) = (meta.namespace, meta.generation);
    tracing::info!(dir = %config.dir.display(), %namespace, generation, "restored a backup");
    Ok(namespace)
}

/// Opens the metadata of a backup, in a database that is made in `scratch` and may be removed afterwards.
///
/// # Errors
/// When the backup is damaged or of another version, and when `scratch` cannot be written.
pub fn load(backup: impl Read, scratch: &Path) -> anyhow::Result<State> {
    let base = Arc::new(RedbBase::create(&*disk::current(), &scratch.join("meta.redb"))?);
    fill(backup, &base)?;
    Ok(State::open(base)?)
}

/// Brings all records of a backup into a database that has none, and checks that the backup is whole.
///
/// # Errors
/// When the backup cannot be read or is damaged, and when the database cannot be written.
fn fill(backup: impl Read, base: &RedbBase) -> anyhow::Result<()> {
    let mut reader = BackupReader::begin(backup)?;
    let mut overlay = Overlay::new();
    while let Some((key, value)) = reader.next_record()? {
        overlay.insert(key, Some(value));
        if overlay.len() >= RESTORE_RECORDS {
            base.checkpoint(&std::mem::take(&mut overlay))?;
        }
    }
    Ok(base.checkpoint(&overlay)?)
}

/// Generations are counted in milliseconds of Unix time.
fn generation(now: Timestamp) -> anyhow::Result<u64> {
    u64::try_from(now.0 / 1_000_000).context("this machine's clock is before 1970")
}
