//! The last minutes in figures, for sparklines.

use quarry_common::wire::cluster::ClusterStatus;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Points of a line: two minutes at one a second.
const POINTS: usize = 120;

/// Rates since the look before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    /// Operations that the NameNode applied, per second.
    pub(crate) operations: f64,
    /// Requests of sessions, per second.
    pub(crate) requests: f64,
    /// By node: bytes that its chunks grew by, per second; negative while chunks are deleted.
    pub(crate) growth: BTreeMap<u32, f64>,
}

/// Rates over time.
#[derive(Default)]
pub(crate) struct History {
    points: VecDeque<Rates>,
    last: Option<Instant>,
}

impl History {
    /// Adds the rates between two looks.
    pub(crate) fn add(&mut self, old: Option<&ClusterStatus>, new: &ClusterStatus) {
        let since = self.last.replace(Instant::now());
        let (Some(old), Some(since)) = (old, since) else { return };
        let seconds = since.elapsed().as_secs_f64().max(0.001);
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        let requests = new.sessions.iter().map(|s| {
            let before = old.sessions.iter().find(|o| o.session == s.session).map_or(0, |o| o.requests);
            rate(before, s.requests)
        });
        let growth = new.nodes.iter().map(|n| {
            let before = old.nodes.iter().find(|o| o.node.id == n.node.id).map_or(n.bytes, |o| o.bytes);
            (n.node.id.0, (n.bytes as f64 - before as f64) / seconds)
        });
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Rates {
            operations: rate(old.applied, new.applied),
            requests: requests.sum(),
            growth: growth.collect(),
        });
    }

    /// The last point.
    pub(crate) fn newest(&self) -> Rates {
        self.points.back().cloned().unwrap_or_default()
    }

    /// All points, the oldest first.
    pub(crate) fn to_json(&self) -> Value {
        let round = |v: f64| (v * 10.0).round() / 10.0;
        let mut nodes: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for point in &self.points {
            for (node, growth) in &point.growth {
                nodes.entry(*node).or_default().push(growth.round());
            }
        }
        json!({
            "operations": self.points.iter().map(|p| round(p.operations)).collect::<Vec<_>>(),
            "requests": self.points.iter().map(|p| round(p.requests)).collect::<Vec<_>>(),
            "growth": nodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_points_are_kept() {
        let mut history = History::default();
        let mut status = ClusterStatus::default();
        for n in 0..2 * POINTS as u64 {
            let old = status.clone();
            status.applied = n * 10;
            history.add(Some(&old), &status);
        }
        assert_eq!(history.points.len(), POINTS);
        assert!(history.newest().operations > 0.0);
        assert_eq!(history.to_json()["operations"].as_array().unwrap().len(), POINTS);
    }
}
