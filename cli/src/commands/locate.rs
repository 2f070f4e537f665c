//! `quarry locate`

use super::Cluster;
use crate::output::{bytes, hex, print, printable, row, table};
use anyhow::{Context, bail};
use clap::Args;
use quarry_client::FileSystem;
use quarry_common::ids::{ChunkId, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, COMMIT_SLICES_MAX, LAYOUT_WINDOWS_MAX};
use quarry_common::wire::cluster::{Group, MemberState};
use quarry_common::wire::fs::{ChunkInfo, FileKind};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Show where each piece of a file is: its chunks with length, SHA-256, placement group and the nodes that hold them.
#[derive(Args)]
pub(crate) struct Locate {
    /// The file: its path on a mount of the cluster, or within the cluster (/dir/file).
    path: String,
    #[command(flatten)]
    cluster: Cluster,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// A chunk of the file and its group.
pub(super) struct Piece {
    /// Offsets in the file where slices of the chunk begin.
    offsets: Vec<u64>,
    pub(super) chunk: ChunkInfo,
    pub(super) group: Option<Group>,
}

impl Locate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = self.cluster.path_in_cluster(&self.path)?;
        let pieces = self.cluster.with("locate", async |fs| find(&fs, &path).await)?;
        if self.json {
            let json = json!({ "path": path, "chunks": pieces.iter().map(to_json).collect::<Vec<_>>() });
            print(format_args!("{json:#}\n"))?;
            return Ok(());
        }
        print(table_of(&pieces))?;
        Ok(())
    }
}

/// The chunks as a table for people.
pub(super) fn table_of(pieces: &[Piece]) -> String {
    let mut rows = vec![row(["OFFSET", "CHUNK", "LENGTH", "GROUP", "NODES", "SHA-256"])];
    rows.extend(pieces.iter().map(to_row));
    table(&rows)
}

/// The chunks of a file, in its order.
pub(super) async fn find(fs: &FileSystem, path: &str) -> anyhow::Result<Vec<Piece>> {
    let attr = fs.resolve(path).await.with_context(|| printable(path.as_bytes()))?;
    if attr.kind != FileKind::File {
        bail!("{}: not a regular file, so it has no chunks", printable(path.as_bytes()));
    }
    let placement = fs.placement().await?;
    let mut slices: Vec<(u64, ChunkId)> = Vec::new();
    for first in (0..attr.size.div_ceil(CHUNK_SIZE)).step_by(LAYOUT_WINDOWS_MAX as usize) {
        let (_, windows) = fs.layout(attr.ino, WindowIndex(first), LAYOUT_WINDOWS_MAX).await?;
        for window in windows {
            let start = window.index.0 * CHUNK_SIZE;
            slices
                .extend(window.slices.iter().filter_map(|s| Some((start + u64::from(s.position), s.chunk?))));
        }
    }
    let ids: BTreeSet<ChunkId> = slices.iter().map(|(_, id)| *id).collect();
    let ids: Vec<ChunkId> = ids.into_iter().collect();
    let mut pieces = Vec::with_capacity(ids.len());
    for batch in ids.chunks(COMMIT_SLICES_MAX) {
        for chunk in fs.chunks(batch.to_vec()).await? {
            pieces.push(Piece {
                offsets: slices.iter().filter(|(_, id)| *id == chunk.id).map(|(at, _)| *at).collect(),
                group: placement.groups.iter().find(|g| g.id == chunk.id.pg()).cloned(),
                chunk,
            });
        }
    }
    pieces.sort_by_key(|p| p.offsets.first().copied());
    Ok(pieces)
}

fn to_row(p: &Piece) -> Vec<String> {
    let nodes = p.group.iter().flat_map(|g| &g.members).map(|m| match m.state {
        MemberState::Serving => m.node.to_string(),
        MemberState::Syncing | MemberState::Stale => format!("{} ({})", m.node, m.state.word()),
    });
    vec![
        p.offsets.first().map_or_else(String::new, u64::to_string),
        p.chunk.id.to_string(),
        bytes(u64::from(p.chunk.length)),
        p.chunk.id.pg().to_string(),
        nodes.collect::<Vec<_>>().join(", "),
        hex(&p.chunk.sha256),
    ]
}

fn to_json(p: &Piece) -> Value {
    json!({
        "id": p.chunk.id.to_string(),
        "offsets": p.offsets,
        "length": p.chunk.length,
        "sha256": hex(&p.chunk.sha256),
        "group": p.chunk.id.pg(),
        "epoch": p.group.as_ref().map(|g| g.epoch),
        "nodes": p.group.iter().flat_map(|g| &g.members)
            .map(|m| json!({ "node": m.node, "state": m.state.word() })).collect::<Vec<_>>(),
    })
}
