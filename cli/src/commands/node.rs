//! `quarry node`

use super::Cluster;
use crate::output::{bytes, print, row, table};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use quarry_client::FileSystem;
use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::{Administer, ClusterStatus, NodeMode, NodeStatus};
use std::time::Duration;

/// How often to ask whether a node has left its groups.
const POLL: Duration = Duration::from_millis(500);

/// Show DataNodes, and take them out of the cluster in order.
#[derive(Subcommand)]
pub(crate) enum Node {
    /// Show every DataNode: what it keeps, and what was decided about it.
    List(List),
    /// Move a node's data to the other nodes. It serves what it has until they do.
    ///
    /// Refused when the other nodes are too few for the replication, or have too little room.
    Drain(Drain),
    /// Use a node again that is being drained or in maintenance.
    Activate(One),
    /// Let a node be away for some time without anybody taking its place: 90s, 30m or 2h.
    Maintenance(Maintenance),
    /// Forget a node: drains it, waits until it is in no placement group, and removes it.
    ///
    /// A dead node leaves its groups as soon as others have its data. It can join again later, as a new node.
    Remove(One),
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args)]
pub(crate) struct One {
    /// The node's number.
    node: u32,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args)]
pub(crate) struct Drain {
    /// The node's number.
    node: u32,
    /// Return only when the node is in no placement group any more.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args)]
pub(crate) struct Maintenance {
    /// The node's number.
    node: u32,
    /// How long, from now on.
    #[arg(value_parser = seconds)]
    time: u64,
    #[command(flatten)]
    cluster: Cluster,
}

impl Node {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(List { cluster }) => {
                let status = cluster.with("node list", async |fs| Ok(fs.cluster_status().await?))?;
                print(to_text(&status))?;
                Ok(())
            }
            Self::Drain(Drain { node, wait, cluster }) => cluster.with("node drain", async |fs| {
                ask(&fs, Administer::Drain(NodeId(node))).await?;
                if wait {
                    leave_groups(&fs, NodeId(node)).await?;
                }
                Ok(())
            }),
            Self::Activate(One { node, cluster }) => {
                decide(&cluster, "node activate", Administer::Activate(NodeId(node)))
            }
            Self::Maintenance(Maintenance { node, time, cluster }) => {
                let wanted = Administer::Maintenance { node: NodeId(node), seconds: time };
                decide(&cluster, "node maintenance", wanted)
            }
            Self::Remove(One { node, cluster }) => cluster.with("node remove", async |fs| {
                let node = NodeId(node);
                ask(&fs, Administer::Drain(node)).await?;
                leave_groups(&fs, node).await?;
                ask(&fs, Administer::Remove(node)).await
            }),
        }
    }
}

/// Has one thing decided.
pub(crate) fn decide(cluster: &Cluster, purpose: &str, wanted: Administer) -> anyhow::Result<()> {
    cluster.with(purpose, async |fs| ask(&fs, wanted).await)
}

async fn ask(fs: &FileSystem, wanted: Administer) -> anyhow::Result<()> {
    fs.administer(wanted).await?.map_err(anyhow::Error::msg)
}

/// Waits until the node is in no group.
async fn leave_groups(fs: &FileSystem, node: NodeId) -> anyhow::Result<()> {
    loop {
        let status = fs.cluster_status().await?;
        let found = status.nodes.iter().find(|n| n.node.id == node);
        let found = found.with_context(|| format!("there is no DataNode {node}"))?;
        if found.groups == 0 {
            return Ok(());
        }
        if found.mode != NodeMode::Draining {
            bail!("DataNode {node} is not being drained any more, and is still in {} groups", found.groups);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn to_text(status: &ClusterStatus) -> String {
    let mut rows = vec![row(["NODE", "ADDRESS", "STATE", "MODE", "RACK", "GROUPS", "DATA", "FREE"])];
    rows.extend(status.nodes.iter().map(line));
    table(&rows)
}

fn line(n: &NodeStatus) -> Vec<String> {
    vec![
        n.node.id.to_string(),
        n.node.address.clone(),
        n.node.state.word().to_owned(),
        mode(n.mode).to_owned(),
        n.rack.clone(),
        n.groups.to_string(),
        bytes(n.bytes),
        bytes(n.free),
    ]
}

/// What was decided about a node, in a word.
pub(crate) fn mode(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Active => "active",
        NodeMode::Draining => "draining",
        NodeMode::Maintenance { .. } => "maintenance",
    }
}

/// A time as people write it: a number with its unit.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write a number and its unit: 90s, 30m or 2h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    number.checked_mul(unit).ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!([seconds("90s"), seconds("30m"), seconds("2h")], [Ok(90), Ok(1800), Ok(7200)]);
        for bad in ["", "30", "m", "-1s", "1d", "99999999999999999999h", "3\u{e9}"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
