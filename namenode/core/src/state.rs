//! The state as the shell sees it.

use crate::base::{Base, Overlay};
use crate::command::{Body, Command, Effect, LogicalTime, Outcome};
use crate::error::{StateError, split};
use crate::ops;
use crate::records::{
    ChunkRecord, Content, Cursor, DirContent, FORMAT, Inode, Meta, NodeRecord, SessionRecord, Usage,
};
use crate::store::{Store, read_meta};
use crate::tables::{
    ChunkKey, CursorKey, DeleteKey, ErasedKey, GroupKey, InodeKey, NodeKey, OrphanKey, SessionKey,
};
use crate::tx::Tx;
use quarry_common::ids::{ChunkId, Ino, NamespaceId, NodeId, PgId, SessionId};
use quarry_common::limits::PG_MEMBERS_MAX;
use quarry_common::wire::cluster::{Group, Replication};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Attr, Mutation, Query, QueryReply, Timestamp};
use quarry_common::wire::session::{Fate, LeaseId};
use std::sync::Arc;

/// The NameNode's state. See the [crate] for the order of calls.
pub struct State {
    store: Store,
}

/// Policy of a store that `Format` has not reached yet.
const UNFORMATTED_REPLICATION: Replication = Replication::Factor(3);

impl State {
    /// Opens what the base holds; an empty base becomes a file system with an empty root directory.
    ///
    /// # Errors
    /// When the base cannot be read, or is of another format version.
    pub fn open(base: Arc<dyn Base>) -> Result<Self, StateError> {
        match read_meta(base.as_ref())? {
            Some(meta) if meta.format != FORMAT => Err(StateError::Corrupt(format!(
                "the metadata store has format {}, this program reads format {FORMAT}",
                meta.format
            ))),
            Some(meta) => Ok(Self { store: Store::new(base, meta) }),
            None => Ok(Self { store: fresh(base) }),
        }
    }

    /// The log index of the last command.
    pub fn applied(&self) -> u64 {
        self.store.meta.applied
    }

