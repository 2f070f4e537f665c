//! Ids for new chunks.

use super::chunk_ids::BLOCK;
use super::proposer::{Pending, Waiter};
use super::{Fatal, Owner, refusal, respond};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, NodeId, PgId, SessionId};
use quarry_common::wire::cluster::Replication;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::session::{ChunkGrant, Reply};
use quarry_namenode_core::placement::{self, Choice, Refusal};
use quarry_namenode_core::{Body, Outcome};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Ids that one request gets at most: half a gigabyte of full chunks.
const GRANT_MAX: u32 = 256;
/// Groups over which one request is spread: as many chunks as a client writes at a time.
const SPREAD_MAX: usize = 4;
/// Nodes to avoid that are looked at.
const AVOID_MAX: usize = 64;
/// Requests that wait for a block of ids.
const WAITS_MAX: usize = 4096;
/// How long a request waits for a group or a block: both are a moment away, or not to be had.
const WAIT: Duration = Duration::from_secs(2);

/// A request for ids.
struct Wanted {
    session: SessionId,
    ino: Ino,
    count: u32,
    avoid: Vec<NodeId>,
}

/// Requests that wait.
#[derive(Default)]
pub(super) struct Waits {
    queue: VecDeque<(Wanted, ClientReplier, Instant)>,
    /// Counts the choices: each must fall differently.
    seed: u64,
}

/// Why a request has no ids yet.
enum NotYet {
    /// A block is on its way into the log.
    Block,
    Never(ServiceError),
}

impl Owner {
    /// A client wants ids.
    pub(super) fn alloc_chunks(
        &mut self,
        session: SessionId,
        ino: Ino,
        (count, mut avoid): (u32, Vec<NodeId>),
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        avoid.truncate(AVOID_MAX);
        self.clients.leasing.table.progress(self.now_ms(), session, ino);
        let wanted = Wanted { session, ino, count: count.clamp(1, GRANT_MAX), avoid };
        self.grant_or_wait(wanted, reply, self.now + WAIT)
    }

    fn grant_or_wait(
        &mut self,
        wanted: Wanted,
        reply: ClientReplier,
        deadline: Instant,
    ) -> Result<(), Fatal> {
        match self.grant(&wanted)? {
            Ok(grants) => respond(reply, Ok(Reply::Grants(grants))),
            Err(NotYet::Never(error)) => reply.send(refusal(error)),
            Err(NotYet::Block) if self.grants.waits.queue.len() < WAITS_MAX => {
                self.grants.waits.queue.push_back((wanted, reply, deadline));
            }
            Err(NotYet::Block) => {
                let why = "too many clients wait for chunk ids".to_owned();
                reply.send(refusal(ServiceError::Unavailable(why)));
            }
        }
        Ok(())
    }

    fn grant(&mut self, wanted: &Wanted) -> Result<Result<Vec<ChunkGrant>, NotYet>, Fatal> {
        let Some(policy) = self.state.replication(wanted.ino)? else {
            return Ok(Err(NotYet::Never(FsError::Stale.into())));
        };
        self.topology.nodes.want(policy);
        Ok(match self.choose(policy, wanted) {
            Ok(groups) => self.take_ids(&groups, wanted.count).ok_or(NotYet::Block),
            Err(Refusal::NoSpace) => Err(NotYet::Never(FsError::NoSpace.into())),
            Err(refusal @ (Refusal::Unavailable | Refusal::TooFew)) => {
                Err(NotYet::Never(ServiceError::Unavailable(refusal.to_string())))
            }
        })
    }

    fn choose(&mut self, policy: Replication, wanted: &Wanted) -> Result<Vec<PgId>, Refusal> {
        self.grants.waits.seed = self.grants.waits.seed.wrapping_add(1);
        placement::choose(&Choice {
            nodes: &self.topology.nodes.views(self.now),
            groups: self.topology.nodes.groups(),
            timing: self.topology.nodes.timing(self.now),
            min_replicas: self.state.meta().min_replicas,
            policy,
            avoid: &wanted.avoid,
            count: SPREAD_MAX.min(wanted.count as usize),
            seed: self.grants.waits.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        })
    }

    /// Ids of the groups, evenly; fewer than wanted when blocks run out, and none only when there are no blocks.
    fn take_ids(&mut self, groups: &[PgId], count: u32) -> Option<Vec<ChunkGrant>> {
        let share = count.div_ceil(groups.len().max(1) as u32);
        let mut left = count;
        let mut grants = Vec::with_capacity(groups.len());
        for &pg in groups {
            if let Some(grant) = self.grants.ids.take(pg, share.min(left)) {
                left -= grant.count;
                grants.push(grant);
            }
            if self.grants.ids.must_ask(pg) {
                let body = Body::ReserveChunks { pg, count: BLOCK };
                self.admit(Pending { body, waiter: Waiter::Reserve { pg } });
            }
            if left == 0 {
                break;
            }
        }
        (!grants.is_empty()).then_some(grants)
    }

    /// A reservation was carried out.
    pub(super) fn reserved(&mut self, pg: PgId, outcome: Outcome) -> Result<(), Fatal> {
        match outcome {
            Outcome::Reserved { first, count } => self.grants.ids.reserved(first, count),
            other => {
                tracing::error!(%pg, ?other, "no chunk ids to be had");
                self.grants.ids.not_reserved(pg);
            }
        }
        for (wanted, reply, deadline) in std::mem::take(&mut self.grants.waits.queue) {
            if self.clients.registry.is_live(wanted.session) {
                self.grant_or_wait(wanted, reply, deadline)?;
            } else {
                reply.send(refusal(ServiceError::SessionExpired));
            }
        }
        Ok(())
    }

    /// No ids are to be had at the moment.
    pub(super) fn refuse_grants(&mut self, why: &str) {
        for (_, reply, _) in std::mem::take(&mut self.grants.waits.queue) {
            reply.send(refusal(ServiceError::Unavailable(why.to_owned())));
        }
    }

    /// Answers requests that have waited for as long as they may.
    pub(super) fn time_out_grants(&mut self) {
        while self.grants.waits.queue.front().is_some_and(|(.., deadline)| *deadline <= self.now) {
            if let Some((_, reply, _)) = self.grants.waits.queue.pop_front() {
                let why = "chunk ids are not to be had at the moment".to_owned();
                reply.send(refusal(ServiceError::Unavailable(why)));
            }
        }
    }

    /// Notes up to where ids are handed out, for the floors.
    pub(super) fn mark_ids(&mut self) -> Result<(), Fatal> {
        let mut cursors = BTreeMap::new();
        let age = self.around.config.orphan_age;
        if !self.grants.ids.mark_due(self.now, age) {
            return Ok(());
        }
        for group in self.topology.nodes.groups() {
            let next = match self.grants.ids.next(group.id) {
                Some(next) => next,
                None => self.state.cursor(group.id)?.next,
            };
            cursors.insert(group.id, next);
        }
        self.grants.ids.mark(self.now, cursors);
        Ok(())
    }
}
