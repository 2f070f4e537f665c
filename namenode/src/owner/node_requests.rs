//! What DataNodes ask for.

use super::proposer::{Pending, Waiter};
use super::{Fatal, Owner};
use crate::events::NodeReplier;
use quarry_common::ids::{ChunkId, NodeId, PgId};
use quarry_common::wire::cluster::{Holdings, NodeReply, NodeRequest, RegisterNode};
use quarry_common::wire::data::IDS_MAX;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::ChunkInfo;
use quarry_namenode_core::Body;
use quarry_namenode_core::namespace::{Verdict, judge};

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
            NodeRequest::Register { node: register, .. } if register.node != node => {
                let why = format!("the certificate is node {node}'s, not node {}'s", register.node);
                reply.send(Err(ServiceError::Unauthorised(why)));
            }
            NodeRequest::Register { node: register, holdings } => {
                if let Err(why) =
                    self.topology.nodes.take_registration(node, connection, &register.address, self.now)
                {
                    tracing::warn!(%node, reason = why, "refused a DataNode");
                    reply.send(Err(ServiceError::Unavailable(why)));
                    return Ok(());
                }
                self.register(register, &holdings, reply)?;
            }
            NodeRequest::Namespace => reply.send(Ok(NodeReply::Namespace(self.state.meta().stamp()))),
            NodeRequest::ReportBad(ids) => {
                self.reported_bad(node, &ids);
                reply.send(Ok(NodeReply::Done));
            }
            NodeRequest::ReportDisks(disks) => {
                self.topology.nodes.reported_disks(node, disks);
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

    /// A DataNode of this file system registers. One of another is refused; one that is ahead of this NameNode shows that
    /// this NameNode must not serve.
    fn register(
        &mut self,
        register: RegisterNode,
        holdings: &Holdings,
        reply: NodeReplier,
    ) -> Result<(), Fatal> {
        let node = register.node;
        let ours = self.state.meta().stamp();
        match judge(&ours, holdings, |pg| Ok::<_, Fatal>(self.state.cursor(pg)?.next))? {
            Verdict::Ours(skips) => {
                tracing::info!(%node, address = %register.address, "DataNode registers");
                if !skips.is_empty() {
                    tracing::warn!(%node, groups = skips.len(), "the DataNode holds chunks from after the backup");
                    self.skip_chunks(skips);
                }
                let body = Body::RegisterNode(register);
                self.admit(Pending { body, waiter: Waiter::Register { reply } });
                Ok(())
            }
            Verdict::Foreign(theirs) => {
                let why = format!(
                    "DataNode {node} belongs to the file system {theirs}, this NameNode to {}. Give the NameNode the \
                     folder of that file system, or the DataNode empty data directories.",
                    ours.namespace
                );
                tracing::error!("{why}");
                reply.send(Err(ServiceError::BadRequest(why)));
                Ok(())
            }
            Verdict::Ahead(why) => Err(Fatal::OldCopy { node, why }),
        }
    }

    /// Numbers that DataNodes hold must not be handed out again.
    fn skip_chunks(&mut self, skips: Vec<(PgId, u64)>) {
        for &(pg, next) in &skips {
            self.grants.ids.skip(pg, next);
        }
        // The registration comes behind it in the log, and tells what came of both.
        self.admit(Pending { body: Body::SkipChunks(skips), waiter: Waiter::Nothing });
    }

    /// Replicas are rotten or missing, as their node says.
    fn reported_bad(&mut self, node: NodeId, ids: &[ChunkId]) {
        for &id in ids.iter().take(IDS_MAX) {
            tracing::info!(%node, chunk = %id, "a replica is said to be bad");
            self.suspect(id, node);
        }
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
