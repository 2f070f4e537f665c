//! The last minutes in figures, for sparklines.

use quarry_common::ids::NodeId;
use quarry_common::wire::cluster::ClusterStatus;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Points of a line: two minutes at one a second.
const POINTS: usize = 120;

/// A disk of which nothing new is told for so long is idle: longer than the pause between two reports.
const SILENT_AFTER: Duration = Duration::from_secs(6);

/// Rates since the look before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    /// Operations that the NameNode applied, per second.
    pub(crate) operations: f64,
    /// Requests of sessions, per second.
    pub(crate) requests: f64,
    /// By node: bytes that its chunks grew by, per second; negative while chunks are deleted.
    pub(crate) growth: BTreeMap<u32, f64>,
    /// By disk: bytes read and written, per second.
    disks: BTreeMap<Disk, (f64, f64)>,
}

/// A node, and the path of one of its disks.
type Disk = (u32, String);

/// What a disk's node last told of it. Nodes tell it every few seconds, so that most looks find it unchanged.
struct Told {
    at: Instant,
    bytes: (u64, u64),
    rate: (f64, f64),
}

impl Rates {
    /// Bytes read and written, per second.
    pub(super) fn disk(&self, node: NodeId, path: &str) -> (f64, f64) {
        self.disks.get(&(node.0, path.to_owned())).copied().unwrap_or_default()
    }
}

/// Rates over time.
#[derive(Default)]
pub(crate) struct History {
    points: VecDeque<Rates>,
    last: Option<Instant>,
    told: BTreeMap<Disk, Told>,
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
        let disks = self.rates_of_disks(new);
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Rates {
            operations: rate(old.applied, new.applied),
            requests: requests.sum(),
            growth: growth.collect(),
            disks,
        });
    }

    fn rates_of_disks(&mut self, new: &ClusterStatus) -> BTreeMap<Disk, (f64, f64)> {
        let now = Instant::now();
        let mut told = std::mem::take(&mut self.told);
        for node in &new.nodes {
            for disk in &node.disks {
                let (key, bytes) =
                    ((node.node.id.0, disk.path.clone()), (disk.read_bytes, disk.written_bytes));
                let fresh = match told.remove(&key) {
                    Some(old) if old.bytes == bytes && now.duration_since(old.at) < SILENT_AFTER => old,
                    Some(old) => {
                        let seconds = now.duration_since(old.at).as_secs_f64().max(0.001);
                        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
                        let rate = (rate(old.bytes.0, bytes.0), rate(old.bytes.1, bytes.1));
                        Told { at: now, bytes, rate }
                    }
                    None => Told { at: now, bytes, rate: (0.0, 0.0) },
                };
                self.told.insert(key, fresh);
            }
        }
        self.told.iter().map(|(disk, told)| (disk.clone(), told.rate)).collect()
    }

    /// The last point.
    pub(crate) fn newest(&self) -> Rates {
        self.points.back().cloned().unwrap_or_default()
    }

    /// All points, the oldest first.
    pub(crate) fn to_json(&self) -> Value {
        let round = |v: f64| (v * 10.0).round() / 10.0;
        let mut disks: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for ((node, path), (read, written)) in self.points.iter().flat_map(|p| &p.disks) {
            disks.entry(format!("{node} {path}")).or_default().push((read + written).round());
        }
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
            "disks": disks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::wire::cluster::{DiskState, DiskStatus, Node, NodeState};

    #[test]
    fn the_rate_of_a_disk_is_what_came_between_two_reports() {
        let mut status = ClusterStatus::default();
        let node = Node { id: NodeId(3), address: String::new(), state: NodeState::Healthy };
        let mut node = crate::monitor::tests::node_status(node);
        let disk = DiskStatus {
            path: "/d".into(),
            state: DiskState::Working,
            trouble: String::new(),
            oldest_ms: 0,
            latency_us: 0,
            errors: 0,
            read_bytes: 5,
            written_bytes: 0,
            scrubbed_at_ms: None,
        };
        node.disks.push(disk);
        status.nodes.push(node);
        let mut history = History::default();
        history.add(None, &status);
        history.add(Some(&status.clone()), &status);
        assert_eq!(history.newest().disk(NodeId(3), "/d"), (0.0, 0.0));
        let old = status.clone();
        status.nodes[0].disks[0].written_bytes = 1 << 30;
        history.add(Some(&old), &status);
        let (read, written) = history.newest().disk(NodeId(3), "/d");
        assert!(read == 0.0 && written > 1e6, "{read} {written}");
        history.add(Some(&status.clone()), &status);
        assert_eq!(history.newest().disk(NodeId(3), "/d"), (read, written), "until the next report");
    }

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
