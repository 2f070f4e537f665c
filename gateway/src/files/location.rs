//! Where the data of a file lies.

use super::UserFs;
use quarry_common::ids::{ChunkId, NodeId, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, COMMIT_SLICES_MAX, LAYOUT_WINDOWS_MAX};
use quarry_common::wire::cluster::{Member, MemberState, Placement};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, ChunkInfo};
use std::collections::BTreeMap;

/// A chunk of a file.
#[derive(Clone, Debug)]
pub struct ChunkPlace {
    /// Offsets in the file where slices of the chunk begin, ascending.
    pub offsets: Vec<u64>,
    /// Id, length and SHA-256.
    pub info: ChunkInfo,
    /// The members of its placement group.
    pub members: Vec<Member>,
}

/// What a check of one replica found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Where the replica is.
    pub node: NodeId,
    /// `None`: the bytes match the SHA-256 of the NameNode.
    pub fault: Option<String>,
}

impl UserFs {
    /// Nodes and groups.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn placement(&self) -> Result<Placement, FsError> {
        self.fs.placement().await
    }

    /// The chunks of the committed data in windows `first` to `first + count - 1`, in the order of their offsets.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn chunks(&self, attr: &Attr, first: u64, count: u32) -> Result<Vec<ChunkPlace>, FsError> {
        let count = count.min(LAYOUT_WINDOWS_MAX);
        let (_, windows) = self.fs.layout(attr.ino, WindowIndex(first), count).await?;
        let mut offsets: BTreeMap<ChunkId, Vec<u64>> = BTreeMap::new();
        for window in &windows {
            let start = window.index.0 * CHUNK_SIZE;
            for slice in &window.slices {
                if let Some(id) = slice.chunk {
                    offsets.entry(id).or_default().push(start + u64::from(slice.position));
                }
            }
        }
        let placement = self.fs.placement().await?;
        let ids: Vec<ChunkId> = offsets.keys().copied().collect();
        let mut places = Vec::with_capacity(ids.len());
        for batch in ids.chunks(COMMIT_SLICES_MAX) {
            for info in self.fs.chunks(batch.to_vec()).await? {
                let mut offsets = offsets.remove(&info.id).unwrap_or_default();
                offsets.sort_unstable();
                let group = placement.groups.iter().find(|g| g.id == info.id.pg());
                let members = group.map(|g| g.members.clone()).unwrap_or_default();
                places.push(ChunkPlace { offsets, info, members });
            }
        }
        places.sort_by_key(|p| p.offsets.first().copied());
        Ok(places)
    }

    /// Windows that a file of this size has.
    pub fn windows(attr: &Attr) -> u64 {
        attr.size.div_ceil(CHUNK_SIZE)
    }

    /// Reads every replica of a chunk and compares its SHA-256 with that of the NameNode. The caller may read the file.
    pub async fn verify(&self, place: &ChunkPlace) -> Vec<ReplicaReport> {
        let checks = place.members.iter().filter(|m| m.state == MemberState::Serving).map(async |member| {
            let checked = self.fs.verify_replica(&place.info, member.node).await;
            ReplicaReport { node: member.node, fault: checked.err().map(|fault| fault.to_string()) }
        });
        futures::future::join_all(checks).await
    }
}
