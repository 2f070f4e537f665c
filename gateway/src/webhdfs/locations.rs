//! `GETFILEBLOCKLOCATIONS`: where the data is, in blocks of HDFS's size, so that compute frameworks can go to it.

use super::{BLOCK_SIZE, Call, json};
use crate::error::Result;
use crate::files::{READ, UserFs};
use axum::response::Response;
use quarry_common::ids::NodeId;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::cluster::{MemberState, Placement};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::Attr;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Blocks in one answer: 512 GiB of file.
const BLOCKS_MAX: u64 = 4096;
/// Replicas of a block that are named.
const HOSTS_MAX: usize = 3;

impl Call {
    pub(super) async fn block_locations(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        if !self.fs.may(&attr, READ).await? {
            return Err(FsError::Access.into());
        }
        let offset = self.params.number::<u64>("offset")?.unwrap_or(0);
        let length = self.params.number::<u64>("length")?.unwrap_or(u64::MAX);
        let end = offset.saturating_add(length).min(attr.size);
        let placement = self.fs.placement().await?;
        let mut blocks = Vec::new();
        let first = offset / BLOCK_SIZE;
        for block in (first..end.div_ceil(BLOCK_SIZE)).take(BLOCKS_MAX as usize) {
            blocks.push(location(&self.fs, &attr, block, &placement).await?);
        }
        Ok(json(json!({ "BlockLocations": { "BlockLocation": blocks } })))
    }
}

/// The nodes with the most bytes of a block first.
async fn location(fs: &UserFs, attr: &Attr, block: u64, placement: &Placement) -> Result<Value> {
    let (start, end) = (block * BLOCK_SIZE, attr.size.min((block + 1) * BLOCK_SIZE));
    let windows = (BLOCK_SIZE / CHUNK_SIZE) as u32;
    let chunks = fs.chunks(attr, start / CHUNK_SIZE, windows).await?;
    let mut bytes: BTreeMap<NodeId, u64> = BTreeMap::new();
    for chunk in &chunks {
        for member in chunk.members.iter().filter(|m| m.state == MemberState::Serving) {
            *bytes.entry(member.node).or_default() += u64::from(chunk.info.length);
        }
    }
    let mut nodes: Vec<(NodeId, u64)> = bytes.into_iter().collect();
    nodes.sort_by_key(|(node, bytes)| (std::cmp::Reverse(*bytes), *node));
    let addresses: Vec<&str> = nodes
        .iter()
        .take(HOSTS_MAX)
        .filter_map(|(id, _)| Some(placement.nodes.iter().find(|n| n.id == *id)?.address.as_str()))
        .collect();
    let host = |address: &str| address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    Ok(json!({
        "offset": start,
        "length": end - start,
        "corrupt": false,
        "hosts": addresses.iter().map(|a| host(a)).collect::<Vec<_>>(),
        "names": addresses,
        "topologyPaths": addresses.iter().map(|a| format!("/default-rack/{a}")).collect::<Vec<_>>(),
        "cachedHosts": [],
        "storageTypes": addresses.iter().map(|_| "DISK").collect::<Vec<_>>(),
    }))
}