    /// Carries out a command of the log entry `index`; an entry may have several commands.
    ///
    /// # Errors
    /// The state is unusable afterwards: the process must stop.
    ///
    /// # Panics
    /// When `index` is below [`State::applied`]: the log was replayed from the wrong place.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<(Outcome, Vec<Effect>), StateError> {
        assert!(index >= self.applied(), "entry {index} after {}", self.applied());
        let mut effects = Vec::new();
        self.store.meta.clock = self.store.meta.clock.max(command.clock);
        let mut tx = Tx { store: &mut self.store, now: command.now, effects: &mut effects };
        let outcome = dispatch(&mut tx, &command.body)?;
        #[cfg(debug_assertions)]
        crate::touched::check(&self.store, &effects)?;
        self.store.meta.applied = index;
        Ok((outcome, effects))
    }

    /// Answers a query of a client. `StatFs` knows the inodes only: capacity is what heartbeats say.
    ///
    /// # Errors
    /// The outer error is the state's: the process must stop.
    pub fn query(&self, query: &Query) -> Result<Result<QueryReply, FsError>, StateError> {
        match split(ops::query(&self.store, query))? {
            Ok(reply) => Ok(Ok(reply)),
            Err(ServiceError::Fs(e)) => Ok(Err(e)),
            Err(other) => unreachable!("a query fails in POSIX's terms only, not with {other}"),
        }
    }

    /// The inodes that the mutation would change if it were applied now. Empty or partial if it would fail.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn footprint(&self, mutation: &Mutation) -> Result<Vec<Ino>, StateError> {
        ops::footprint(&self.store, mutation)
    }

    /// Everything since the last freeze, for a checkpoint; to be called between log entries. A frozen overlay that
    /// was not thawed yet is returned again, so a failed checkpoint can be repeated.
    pub fn freeze(&mut self) -> Arc<Overlay> {
        self.store.freeze()
    }

    /// The frozen overlay is in `base` now.
    pub fn thaw(&mut self, base: Arc<dyn Base>) {
        self.store.thaw(base);
    }

    /// Counters and settings.
    pub fn meta(&self) -> &Meta {
        &self.store.meta
    }

    /// What the namespace holds.
    pub fn usage(&self) -> Usage {
        self.store.meta.usage
    }

    /// The inode as it is stored.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>, StateError> {
        self.store.get(&InodeKey(ino))
    }

    /// The inode's attributes, also of an orphan.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn attr(&self, ino: Ino) -> Result<Option<Attr>, StateError> {
        Ok(self.inode(ino)?.map(|inode| inode.attr(ino)))
    }

    /// The policy by which new chunks of the file are placed.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn replication(&self, ino: Ino) -> Result<Option<Replication>, StateError> {
        let default = self.store.meta.default_replication;
        Ok(self.inode(ino)?.map(|inode| inode.replication().unwrap_or(default)))
    }

    /// Inodes without a name after `after`, in order.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn orphans(&self, after: Ino, limit: usize) -> Result<Vec<Ino>, StateError> {
        let rows = self.store.range(&OrphanKey(Ino(after.0.saturating_add(1))), None, limit)?;
        Ok(rows.into_iter().map(|(key, ())| key.0).collect())
    }

    /// Files after `after` with erased windows to be freed, in order.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn erased(&self, after: Ino, limit: usize) -> Result<Vec<Ino>, StateError> {
        let rows = self.store.range(&ErasedKey(Ino(after.0.saturating_add(1))), None, limit)?;
        Ok(rows.into_iter().map(|(key, ())| key.0).collect())
    }

    /// Chunks to delete on the DataNodes, with the logical time at which they were released, oldest first.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn delete_queue(&self, limit: usize) -> Result<Vec<(LogicalTime, ChunkId)>, StateError> {
        let first = DeleteKey { since: LogicalTime(0), id: ChunkId(0) };
        let rows = self.store.range(&first, None, limit)?;
        Ok(rows.into_iter().map(|(key, ())| (key.since, key.id)).collect())
    }

    /// What is known of a chunk; `None` if no file refers to it.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRecord>, StateError> {
        self.store.get(&ChunkKey(id))
    }

    /// Chunks that files refer to, from the id `from` on, in order; a group's chunks are consecutive.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn chunks(&self, from: ChunkId, limit: usize) -> Result<Vec<(ChunkId, ChunkRecord)>, StateError> {
        let rows = self.store.range(&ChunkKey(from), None, limit)?;
        Ok(rows.into_iter().map(|(key, record)| (key.0, record)).collect())
    }

    /// A session.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, StateError> {
        self.store.get(&SessionKey(session))
    }

    /// All sessions, by number.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn sessions(&self) -> Result<Vec<(SessionId, SessionRecord)>, StateError> {
        let rows = self.store.range(&SessionKey(SessionId(0)), None, ops::SESSIONS_MAX)?;
        Ok(rows.into_iter().map(|(key, record)| (key.0, record)).collect())
    }

    /// What became of a mutation of a session that has ended; `None` while it lives. A client may ask about sessions of its
    /// own certificate, `owner`; of others nothing is known to it.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn fate(
        &self,
        owner: &str,
        session: SessionId,
        (slot, sequence): (u16, u64),
    ) -> Result<Option<Fate>, StateError> {
        ops::sessions::fate(&self.store, owner, session, (slot, sequence))
    }

    /// The broken leases of a session that it has not acknowledged, by inode.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn fences(&self, session: SessionId) -> Result<Vec<LeaseId>, StateError> {
        let rows = ops::fences::of_session(&self.store, session)?;
        Ok(rows.into_iter().map(|(ino, generation)| LeaseId { ino, generation }).collect())
    }

    /// Whether a lease of a session is broken, or the session has ended.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn is_broken(&self, session: SessionId, lease: LeaseId) -> Result<bool, StateError> {
        ops::fences::is_broken(&self.store, session, lease)
    }

    /// All DataNodes that ever registered, by number.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn nodes(&self) -> Result<Vec<NodeRecord>, StateError> {
        let rows = self.store.range(&NodeKey(NodeId(0)), None, ops::NODES_MAX)?;
        Ok(rows.into_iter().map(|(_, record)| record).collect())
    }

    /// A DataNode.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, StateError> {
        self.store.get(&NodeKey(node))
    }

    /// All placement groups, by number.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn groups(&self) -> Result<Vec<Group>, StateError> {
        let rows = self.store.range(&GroupKey(PgId(0)), None, ops::GROUPS_MAX)?;
        Ok(rows.into_iter().map(|(_, group)| group).collect())
    }

    /// A placement group.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn group(&self, pg: PgId) -> Result<Option<Group>, StateError> {
        self.store.get(&GroupKey(pg))
    }

    /// Where the numbering of a group's chunks is.
    ///
    /// # Errors
    /// As [`State::query`].
    pub fn cursor(&self, pg: PgId) -> Result<Cursor, StateError> {
        Ok(self.store.get(&CursorKey(pg))?.unwrap_or_default())
    }

    /// The tables, for tests that damage them.
    #[cfg(test)]
    pub(crate) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The tables, for checks within this crate.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

