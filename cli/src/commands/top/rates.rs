//! Rates between looks at the cluster.

use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::ClusterStatus;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Points of a line.
const POINTS: usize = 240;
/// A node whose counts have not moved for so long is idle: longer than the pause between two of its reports.
const SILENT_AFTER: Duration = Duration::from_secs(6);

/// Rates, and where they come from.
#[derive(Default)]
pub(super) struct Rates {
    last: Option<(Instant, u64, BTreeMap<u64, u64>)>,
    /// Operations applied per second.
    pub(super) operations: f64,
    /// Requests of all sessions per second.
    pub(super) requests: f64,
    /// Requests per second over time.
    pub(super) line: VecDeque<u64>,
    nodes: BTreeMap<NodeId, Told>,
}

/// What a node last told of its disks.
struct Told {
    at: Instant,
    bytes: (u64, u64),
    rate: (f64, f64),
}

impl Rates {
    pub(super) fn add(&mut self, status: &ClusterStatus, now: Instant) {
        let requests: BTreeMap<u64, u64> =
            status.sessions.iter().map(|s| (s.session.0, s.requests)).collect();
        if let Some((at, applied, before)) = &self.last {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            self.operations = status.applied.saturating_sub(*applied) as f64 / seconds;
            let done = requests
                .iter()
                .map(|(session, n)| n.saturating_sub(before.get(session).copied().unwrap_or(*n)));
            self.requests = done.sum::<u64>() as f64 / seconds;
            if self.line.len() >= POINTS {
                self.line.pop_front();
            }
            self.line.push_back(self.requests as u64);
        }
        self.last = Some((now, status.applied, requests));
        for node in &status.nodes {
            let bytes = node.disks.iter().fold((0, 0), |(r, w), d| (r + d.read_bytes, w + d.written_bytes));
            let told = self.nodes.entry(node.node.id).or_insert(Told { at: now, bytes, rate: (0.0, 0.0) });
            let passed = now.duration_since(told.at);
            if told.bytes != bytes || passed >= SILENT_AFTER {
                let rate =
                    |old: u64, new: u64| new.saturating_sub(old) as f64 / passed.as_secs_f64().max(0.001);
                told.rate = (rate(told.bytes.0, bytes.0), rate(told.bytes.1, bytes.1));
                (told.at, told.bytes) = (now, bytes);
            }
        }
    }

    /// Bytes that a node reads and writes per second.
    pub(super) fn of(&self, node: NodeId) -> (f64, f64) {
        self.nodes.get(&node).map(|told| told.rate).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_what_came_since_the_last_look() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut status = ClusterStatus { applied: 100, ..ClusterStatus::default() };
        rates.add(&status, start);
        status.applied = 300;
        rates.add(&status, start + Duration::from_secs(2));
        assert!((rates.operations - 100.0).abs() < 1e-6);
        assert_eq!(rates.line.len(), 1);
        assert_eq!(rates.of(NodeId(1)), (0.0, 0.0));
    }
}
