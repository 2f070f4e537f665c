//! What DataNodes ask for.

use super::proposer::{Pending, Waiter};
use super::{Fatal, Owner};
use crate::events::NodeReplier;
use quarry_common::ids::{ChunkId, NodeId};
use quarry_common::wire::cluster::{NodeReply, NodeRequest};
use quarry_common::wire::data::IDS_MAX;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_namenode_core::Body;

impl Owner {
    /// A DataNode's request.
    pub(super) fn node(
        &mut self,
        node: NodeId,
        connection: u64,
        request: NodeRequest,
        reply: NodeReplier,
    ) -> Result<(), Fatal> {
        match request {
            NodeRequest::Register(register) if register.node != node => {
                let why = format!("the certificate is node {node}'s, not node {}'s", register.node);
                reply.send(Err(ServiceError::Unauthorised(why)));
            }
            NodeRequest::Register(register) => {
                if let Err(why) =
                    self.topology.nodes.take_registration(node, connection, &register.address, self.now)
                {
                    tracing::warn!(%node, reason = why, "refused a DataNode");
                    reply.send(Err(ServiceError::Unavailable(why)));
                    return Ok(());
                }
                tracing::info!(%node, address = %register.address, "DataNode registers");
                let body = Body::RegisterNode(register);
                self.admit(Pending { body, waiter: Waiter::Register { reply } });
            }
            NodeRequest::ReportBad(ids) => {
                self.reported_bad(node, &ids)?;
                reply.send(Ok(NodeReply::Done));
            }
            NodeRequest::Placement => {
                reply.send(Ok(NodeReply::Placement(self.topology.nodes.placement().clone())));
            }
            NodeRequest::Chunks(ids) => {
                let infos = self.chunk_infos(&ids)?;
                reply.send(Ok(NodeReply::Chunks(infos)));
            }
        }
        Ok(())
    }

    /// Replicas are rotten or missing. Those that files refer to are had again by syncing the node's member anew.
    fn reported_bad(&mut self, node: NodeId, ids: &[ChunkId]) -> Result<(), Fatal> {
        // One report makes the member pull all that it lacks of the group.
        for &id in ids.iter().take(IDS_MAX) {
            if self.state.chunk(id)?.is_some() {
                tracing::warn!(%node, chunk = %id, "a replica is bad");
                self.topology.nodes.lacks(id.pg(), node);
            }
        }
        Ok(())
    }

    fn chunk_infos(&self, ids: &[ChunkId]) -> Result<Vec<ChunkInfo>, Fatal> {
        let mut infos = Vec::new();
        for &id in ids.iter().take(IDS_MAX) {
            if let Some(record) = self.state.chunk(id)? {
                infos.push(ChunkInfo { id, length: record.length, sha256: record.sha256 });
            }
        }
        Ok(infos)
    }
}
