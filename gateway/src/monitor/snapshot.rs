//! One look at the cluster as JSON, as the page and programs get it.

use super::check::CheckState;
use super::health;
use super::history::Rates;
use super::log::Event;
use quarry_common::wire::cluster::{
    ClusterStatus, DiskState, DiskStatus, Group, NodeStatus, Placement, SlowRequest,
};
use quarry_host::trace::Operation;
use serde_json::{Value, json};

/// Groups that are shown one by one; of more the page shows the counts.
const GROUPS_SHOWN: usize = 512;
/// Sessions that are shown.
const SESSIONS_SHOWN: usize = 200;

/// Everything that a snapshot is made from.
pub(super) struct View<'a> {
    pub(super) status: Option<&'a ClusterStatus>,
    pub(super) placement: &'a Placement,
    /// Seconds since the last answer of a NameNode that is away.
    pub(super) away_s: Option<u64>,
    /// Groups done, groups in all, seconds left.
    pub(super) healing: Option<(u64, u64, Option<u64>)>,
    pub(super) history: Rates,
    pub(super) check: Option<CheckState>,
    pub(super) events: &'a [Event],
    pub(super) event_count: u64,
}

impl View<'_> {
    pub(super) fn to_json(&self) -> Value {
        let empty = ClusterStatus::default();
        let s = self.status.unwrap_or(&empty);
        let health = match self.away_s {
            Some(seconds) => health::unreachable(&s.namenode, seconds),
            None => health::of(s, self.placement),
        };
        json!({
            "at_ms": super::now_ms(),
            "reachable": self.away_s.is_none(),
            "health": health,
            "cluster": s.cluster,
            "namenode": {
                "address": s.namenode,
                "uptime_s": s.uptime_s,
                "applied": s.applied,
                "memory_bytes": s.memory_bytes,
                "unsaved": s.unsaved,
                "slowest": s.slowest.iter().map(slow).collect::<Vec<_>>(),
                "operations_per_s": self.history.operations,
                "requests_per_s": self.history.requests,
                "workers": s.workers.iter().map(|(name, now)| json!({ "name": name, "now": now })).collect::<Vec<_>>(),
            },
            "files": s.files,
            "directories": s.directories,
            "bytes": s.bytes,
            "chunks": s.chunks,
            "chunks_deleting": s.chunks_deleting,
            "nodes": s.nodes.iter().map(|n| self.node(n)).collect::<Vec<_>>(),
            "groups": {
                "healthy": s.groups_healthy,
                "degraded": s.groups_degraded,
                "healing": s.groups_healing,
                "list": self.placement.groups.iter().take(GROUPS_SHOWN).map(group).collect::<Vec<_>>(),
                "omitted": self.placement.groups.len().saturating_sub(GROUPS_SHOWN),
            },
            "healing": self.healing.map(|(done, total, left_s)| json!({ "done": done, "total": total, "left_s": left_s })),
            "sessions": s.sessions.iter().take(SESSIONS_SHOWN).map(|c| json!({
                "session": c.session,
                "client": c.client,
                "idle_ms": c.idle_ms,
                "open": c.open,
                "locks": c.locks,
                "leases": c.leases,
                "requests": c.requests,
            })).collect::<Vec<_>>(),
            "sessions_omitted": s.sessions.len().saturating_sub(SESSIONS_SHOWN),
            "check": self.check.as_ref().map(CheckState::to_json),
            "events": self.events,
            "event_count": self.event_count,
        })
    }

    fn node(&self, n: &NodeStatus) -> Value {
        let groups = self.placement.groups.iter().filter(|g| g.members.iter().any(|m| m.node == n.node.id));
        json!({
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
            "scrubbed": n.scrubbed.0,
            "rotten": n.scrubbed.1,
            "scrubbed_at_ms": n.disks.iter().filter_map(|d| d.scrubbed_at_ms).max(),
            "disks": n.disks.iter().map(|d| self.disk(n, d)).collect::<Vec<_>>(),
            "groups": groups.count(),
            "growth": self.history.growth.get(&n.node.id.0).copied().unwrap_or_default().round(),
        })
    }
}

impl View<'_> {
    fn disk(&self, n: &NodeStatus, d: &DiskStatus) -> Value {
        let (read, written) = self.history.disk(n.node.id, &d.path);
        json!({
            "path": d.path,
            "state": disk_state(d.state),
            "trouble": d.trouble,
            "latency_us": d.latency_us,
            "oldest_ms": d.oldest_ms,
            "errors": d.errors,
            "read_per_s": read.round(),
            "written_per_s": written.round(),
        })
    }
}

fn slow(s: &SlowRequest) -> Value {
    json!({
        "request": s.request,
        "client": s.client,
        "operation": Operation::from_number(s.operation).to_string(),
        "took_us": s.took_us,
        "age_ms": s.age_ms,
    })
}

fn disk_state(state: DiskState) -> &'static str {
    match state {
        DiskState::Working => "working",
        DiskState::Slow => "slow",
        DiskState::Full => "full",
        DiskState::Stalled => "stalled",
        DiskState::Failed => "failed",
    }
}

fn group(g: &Group) -> Value {
    json!({
        "id": g.id,
        "epoch": g.epoch,
        "replication": g.replication.to_string(),
        "members": g.members.iter().map(|m| json!({ "node": m.node, "state": m.state.word() })).collect::<Vec<_>>(),
    })
}
