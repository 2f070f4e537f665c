//! What administrators decide about DataNodes and about how safe a write must be.

use super::proposer::{Pending, Waiter};
use super::{Owner, respond};
use crate::events::ClientReplier;
use quarry_common::ids::NodeId;
use quarry_common::limits::PG_MEMBERS_MAX;
use quarry_common::wire::cluster::{Administer, MemberState, NodeMode};
use quarry_common::wire::fs::Timestamp;
use quarry_common::wire::session::Reply;
use quarry_host::clock;
use quarry_namenode_core::Body;
use quarry_namenode_core::membership::{Cluster, may_drain, min_replicas};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest maintenance. After a week without its data a node is as good as lost.
const MAINTENANCE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl Owner {
    /// Checks what an administrator wants, and has it carried out.
    pub(super) fn administer(&mut self, wanted: Administer, reply: ClientReplier) {
        match self.command_of(wanted) {
            Ok(body) => {
                tracing::info!(?wanted, "an administrator decides");
                self.admit(Pending { body, waiter: Waiter::Administer { reply } });
            }
            Err(why) => respond(reply, Ok(Reply::Refused(why))),
        }
    }

    fn command_of(&self, wanted: Administer) -> Result<Body, String> {
        let mode = |node, mode| Body::SetNodeMode { node, mode };
        Ok(match wanted {
            Administer::Drain(node) => {
                self.check_drain(node)?;
                mode(node, NodeMode::Draining)
            }
            Administer::Activate(node) => mode(node, NodeMode::Active),
            Administer::Maintenance { node, seconds } => {
                let length = Duration::from_secs(seconds);
                if length > MAINTENANCE_MAX {
                    return Err(format!("maintenance may last {} hours", MAINTENANCE_MAX.as_secs() / 3600));
                }
                let until = Timestamp(clock::wall().0 + length.as_nanos().cast_signed());
                mode(node, NodeMode::Maintenance { until })
            }
            Administer::Remove(node) => Body::RemoveNode { node },
            Administer::MinReplicas(Some(min)) if min == 0 || usize::from(min) > PG_MEMBERS_MAX => {
                return Err(format!("the bound must be from 1 to {PG_MEMBERS_MAX}"));
            }
            Administer::MinReplicas(min) => Body::SetMinReplicas(min),
        })
    }

    /// A dead node may always be drained: that makes nothing worse.
    fn check_drain(&self, node: NodeId) -> Result<(), String> {
        if !self.topology.nodes.is_healthy(node, self.now) {
            return Ok(());
        }
        let views = self.topology.nodes.views(self.now);
        may_drain(
            &Cluster {
                nodes: &views,
                groups: self.topology.nodes.groups(),
                next_pg: self.state.meta().next_pg,
                policies: &BTreeSet::new(),
                synced: self.topology.nodes.synced(),
                timing: self.topology.nodes.timing(self.now),
            },
            node,
        )
    }

    /// What an administrator should know, most urgent first.
    pub(super) fn notices(&self) -> Vec<String> {
        let (mut unreadable, mut waiting, mut last, mut moving) = (0, 0, 0, 0);
        for group in self.topology.nodes.groups() {
            let healthy = group.serving().filter(|n| self.topology.nodes.is_healthy(*n, self.now)).count();
            let set = self.state.meta().min_replicas;
            let min = min_replicas(group.replication, self.topology.nodes.counted(), set);
            unreadable += usize::from(healthy == 0);
            waiting += usize::from(healthy > 0 && group.writers().count() < min);
            last += usize::from(healthy == 1 && group.members.len() > 1);
            moving += usize::from(group.members.iter().any(|m| m.state == MemberState::Syncing));
        }
        let all = self.topology.nodes.groups().len();
        let mut notices = Vec::new();
        let mut say = |count: usize, what: &str| {
            if count > 0 {
                notices.push(format!("{count} of {all} placement groups {what}"));
            }
        };
        say(unreadable, "have no healthy member with all data: their files cannot be read or written");
        say(
            waiting,
            "have too few members for a safe write: writes to them wait (`quarry policy min-replicas`)",
        );
        say(last, "have one healthy member with all data: they are healed first");
        say(moving, "have a member that is catching up");
        for (node, pg, chunks) in self.topology.nodes.strange().into_iter().take(STRANGE_SHOWN) {
            notices
                .push(format!("DataNode {node} holds {chunks} chunks of group {pg}, which is unknown here"));
        }
        notices
    }
}

/// Unknown groups that a status names.
const STRANGE_SHOWN: usize = 8;
