//! What `quarry status` shows.

use super::{Fatal, Owner, millis};
use crate::observe;
use quarry_common::wire::cluster::{ClusterStatus, SessionStatus};
use quarry_host::process;

impl Owner {
    /// Everything, as it is now.
    pub(super) fn status(&self) -> Result<ClusterStatus, Fatal> {
        let usage = self.state.usage();
        let (groups_healthy, groups_degraded, groups_healing) = self.topology.nodes.tally();
        Ok(ClusterStatus {
            cluster: self.state.meta().cluster.clone(),
            namenode: self.around.address.to_string(),
            uptime_s: self.uptime().as_secs(),
            applied: self.state.applied(),
            nodes: self.topology.nodes.status(self.now),
            groups_healthy,
            groups_degraded,
            groups_healing,
            files: usage.files,
            directories: usage.directories,
            bytes: usage.bytes,
            chunks: usage.chunks,
            chunks_deleting: usage.deleting,
            sessions: self.session_status()?,
            min_replicas: self.state.meta().min_replicas,
            notices: self.notices(),
            workers: self.around.board.lines(),
            memory_bytes: process::resident_bytes(),
            unsaved: self.unsaved() as u64,
            slowest: observe::slowest(),
        })
    }

    fn session_status(&self) -> Result<Vec<SessionStatus>, Fatal> {
        let sessions = self.state.sessions()?;
        Ok(sessions
            .into_iter()
            .take(SESSIONS_SHOWN)
            .map(|(session, record)| SessionStatus {
                session,
                client: format!("{} {} {}", record.info.host, record.info.pid, record.info.purpose),
                certificate: self.clients.registry.certificate(session),
                idle_ms: millis(self.clients.registry.idle(session, self.now)),
                open: self.clients.opens.count(session) as u64,
                locks: self.clients.locks.count(session) as u64,
                leases: self.clients.leasing.count(session) as u64,
                requests: self.clients.registry.requests(session),
            })
            .collect())
    }
}

/// Sessions in one status: it must fit a frame.
const SESSIONS_SHOWN: usize = 2048;
