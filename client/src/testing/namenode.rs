//! A NameNode that remembers slots and little else, and can be told to misbehave.

use futures::FutureExt;
use quarry_common::ids::{ChunkId, Ino, LeaseGeneration, NodeId, PgId, SessionId};
use quarry_common::wire::cluster::{NodeState, Placement, Replication};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{
    Attr, DirEntry, FileKind, Mutation, MutationReply, NewNode, Query, QueryReply, StatFs, Timestamp, Window,
    WindowCommit,
};
use quarry_common::wire::session::{
    ChunkGrant, LeaseGrant, LeaseMode, Lock, LockKind, Losses, Push, Reply, Request, Response,
};
use quarry_net::rpc::{self, Peer, Pusher, Replier, Service, SessionProtocol};
use quarry_net::transport::Connection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Normal,
    /// Carried out, but the connection breaks before the answer.
    LoseAnswer,
    /// Answered so, and not carried out.
    Fail(ServiceError),
    /// A mutation that the state machine answers so, which uses its number up.
    Refuse(ServiceError),
    /// Carried out and answered when [`FakeNameNode::release`] is called.
    Hold,
}

type Judge = Box<dyn FnMut(&Request) -> Fate + Send>;

#[derive(Default)]
pub(crate) struct FakeNameNode {
    state: Mutex<State>,
    changed: Notify,
}

pub(crate) struct State {
    judge: Option<Judge>,
    held: Vec<(u64, Request, Replier<SessionProtocol>)>,
    last_session: u64,
    sessions: HashMap<SessionId, FakeSession>,
    /// What is still known of sessions that have ended.
    pub(crate) ended: HashMap<SessionId, FakeSession>,
    peers: HashMap<u64, (SessionId, Pusher<SessionProtocol>)>,
    placement: Placement,
    next_chunk: u64,
    inodes: BTreeMap<Ino, Attr>,
    names: BTreeMap<(Ino, Vec<u8>), Ino>,
    windows: BTreeMap<(Ino, u64), Window>,
    last_ino: u64,
    last_recall: u64,
    /// Everything that was asked, in order.
    pub(crate) asked: Vec<Request>,
    /// Mutations that were carried out, retries not counted.
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) no_space: bool,
    /// Grants shared leases with the answers to queries.
    pub(crate) leases: bool,
    /// Answers to recalls.
    pub(crate) recalled: Vec<(u64, bool)>,
}

#[derive(Clone, Default)]
pub(crate) struct FakeSession {
    slots: HashMap<u16, (u64, Result<MutationReply, ServiceError>)>,
    open: BTreeSet<Ino>,
    locks: Vec<(Ino, Lock)>,
}

impl Default for State {
    fn default() -> Self {
        let root = attr(Ino::ROOT, FileKind::Dir);
        Self {
            judge: None,
            held: Vec::new(),
            last_session: 0,
            sessions: HashMap::new(),
            ended: HashMap::new(),
            peers: HashMap::new(),
            placement: Placement::default(),
            next_chunk: 1,
            inodes: [(Ino::ROOT, root)].into(),
            names: BTreeMap::new(),
            windows: BTreeMap::new(),
            last_ino: 1,
            last_recall: 0,
            asked: Vec::new(),
            mutations: Vec::new(),
            no_space: false,
            leases: false,
            recalled: Vec::new(),
        }
    }
}

fn attr(ino: Ino, kind: FileKind) -> Attr {
    let t = Timestamp(0);
    Attr {
        ino,
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        allocated: 0,
        rdev: 0,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        version: 1,
    }
}

pub(crate) fn serve(
    namenode: Arc<FakeNameNode>,
    connection: Arc<dyn Connection>,
) -> impl Future<Output = ()> + Send {
    rpc::serve::<SessionProtocol>(connection, namenode).boxed()
}

