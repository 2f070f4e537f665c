//! How DataNodes are, by what their heartbeats say.

use quarry_common::ids::NodeId;
use quarry_common::limits::{DEAD_AFTER, SUSPECT_AFTER};
use quarry_common::wire::cluster::NodeState;

/// What is known of a registered DataNode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its number.
    pub node: NodeId,
    /// Failure domain; empty if unknown.
    pub rack: String,
    /// Milliseconds since its last heartbeat; `None` if there was none since this NameNode started.
    pub heartbeat_age_ms: Option<u64>,
    /// Milliseconds for which none of its disks has worked, by its last heartbeat; `None` while one does.
    pub disks_out_ms: Option<u64>,
    /// Takes new chunks, by its last heartbeat.
    pub writable: bool,
    /// Bytes of all its data directories.
    pub capacity: u64,
    /// Of these, free for chunks.
    pub free: u64,
    /// Bytes of its chunks.
    pub bytes: u64,
    /// Its data moves to other nodes, and it gets no more groups.
    pub draining: bool,
    /// It may be away for a while: nobody takes its place.
    pub excused: bool,
}

impl NodeView {
    /// How full it is, in thousandths.
    pub(crate) fn fill(&self) -> u64 {
        let used = u128::from(self.capacity.saturating_sub(self.free));
        u64::try_from(used * 1000 / u128::from(self.capacity.max(1))).unwrap_or(u64::MAX)
    }
}

/// How long silence is what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds since this NameNode started.
    pub uptime_ms: u64,
    /// Silent for this many milliseconds: suspect.
    pub suspect_after_ms: u64,
    /// Silent for this many milliseconds: dead.
    pub dead_after_ms: u64,
}

impl Timing {
    /// The default thresholds at an uptime.
    pub fn at(uptime_ms: u64) -> Self {
        Self {
            uptime_ms,
            suspect_after_ms: SUSPECT_AFTER.as_millis() as u64,
            dead_after_ms: DEAD_AFTER.as_millis() as u64,
        }
    }

    /// How a node is.
    ///
    /// A node not heard since the start may have been beating all along, so the silence counts from the start, and
    /// until it is long enough nothing is known. A node whose disks are out is of no more use than a silent one, and what is
    /// done about a silent one is done about it, after the same times.
    pub fn health(&self, node: &NodeView) -> Health {
        let silence = node.heartbeat_age_ms.unwrap_or(self.uptime_ms).max(node.disks_out_ms.unwrap_or(0));
        if silence >= self.dead_after_ms {
            Health::Dead
        } else if silence >= self.suspect_after_ms {
            Health::Suspect
        } else if node.heartbeat_age_ms.is_none() {
            Health::Unknown
        } else {
            Health::Healthy
        }
    }

    /// The node's state as clients and the operator see it. An unknown node is shown healthy: its silence has not
    /// lasted long enough to hold it against it.
    pub fn state(&self, node: &NodeView) -> NodeState {
        let beats = node.heartbeat_age_ms.is_some_and(|age| age < self.suspect_after_ms);
        match self.health(node) {
            Health::Suspect | Health::Dead if beats => NodeState::Failing,
            Health::Healthy if node.disks_out_ms.is_some() => NodeState::Failing,
            Health::Healthy if !node.writable => NodeState::Full,
            Health::Healthy | Health::Unknown => NodeState::Healthy,
            Health::Suspect => NodeState::Suspect,
            Health::Dead => NodeState::Dead,
        }
    }
}

/// What a node's heartbeats say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// They arrive.
    Healthy,
    /// None yet, and this NameNode has not listened for long.
    Unknown,
    /// None for [`Timing::suspect_after_ms`].
    Suspect,
    /// None for [`Timing::dead_after_ms`].
    Dead,
}

/// Spreads a number over 64 bits (the finaliser of SplitMix64): choices that must look random and be the same
/// everywhere are drawn from it.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_start_at_the_earliest() {
        let mut node = NodeView {
            node: NodeId(1),
            rack: String::new(),
            heartbeat_age_ms: None,
            disks_out_ms: None,
            writable: true,
            capacity: 0,
            free: 0,
            bytes: 0,
            draining: false,
            excused: false,
        };
        let health = |node: &NodeView, uptime| Timing::at(uptime).health(node);
        assert_eq!(health(&node, 2_999), Health::Unknown);
        assert_eq!(health(&node, 3_000), Health::Suspect);
        assert_eq!(health(&node, 15_000), Health::Dead);
        node.heartbeat_age_ms = Some(2_999);
        assert_eq!(health(&node, 15_000), Health::Healthy);
        node.writable = false;
        assert_eq!(Timing::at(15_000).state(&node), NodeState::Full);
        node.heartbeat_age_ms = Some(3_000);
        assert_eq!(Timing::at(15_000).state(&node), NodeState::Suspect);
    }

    #[test]
    fn a_node_whose_disks_are_out_counts_as_silent_and_is_shown_as_failing() {
        let mut node = NodeView {
            node: NodeId(1),
            rack: String::new(),
            heartbeat_age_ms: Some(100),
            disks_out_ms: Some(2_999),
            writable: false,
            capacity: 0,
            free: 0,
            bytes: 0,
            draining: false,
            excused: false,
        };
        let timing = Timing::at(60_000);
        assert_eq!((timing.health(&node), timing.state(&node)), (Health::Healthy, NodeState::Failing));
        node.disks_out_ms = Some(3_000);
        assert_eq!((timing.health(&node), timing.state(&node)), (Health::Suspect, NodeState::Failing));
        node.disks_out_ms = Some(15_000);
        assert_eq!((timing.health(&node), timing.state(&node)), (Health::Dead, NodeState::Failing));
        node.heartbeat_age_ms = Some(3_000);
        assert_eq!(timing.state(&node), NodeState::Dead);
    }
}
