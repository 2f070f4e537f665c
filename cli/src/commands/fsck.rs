//! `quarry fsck`

use super::Cluster;
use crate::exit::Exit;
use crate::output::{print, printable};
use clap::Args;
use quarry_client::FileSystem;
use quarry_common::wire::cluster::{FsckOptions, FsckProblem, FsckProgress};
use serde_json::{Value, json};
use std::time::Duration;

/// How often to ask how far the check is.
const POLL: Duration = Duration::from_millis(200);

/// Check that everything fits together, while the cluster works on: names and inodes, link counts, sizes and usage, and
/// that every serving node has every chunk. Exit code 0: all is well; 1: problems; 4: no problem, but a node could not be
/// asked.
#[derive(Args)]
pub(crate) struct Fsck {
    #[command(flatten)]
    cluster: Cluster,
    /// Also read every copy of every chunk and compare its SHA-256.
    #[arg(long)]
    deep: bool,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let deep = self.deep;
        let report = self.cluster.with("fsck", async |fs| to_the_end(&fs, deep).await)?;
        if self.json {
            print(format_args!("{:#}\n", to_json(&report)))?;
        } else {
            print(to_text(&report))?;
        }
        Ok(match (report.problem_count, report.unreachable.is_empty() && report.behind == 0) {
            (0, true) => Exit::Success,
            (0, false) => Exit::Degraded,
            _ => Exit::Failed,
        })
    }
}

async fn to_the_end(fs: &FileSystem, deep: bool) -> anyhow::Result<FsckProgress> {
    let mut progress = fs.fsck_start(FsckOptions { deep }).await?;
    while !progress.done {
        tokio::time::sleep(POLL).await;
        progress = fs.fsck_poll(progress.run).await?;
    }
    Ok(progress)
}

fn describe(p: &FsckProblem) -> String {
    let mut text = printable(p.what.as_bytes());
    if let Some(ino) = p.ino {
        text += &format!(" [inode {ino}]");
    }
    if let Some(chunk) = p.chunk {
        text += &format!(" [chunk {chunk}]");
    }
    if let Some(node) = p.node {
        text += &format!(" [node {node}]");
    }
    text
}

fn to_text(r: &FsckProgress) -> String {
    let mut text = String::new();
    for problem in &r.problems {
        text += &format!("problem: {}\n", describe(problem));
    }
    let unlisted = r.problem_count.saturating_sub(r.problems.len() as u64);
    if unlisted > 0 {
        text += &format!("... and {unlisted} more\n");
    }
    for node in &r.unreachable {
        text += &format!("not checked: the replicas on node {node}, which did not answer\n");
    }
    if r.behind > 0 {
        text +=
            &format!("not checked: {} members of placement groups that are catching up or stale\n", r.behind);
    }
    text += &format!(
        "{} inodes, {} names, {} chunks and {} replicas checked; {} chunks wait to be collected; {} problems\n",
        r.inodes, r.dentries, r.chunks, r.replicas, r.unreferenced, r.problem_count
    );
    text
}

fn to_json(r: &FsckProgress) -> Value {
    json!({
        "inodes": r.inodes,
        "dentries": r.dentries,
        "chunks": r.chunks,
        "replicas": r.replicas,
        "unreferenced": r.unreferenced,
        "unreachable": r.unreachable,
        "behind": r.behind,
        "problem_count": r.problem_count,
        "problems": r.problems.iter().map(|p| json!({
            "what": p.what,
            "inode": p.ino,
            "chunk": p.chunk.map(|c| c.to_string()),
            "node": p.node,
        })).collect::<Vec<_>>(),
    })
}