impl Service<SessionProtocol> for FakeNameNode {
    fn handle(&self, peer: &Peer<SessionProtocol>, request: Request, reply: Replier<SessionProtocol>) {
        let mut state = self.state();
        state.asked.push(request.clone());
        let fate = match &mut state.judge {
            Some(judge) => judge(&request),
            None => Fate::Normal,
        };
        match fate {
            Fate::Normal => {
                let response = state.respond(peer.number(), Some(peer.pusher()), request);
                // Under the lock, so that no recall overtakes it.
                reply.send(response);
            }
            Fate::LoseAnswer => {
                state.respond(peer.number(), Some(peer.pusher()), request);
                drop(reply);
            }
            Fate::Fail(error) => reply.send(Response { result: Err(error), leases: Vec::new() }),
            Fate::Refuse(error) => {
                state.refuse(peer.number(), &request, &error);
                reply.send(Response { result: Err(error), leases: Vec::new() });
            }
            Fate::Hold => state.held.push((peer.number(), request, reply)),
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl FakeNameNode {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Decides what happens to each request from now on.
    pub(crate) fn judge(&self, judge: impl FnMut(&Request) -> Fate + Send + 'static) {
        self.state().judge = Some(Box::new(judge));
    }

    /// The first request like this meets its fate, all others are well.
    pub(crate) fn once(&self, like: impl Fn(&Request) -> bool + Send + 'static, fate: Fate) {
        let mut fate = Some(fate);
        self.judge(
            move |request| if like(request) { fate.take().unwrap_or(Fate::Normal) } else { Fate::Normal },
        );
    }

    /// Waits until the state is so.
    pub(crate) async fn until(&self, mut so: impl FnMut(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Carries out what was held.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.judge = None;
        for (peer, request, reply) in std::mem::take(&mut state.held) {
            let response = state.respond(peer, None, request);
            reply.send(response);
        }
    }

    pub(crate) fn place(&self, mut placement: Placement) {
        let mut state = self.state();
        placement.version = state.placement.version + 1;
        state.set_placement(placement);
    }

    /// Changes the placement, and tells everyone.
    pub(crate) fn replace(&self, change: impl FnOnce(&mut Placement)) {
        let mut state = self.state();
        let mut placement = state.placement.clone();
        change(&mut placement);
        placement.version += 1;
        state.set_placement(placement);
    }

    /// Ends all sessions, as if they had been silent.
    pub(crate) fn expire_sessions(&self) {
        let mut state = self.state();
        let ended = std::mem::take(&mut state.sessions);
        state.ended.extend(ended);
    }

    /// Forgets what a NameNode keeps in memory only.
    pub(crate) fn forget_volatile(&self) {
        for session in self.state().sessions.values_mut() {
            session.open.clear();
            session.locks.clear();
        }
    }

    /// Lets go of all connections.
    pub(crate) fn forget_peers(&self) {
        self.state().peers.clear();
    }

    pub(crate) fn open(&self) -> Vec<Ino> {
        let state = self.state();
        let mut open: Vec<Ino> = state.sessions.values().flat_map(|s| s.open.iter().copied()).collect();
        open.sort_unstable();
        open
    }

    pub(crate) fn locks(&self) -> Vec<(Ino, Lock)> {
        self.state().sessions.values().flat_map(|s| s.locks.iter().copied()).collect()
    }

    /// Removes an inode as another client would, without a word.
    pub(crate) fn remove(&self, ino: Ino) {
        let mut state = self.state();
        state.inodes.remove(&ino);
        state.names.retain(|_, i| *i != ino);
    }

    /// Recalls the lease on an inode from everyone, and tells the number.
    pub(crate) fn recall(&self, ino: Ino) -> u64 {
        let mut state = self.state();
        state.last_recall += 1;
        let number = state.last_recall;
        for (_, pusher) in state.peers.values() {
            pusher.push(Push::Recall { number, ino, keep: None });
        }
        number
    }

    /// Changes an inode's size as another client would.
    pub(crate) fn resize(&self, ino: Ino, size: u64) {
        let mut state = self.state();
        let attr = state.inodes.get_mut(&ino).unwrap();
        attr.size = size;
        attr.version += 1;
    }
}

impl State {
    fn set_placement(&mut self, placement: Placement) {
        self.placement = placement;
        for (_, pusher) in self.peers.values() {
            pusher.push(Push::PlacementChanged { version: self.placement.version });
        }
    }

    pub(crate) fn count(&self, like: impl Fn(&Request) -> bool) -> usize {
        self.asked.iter().filter(|r| like(r)).count()
    }

    fn refuse(&mut self, peer: u64, request: &Request, error: &ServiceError) {
        let (session, _) = &self.peers[&peer];
        if let Request::Mutate { slot, sequence, .. } = request
            && let Some(session) = self.sessions.get_mut(session)
        {
            session.slots.insert(*slot, (*sequence, Err(error.clone())));
        }
    }

    fn respond(&mut self, peer: u64, pusher: Option<Pusher<SessionProtocol>>, request: Request) -> Response {
        let mut leases = Vec::new();
        if self.leases {
            leases = granted(&request)
                .into_iter()
                .map(|ino| LeaseGrant { ino, mode: LeaseMode::Shared, generation: LeaseGeneration(1) })
                .collect();
        }
        let result = self.carry_out(peer, pusher, request);
        if self.leases
            && let Ok(Reply::Query(QueryReply::Attr(attr)) | Reply::Attr(attr)) = &result
        {
            leases.push(LeaseGrant {
                ino: attr.ino,
                mode: LeaseMode::Shared,
                generation: LeaseGeneration(1),
            });
        }
        Response { result, leases }
    }

    fn carry_out(
        &mut self,
        peer: u64,
        pusher: Option<Pusher<SessionProtocol>>,
        request: Request,
    ) -> Result<Reply, ServiceError> {
        match request {
            Request::OpenSession(_) => {
                self.last_session += 1;
                let session = SessionId(self.last_session);
                self.sessions.insert(session, FakeSession::default());
                Ok(self.attach(peer, pusher, session))
            }
            Request::ResumeSession { session, open, locks, leases: _ } => {
                let known = self.sessions.get_mut(&session).ok_or(ServiceError::SessionExpired)?;
                known.open = open.into_iter().collect();
                known.locks = locks;
                Ok(self.attach(peer, pusher, session))
            }
            other => {
                let session = self.peers.get(&peer).map(|(session, _)| *session);
                let session = session.filter(|s| self.sessions.contains_key(s));
                self.in_session(session.ok_or(ServiceError::SessionExpired)?, other)
            }
        }
    }

    fn attach(&mut self, peer: u64, pusher: Option<Pusher<SessionProtocol>>, session: SessionId) -> Reply {
        self.peers.insert(peer, (session, pusher.expect("a session is never held back")));
        Reply::Session {
            session,
            cluster: "c".into(),
            default_replication: Replication::Factor(3),
            losses: Losses::default(),
        }
    }

    fn in_session(&mut self, id: SessionId, request: Request) -> Result<Reply, ServiceError> {
        let placement = self.placement.clone();
        let mut session = self.sessions.get(&id).cloned().unwrap_or_default();
        let result = match request {
            Request::CloseSession => {
                self.sessions.remove(&id);
                return Ok(Reply::Done);
            }
            Request::Renew { .. } => Ok(Reply::Renewed(Losses::default())),
            Request::Query(query) => self.query(&query).map(Reply::Query).map_err(Into::into),
            Request::Mutate { slot, sequence, mutation } => {
                let last = session.slots.get(&slot).map_or(0, |(last, _)| *last);
                if sequence == last {
                    session.slots[&slot].1.clone().map(Reply::Mutation)
                } else if sequence == last + 1 {
                    let result = self.mutate(&mut session, &mutation).map_err(ServiceError::from);
                    self.mutations.push(mutation);
                    session.slots.insert(slot, (sequence, result.clone()));
                    result.map(Reply::Mutation)
                } else {
                    Err(ServiceError::SlotMismatch { slot, last })
                }
            }
            Request::Fate { session, slot, sequence } => Ok(Reply::Fate(self.fate(session, slot, sequence))),
            Request::Open { ino } => self.attr(ino).map_err(ServiceError::from).map(|attr| {
                session.open.insert(ino);
                Reply::Attr(attr)
            }),
            Request::Close { inos } => {
                session.open.retain(|ino| !inos.contains(ino));
                Ok(Reply::Done)
            }
            Request::SetLock { ino, lock, wait: _ } => self.lock(id, &mut session, ino, lock),
            Request::CancelLock { .. } => Ok(Reply::Done),
            Request::AllocChunks { count, avoid, .. } => self.alloc(count, &avoid),
            Request::Placement => Ok(Reply::Placement(placement)),
            Request::RecallDone { recalls } => {
                self.recalled.extend(recalls);
                Ok(Reply::Done)
            }
            Request::ReturnLeases { .. } | Request::BringingIn { .. } => Ok(Reply::Done),
            other => Err(ServiceError::BadRequest(format!("the fake does not know {other:?}"))),
        };
        self.sessions.insert(id, session);
        result
    }

    /// What became of a mutation of a session that has ended.
    fn fate(&self, session: SessionId, slot: u16, sequence: u64) -> quarry_common::wire::session::Fate {
        let Some(session) = self.ended.get(&session).or(self.sessions.get(&session)) else {
            return quarry_common::wire::session::Fate::Unknown;
        };
        match session.slots.get(&slot) {
            Some((last, result)) if *last == sequence => {
                quarry_common::wire::session::Fate::Answered(Box::new(result.clone()))
            }
            Some((last, _)) if *last > sequence => quarry_common::wire::session::Fate::Unknown,
            _ => quarry_common::wire::session::Fate::Never,
        }
    }

    fn lock(
        &self,
        id: SessionId,
        own: &mut FakeSession,
        ino: Ino,
        lock: Lock,
    ) -> Result<Reply, ServiceError> {
        let overlaps = |(i, l): &&(Ino, Lock)| *i == ino && l.start <= lock.end && lock.start <= l.end;
        let others = self.sessions.iter().filter(|(s, _)| **s != id).flat_map(|(_, s)| &s.locks);
        let own_others = own.locks.iter().filter(|(_, l)| l.owner != lock.owner);
        if lock.kind != LockKind::Unlock && others.chain(own_others).any(|l| overlaps(&l)) {
            return Err(FsError::WouldBlock.into());
        }
        own.locks.retain(|l| !(overlaps(&l) && l.1.owner == lock.owner));
        if lock.kind != LockKind::Unlock {
            own.locks.push((ino, lock));
        }
        Ok(Reply::Done)
    }

    fn alloc(&mut self, count: u32, avoid: &[NodeId]) -> Result<Reply, ServiceError> {
        if self.no_space {
            return Err(FsError::NoSpace.into());
        }
        let healthy =
            |id: NodeId| self.placement.nodes.iter().any(|n| n.id == id && n.state == NodeState::Healthy);
        let badness = |pg: PgId| {
            let group = self.placement.groups.iter().find(|g| g.id == pg).unwrap();
            group.writers().filter(|n| avoid.contains(n) || !healthy(*n)).count()
        };
        let pg = self.placement.groups.iter().map(|g| g.id).min_by_key(|pg| badness(*pg));
        let pg = pg.ok_or(ServiceError::Fs(FsError::NoSpace))?;
        let first = ChunkId::new(pg, self.next_chunk);
        self.next_chunk += u64::from(count);
        Ok(Reply::Grants(vec![ChunkGrant { pg, first, count }]))
    }

    fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.inodes.get(&ino).cloned().ok_or(FsError::Stale)
    }

    fn query(&self, query: &Query) -> Result<QueryReply, FsError> {
        match query {
            Query::Lookup { parent, name } => {
                self.attr(*parent)?;
                let ino = self.names.get(&(*parent, name.0.clone())).ok_or(FsError::NotFound)?;
                self.attr(*ino).map(QueryReply::Attr)
            }
            Query::Attr { ino } => self.attr(*ino).map(QueryReply::Attr),
            Query::Parent { .. } => self.attr(Ino::ROOT).map(QueryReply::Attr),
            Query::ReadDir { ino, after, limit, plus } => {
                let names = self.names.iter().filter(|((parent, _), _)| parent == ino);
                let entry = |(i, ((_, name), ino)): (usize, (&(Ino, Vec<u8>), &Ino))| DirEntry {
                    cookie: i as u64 + 1,
                    ino: *ino,
                    kind: self.inodes[ino].kind,
                    name: name.clone().into(),
                    attr: plus.then(|| self.inodes[ino].clone()),
                };
                let newest = names.clone().count() as u64;
                let entries: Vec<_> = names.enumerate().map(entry).filter(|e| e.cookie > *after).collect();
                let end = entries.len() <= *limit as usize;
                let entries = entries.into_iter().take(*limit as usize).collect();
                Ok(QueryReply::Entries { entries, end, newest })
            }
            Query::ReadLink { .. } | Query::GetXattr { .. } => Ok(QueryReply::Bytes(b"value"[..].into())),
            Query::ListXattr { .. } => Ok(QueryReply::Bytes(b"user.a\0"[..].into())),
            Query::Layout { ino, first, count } => {
                let range = (*ino, first.0)..(*ino, first.0 + u64::from(*count));
                let windows = self.windows.range(range).map(|(_, w)| w.clone()).collect();
                Ok(QueryReply::Layout { attr: self.attr(*ino)?, windows })
            }
            Query::NextWindow { .. } => Err(FsError::NotSupported),
            Query::Chunks { .. } => Ok(QueryReply::Chunks(Vec::new())),
            Query::StatFs => Ok(QueryReply::StatFs(StatFs { capacity: 2 << 40, free: 1 << 40, inodes: 1 })),
        }
    }

    fn mutate(&mut self, session: &mut FakeSession, mutation: &Mutation) -> Result<MutationReply, FsError> {
        match mutation {
            Mutation::Create { parent, name, node, .. } => {
                let key = (*parent, name.0.clone());
                if self.names.contains_key(&key) {
                    return Err(FsError::Exists);
                }
                self.last_ino += 1;
                let ino = Ino(self.last_ino);
                let kind = if *node == NewNode::Dir { FileKind::Dir } else { FileKind::File };
                self.inodes.insert(ino, attr(ino, kind));
                self.names.insert(key, ino);
                if *node == (NewNode::File { open: true }) {
                    session.open.insert(ino);
                }
                Ok(MutationReply::Attr(self.attr(ino)?))
            }
            Mutation::Unlink { parent, name } => {
                let ino = self.names.remove(&(*parent, name.0.clone())).ok_or(FsError::NotFound)?;
                let mut attr = self.attr(ino)?;
                attr.nlink = 0;
                attr.version += 1;
                self.inodes.insert(ino, attr.clone());
                Ok(MutationReply::Removed(attr))
            }
            Mutation::Rename { from, from_name, to, to_name, .. } => {
                let ino = self.names.remove(&(*from, from_name.0.clone())).ok_or(FsError::NotFound)?;
                self.names.insert((*to, to_name.0.clone()), ino);
                Ok(MutationReply::Renamed { moved: self.attr(ino)?, other: None })
            }
            Mutation::SetAttr { ino, set, .. } => {
                let attr = self.inodes.get_mut(ino).ok_or(FsError::Stale)?;
                attr.mode = set.mode.unwrap_or(attr.mode);
                attr.size = set.size.unwrap_or(attr.size);
                attr.version += 1;
                Ok(MutationReply::Attr(attr.clone()))
            }
            Mutation::Commit(commit) => {
                let attr = self.inodes.get_mut(&commit.ino).ok_or(FsError::Stale)?;
                attr.size = attr.size.max(commit.size_at_least);
                attr.version += 1;
                let attr = attr.clone();
                let windows = commit.windows.iter().map(|w| self.commit_window(commit.ino, w)).collect();
                Ok(MutationReply::Committed { attr, windows })
            }
            _ => Err(FsError::NotSupported),
        }
    }

    fn commit_window(
        &mut self,
        ino: Ino,
        commit: &WindowCommit,
    ) -> (quarry_common::ids::WindowIndex, u64, u32) {
        let window = self.windows.entry((ino, commit.index.0)).or_default();
        window.index = commit.index;
        window.version += 1;
        if commit.replaces.is_some() {
            window.slices.clear();
        }
        window.slices.extend_from_slice(&commit.slices);
        (window.index, window.version, window.slices.len() as u32)
    }
}

/// What a lease is granted on: the inode that is asked about, or the directory.
fn granted(request: &Request) -> Option<Ino> {
    match request {
        Request::Query(
            Query::Attr { ino }
            | Query::ReadDir { ino, .. }
            | Query::ReadLink { ino }
            | Query::GetXattr { ino, .. }
            | Query::ListXattr { ino }
            | Query::Layout { ino, .. }
            | Query::Lookup { parent: ino, .. },
        ) => Some(*ino),
        _ => None,
    }
}
