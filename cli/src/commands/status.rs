//! `quarry status`

use super::Cluster;
use crate::exit::Exit;
use crate::output::{Extent, bytes, duration_ms, print, row};
use clap::Args;
use quarry_common::wire::cluster::{ClusterStatus, DiskState, DiskStatus, NodeState, NodeStatus};
use serde_json::{Value, json};

/// Show how the cluster and each of its nodes are. Exit code 0: whole; 4: a node is not healthy, or a placement group is
/// degraded or healing.
#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    cluster: Cluster,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// Every row and whole texts, however long.
    #[arg(long)]
    all: bool,
}

impl Status {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let status = self.cluster.with("status", async |fs| Ok(fs.cluster_status().await?))?;
        if self.json {
            print(format_args!("{:#}\n", to_json(&status)))?;
        } else {
            print(to_text(&status, Extent::new(self.all)))?;
        }
        Ok(health(&status))
    }
}

fn health(s: &ClusterStatus) -> Exit {
    let whole = s.nodes.iter().all(|n| matches!(n.node.state, NodeState::Healthy | NodeState::Full))
        && s.groups_degraded == 0
        && s.groups_healing == 0;
    if whole { Exit::Success } else { Exit::Degraded }
}

fn to_text(s: &ClusterStatus, extent: Extent) -> String {
    let mut text = format!(
        "Cluster {}: NameNode {}, up {}, {} operations applied\n\n",
        s.cluster,
        s.namenode,
        duration_ms(s.uptime_s * 1000),
        s.applied
    );
    let mut nodes =
        vec![row(["NODE", "ADDRESS", "STATE", "HEARTBEAT", "CHUNKS", "DATA", "FREE", "CAPACITY", "NOTE"])];
    nodes.extend(s.nodes.iter().map(|n| node_row(n, extent)));
    text += &extent.table(&nodes);
    let sick: Vec<_> = s.nodes.iter().flat_map(|n| n.disks.iter().filter_map(|d| disk_row(n, d))).collect();
    if !sick.is_empty() {
        let mut disks = vec![row(["NODE", "DISK", "STATE", "WAITS", "LATENCY", "ERRORS", "NOTE"])];
        disks.extend(sick);
        text += "\n";
        text += &extent.table(&disks);
    }
    text += &format!(
        "\nPlacement groups: {} healthy, {} degraded, {} healing\n",
        s.groups_healthy, s.groups_degraded, s.groups_healing
    );
    text += &format!(
        "Files: {} in {} directories, {} in {} chunks ({} being deleted)\n",
        s.files,
        s.directories,
        bytes(s.bytes),
        s.chunks,
        s.chunks_deleting
    );
    for notice in &s.notices {
        text += &format!("! {notice}\n");
    }
    if let Some(min) = s.min_replicas {
        text +=
            &format!("Writes need {min} members of their placement group (`quarry policy min-replicas`)\n");
    }
    if !s.sessions.is_empty() {
        let mut sessions =
            vec![row(["SESSION", "CERTIFICATE", "CLIENT", "IDLE", "OPEN", "LOCKS", "LEASES", "REQUESTS"])];
        sessions.extend(s.sessions.iter().map(|c| {
            vec![
                c.session.to_string(),
                extent.cell(&c.certificate),
                extent.cell(&c.client),
                duration_ms(c.idle_ms),
                c.open.to_string(),
                c.locks.to_string(),
                c.leases.to_string(),
                c.requests.to_string(),
            ]
        }));
        text += "\n";
        text += &extent.table(&sessions);
    }
    if !s.workers.is_empty() {
        let mut workers = vec![row(["WORKER", "NOW"])];
        workers.extend(s.workers.iter().map(|(name, now)| vec![extent.cell(name), extent.cell(now)]));
        text += "\n";
        text += &extent.table(&workers);
    }
    text
}

/// A disk that is not as it should be.
fn disk_row(n: &NodeStatus, d: &DiskStatus) -> Option<Vec<String>> {
    (d.state != DiskState::Working).then(|| {
        vec![
            n.node.id.to_string(),
            d.path.clone(),
            disk_state(d.state).to_owned(),
            duration_ms(d.oldest_ms),
            duration_ms(d.latency_us / 1000),
            d.errors.to_string(),
            d.trouble.clone(),
        ]
    })
}

fn disk_state(s: DiskState) -> &'static str {
    match s {
        DiskState::Working => "working",
        DiskState::Slow => "slow",
        DiskState::Full => "full",
        DiskState::Stalled => "stalled",
        DiskState::Failed => "failed",
    }
}

fn node_row(n: &NodeStatus, extent: Extent) -> Vec<String> {
    vec![
        n.node.id.to_string(),
        extent.cell(&n.node.address),
        n.node.state.word().to_owned(),
        n.heartbeat_age_ms.map_or_else(|| "none yet".to_owned(), |age| format!("{} ago", duration_ms(age))),
        n.chunks.to_string(),
        bytes(n.bytes),
        bytes(n.free),
        bytes(n.capacity),
        extent.cell(&n.trouble),
    ]
}

fn to_json(s: &ClusterStatus) -> Value {
    json!({
        "cluster": s.cluster,
        "namenode": { "address": s.namenode, "uptime_s": s.uptime_s, "applied": s.applied, "memory_bytes": s.memory_bytes, "unsaved": s.unsaved },
        "datanodes": s.nodes.iter().map(|n| json!({
            "id": n.node.id,
            "address": n.node.address,
            "state": n.node.state.word(),
            "rack": n.rack,
            "heartbeat_age_ms": n.heartbeat_age_ms,
            "chunks": n.chunks,
            "bytes": n.bytes,
            "free": n.free,
            "capacity": n.capacity,
            "trouble": n.trouble,
            "mode": super::node::mode(n.mode),
            "groups": n.groups,
            "disks": n.disks.iter().map(|d| json!({
                "path": d.path,
                "state": disk_state(d.state),
                "trouble": d.trouble,
                "oldest_ms": d.oldest_ms,
                "latency_us": d.latency_us,
                "errors": d.errors,
                "read_bytes": d.read_bytes,
                "written_bytes": d.written_bytes,
            })).collect::<Vec<_>>(),
            "scrubbed": n.scrubbed.0,
            "rotten": n.scrubbed.1,
            "scrubbed_at_ms": n.disks.iter().filter_map(|d| d.scrubbed_at_ms).max(),
        })).collect::<Vec<_>>(),
        "groups": { "healthy": s.groups_healthy, "degraded": s.groups_degraded, "healing": s.groups_healing },
        "min_replicas": s.min_replicas,
        "notices": s.notices,
        "files": s.files,
        "directories": s.directories,
        "bytes": s.bytes,
        "chunks": s.chunks,
        "chunks_deleting": s.chunks_deleting,
        "sessions": s.sessions.iter().map(|c| json!({
            "session": c.session,
            "certificate": c.certificate,
            "client": c.client,
            "idle_ms": c.idle_ms,
            "open": c.open,
            "locks": c.locks,
            "leases": c.leases,
            "requests": c.requests,
        })).collect::<Vec<_>>(),
        "workers": s.workers.iter().map(|(name, now)| json!({ "name": name, "now": now })).collect::<Vec<_>>(),
    })
}
