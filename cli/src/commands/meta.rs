//! `quarry meta`

use super::Cluster;
use super::namenode::Home;
use crate::output::say;
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use quarry_client::FileSystem;
use quarry_common::wire::cluster::NamespaceStamp;
use quarry_host::crashsafe;
use quarry_host::disk::RealDisk;
use quarry_namenode::backup::BackupWriter;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

/// Back up, restore and export what the NameNode keeps: names, attributes, and where the data is.
#[derive(Subcommand)]
pub(crate) enum Meta {
    /// Write all metadata of the running cluster, as they are at one moment, to a file.
    Backup(Backup),
    /// Make the file system of a backup in the NameNode's directory, which must hold none.
    Restore(Restore),
    /// Print the namespace as it is at one moment, one JSON object a line.
    Export(Export),
}

#[derive(Args)]
pub(crate) struct Backup {
    /// The file to write. One that is there is replaced when the new one is complete.
    file: PathBuf,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// What `quarry meta backup` wrote.
    file: PathBuf,
    #[command(flatten)]
    home: Home,
}

#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    cluster: Cluster,
    /// Where to keep a copy of the metadata meanwhile [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Meta {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Backup(Backup { file, cluster }) => {
                let (records, stamp) = cluster.with("backup", async |fs| write(&fs, &file).await)?;
                say(format_args!(
                    "{}: {records} records of the file system {} at position {}",
                    file.display(),
                    stamp.namespace,
                    stamp.position
                ));
                Ok(())
            }
            Self::Restore(Restore { file, home }) => {
                let config = home.load()?.config;
                let namespace = quarry_namenode::restore(&config, open(&file)?)
                    .with_context(|| format!("cannot restore {}", file.display()))?;
                say(format_args!("restored the file system {namespace} in {}", config.dir.display()));
                Ok(())
            }
            Self::Export(Export { cluster, scratch }) => {
                let scratch = scratch.unwrap_or_else(std::env::temp_dir);
                let copy = tempfile::tempdir_in(&scratch)
                    .with_context(|| format!("cannot make a directory in {}", scratch.display()))?;
                let file = copy.path().join("backup");
                cluster.with("export", async |fs| write(&fs, &file).await)?;
                let state = quarry_namenode::load(open(&file)?, copy.path())?;
                super::export::print(&state)
            }
        }
    }
}

fn open(file: &Path) -> anyhow::Result<BufReader<File>> {
    File::open(file).map(BufReader::new).with_context(|| format!("cannot open {}", file.display()))
}

/// Writes a backup, under a temporary name until it is whole and on disk. Gives its records and how far the file system was.
async fn write(fs: &FileSystem, file: &Path) -> anyhow::Result<(u64, NamespaceStamp)> {
    let name = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
    let mut temporary = name.to_owned();
    temporary.push(crashsafe::TEMPORARY);
    let temporary = file.with_file_name(temporary);
    let begun = File::create(&temporary).with_context(|| format!("cannot make {}", temporary.display()))?;
    let mut writer = BackupWriter::begin(BufWriter::new(begun))?;
    let (records, stamp) = copy(fs, &mut writer).await?;
    let written = writer.finish()?.into_inner().map_err(|e| e.into_error())?;
    written.sync_all().with_context(|| format!("cannot sync {}", temporary.display()))?;
    crashsafe::rename_durable(&RealDisk, &temporary, file)
        .with_context(|| format!("cannot name the backup {}", file.display()))?;
    Ok((records, stamp))
}

async fn copy(
    fs: &FileSystem,
    writer: &mut BackupWriter<BufWriter<File>>,
) -> anyhow::Result<(u64, NamespaceStamp)> {
    let (mut snapshot, mut after, mut records) = (0, Vec::new(), 0);
    loop {
        let page = fs.metadata_page(snapshot, after).await?;
        for (key, value) in &page.records {
            writer.record(key, value)?;
        }
        records += page.records.len() as u64;
        if page.end {
            return Ok((records, page.stamp));
        }
        snapshot = page.snapshot;
        after = page.records.last().map(|(key, _)| key.to_vec()).unwrap_or_default();
        ensure!(!after.is_empty(), "the NameNode sent nothing");
    }
}