/// A file system with an empty root directory.
fn fresh(base: Arc<dyn Base>) -> Store {
    let meta = Meta {
        format: FORMAT,
        applied: 0,
        cluster: String::new(),
        namespace: NamespaceId(0),
        generation: 0,
        min_replicas: None,
        nodes: 0,
        next_pg: PgId(1),
        default_replication: UNFORMATTED_REPLICATION,
        next_ino: Ino(Ino::ROOT.0 + 1),
        clock: LogicalTime(0),
        runs: 0,
        next_session: 1,
        sessions: 0,
        ended_sessions: 0,
        placement_version: 0,
        usage: Usage { inodes: 1, directories: 1, ..Usage::default() },
    };
    let mut store = Store::new(base, meta);
    let root = Inode {
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink: 2,
        atime: Timestamp(0),
        mtime: Timestamp(0),
        ctime: Timestamp(0),
        btime: Timestamp(0),
        version: 1,
        xattr_list_bytes: 0,
        access_acl: false,
        default_acl: false,
        content: Content::Dir(DirContent {
            parent: Ino::ROOT,
            entries: 0,
            next_cookie: 1,
            replication: None,
        }),
    };
    store.put(&InodeKey(Ino::ROOT), &root);
    store
}

fn dispatch(tx: &mut Tx<'_>, body: &Body) -> Result<Outcome, StateError> {
    match body {
        Body::Format { cluster, namespace, generation, default_replication } => {
            ops::format(tx, cluster, (*namespace, *generation), *default_replication)
        }
        Body::BeginRun => {
            tx.store.meta.runs += 1;
            Ok(Outcome::Run(tx.store.meta.runs))
        }
        Body::Mutate { session, slot, sequence, mutation } => {
            ops::sessions::mutate(tx, *session, *slot, *sequence, mutation).map(Outcome::Mutation)
        }
        Body::OpenSession { owner, info, fenced_below } => {
            Ok(ops::sessions::open(tx, owner, info, *fenced_below))
        }
        Body::EndSession { session, expired } => ops::sessions::end(tx, *session, *expired),
        Body::Fence { session, fence } => ops::fences::fence(tx, *session, *fence),
        Body::ReleaseFences { session, leases } => ops::fences::release(tx, *session, leases),
        Body::Reap { inos } => ops::reap::reap(tx, inos),
        Body::RegisterNode(register) => ops::nodes::register(tx, register),
        Body::SetNodeMode { node, mode } => ops::nodes::set_mode(tx, *node, *mode),
        Body::RemoveNode { node } => ops::nodes::remove(tx, *node),
        Body::SetMinReplicas(min) => {
            tx.store.meta.min_replicas = *min;
            Ok(Outcome::Done)
        }
        Body::ChangeGroups(changes) => ops::groups::change(tx, changes),
        Body::ReserveChunks { pg, count } => ops::groups::reserve(tx, *pg, *count),
        Body::SkipChunks(skips) => ops::groups::skip(tx, skips),
        Body::ChunksDeleted { entries } => crate::chunks::deleted(tx, entries),
        Body::RaiseFloor { pg, sequence } => crate::chunks::raise_floor(tx, *pg, *sequence),
    }
}

const _: () = assert!(PG_MEMBERS_MAX <= ops::NODES_MAX);
