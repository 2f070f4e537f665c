//! A small NameNode without a shell, for the tests of this crate.

use crate::base::MemoryBase;
use crate::command::{Body, Command, Effect, GroupChange, LogicalTime, Outcome};
use crate::invariants::violations;
use crate::state::State;
use quarry_common::acl::NO_ID;
use quarry_common::ids::{
    ChunkId, Epoch, Ino, LeaseGeneration, NamespaceId, NodeId, PgId, SessionId, WindowIndex,
};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::cluster::{Member, MemberState, RegisterNode, Replication};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{
    Attr, Caller, ChunkInfo, Commit, Mutation, MutationReply, NewChunk, NewNode, Query, QueryReply, Slice,
    Timestamp, Window, WindowCommit,
};
use quarry_common::wire::session::ClientInfo;
use std::sync::Arc;

/// The group that every test chunk belongs to.
pub(crate) const PG: PgId = PgId(1);
/// Who asks in most tests.
pub(crate) const CALLER: Caller = Caller { uid: 1000, gid: 100 };

/// An ACL attribute's value from (tag, permissions, id) triples.
pub(crate) fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// `u::rwx,u:1000:rw-,g::r-x,m::rwx,o::---`
pub(crate) fn with_named_user() -> Vec<u8> {
    value(&[(1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (0x10, 7, NO_ID), (0x20, 0, NO_ID)])
}

/// A formatted state with one session, one group of nodes 1 to 3, and a clock that ticks with each command.
pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) base: MemoryBase,
    pub(crate) session: SessionId,
    pub(crate) effects: Vec<Effect>,
    pub(crate) time: i128,
    index: u64,
    sequence: u64,
    next_chunk: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let base = MemoryBase::default();
        let state = State::open(Arc::new(base.clone())).expect("opens");
        let mut bench = Self {
            state,
            base,
            session: SessionId(0),
            effects: Vec::new(),
            time: 1_000,
            index: 0,
            sequence: 0,
            next_chunk: 0,
        };
        let format = Body::Format {
            cluster: "test".to_owned(),
            namespace: NamespaceId(1),
            generation: 1,
            default_replication: Replication::Factor(3),
        };
        assert_eq!(bench.apply(format), Outcome::Done);
        for node in 1..=4 {
            assert_eq!(bench.apply(register(node, 1)), Outcome::Done);
        }
        let change = group_change(
            0,
            &[(1, MemberState::Serving), (2, MemberState::Serving), (3, MemberState::Serving)],
        );
        assert_eq!(bench.apply(Body::ChangeGroups(vec![change])), Outcome::Done);
        let reserve = Body::ReserveChunks { pg: PG, count: 1 << 20 };
        assert_eq!(bench.apply(reserve), Outcome::Reserved { first: ChunkId::new(PG, 0), count: 1 << 20 });
        bench.session = bench.open_session();
        bench
    }

    pub(crate) fn open_session(&mut self) -> SessionId {
        self.open_session_with_floor(LeaseGeneration(0))
    }

    pub(crate) fn open_session_with_floor(&mut self, fenced_below: LeaseGeneration) -> SessionId {
        match self.apply(Body::OpenSession {
            owner: "client".to_owned(),
            info: ClientInfo::default(),
            fenced_below,
        }) {
            Outcome::Session(session) => session,
            other => panic!("no session: {other:?}"),
        }
    }

    pub(crate) fn apply(&mut self, body: Body) -> Outcome {
        self.index += 1;
        self.time += 1;
        let command = Command { now: Timestamp(self.time), clock: LogicalTime(self.index), body };
        let (outcome, effects) = self.state.apply(self.index, &command).expect("the state is sound");
        self.effects = effects;
        outcome
    }

    /// A checkpoint as the shell makes it.
    pub(crate) fn checkpoint(&mut self) {
        let overlay = self.state.freeze();
        self.base.checkpoint(&overlay);
        self.state.thaw(Arc::new(self.base.clone()));
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.time)
    }

    pub(crate) fn mutate(&mut self, mutation: Mutation) -> Result<MutationReply, ServiceError> {
        self.sequence += 1;
        let body = Body::Mutate { session: self.session, slot: 0, sequence: self.sequence, mutation };
        match self.apply(body) {
            Outcome::Mutation(result) => result,
            other => panic!("no mutation: {other:?}"),
        }
    }

    /// The mutation again, with the number of the last one.
    pub(crate) fn retry(&mut self, mutation: Mutation) -> Result<MutationReply, ServiceError> {
        self.sequence -= 1;
        self.mutate(mutation)
    }

    /// A mutation that answers with attributes.
    pub(crate) fn attr_of(&mut self, mutation: Mutation) -> Result<Attr, FsError> {
        match self.mutate(mutation) {
            Ok(
                MutationReply::Attr(attr)
                | MutationReply::Removed(attr)
                | MutationReply::Committed { attr, .. },
            ) => Ok(attr),
            Ok(other) => panic!("no attributes: {other:?}"),
            Err(ServiceError::Fs(e)) => Err(e),
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) fn query(&self, query: &Query) -> Result<QueryReply, FsError> {
        self.state.query(query).expect("the state is sound")
    }

    pub(crate) fn attr(&self, ino: Ino) -> Attr {
        self.state.attr(ino).expect("the state is sound").expect("the inode is there")
    }

    pub(crate) fn lookup(&self, parent: Ino, name: &str) -> Result<Ino, FsError> {
        match self.query(&Query::Lookup { parent, name: name.as_bytes().into() })? {
            QueryReply::Attr(attr) => Ok(attr.ino),
            other => panic!("no attributes: {other:?}"),
        }
    }

    pub(crate) fn create_with(
        &mut self,
        parent: Ino,
        name: &str,
        node: NewNode,
        mode: u16,
    ) -> Result<Attr, FsError> {
        let name = name.as_bytes().into();
        self.attr_of(Mutation::Create { parent, name, node, mode, umask: 0o022, caller: CALLER })
    }

    pub(crate) fn file(&mut self, parent: Ino, name: &str) -> Ino {
        self.create_with(parent, name, NewNode::File { open: false }, 0o666).expect("created").ino
    }

    pub(crate) fn dir(&mut self, parent: Ino, name: &str) -> Ino {
        self.create_with(parent, name, NewNode::Dir, 0o777).expect("created").ino
    }

    pub(crate) fn unlink(&mut self, parent: Ino, name: &str) -> Result<Attr, FsError> {
        self.attr_of(Mutation::Unlink { parent, name: name.as_bytes().into() })
    }

    /// A chunk that all members acknowledged.
    pub(crate) fn chunk(&mut self, length: u32) -> NewChunk {
        let id = ChunkId::new(PG, self.next_chunk);
        self.next_chunk += 1;
        let info = ChunkInfo { id, length, sha256: [id.0 as u8; 32] };
        NewChunk { info, holders: vec![NodeId(1), NodeId(2), NodeId(3)] }
    }

    /// Writes one new chunk to a place within one window.
    pub(crate) fn write(&mut self, ino: Ino, offset: u64, length: u32) -> Result<Attr, FsError> {
        let commit = self.write_commit(ino, offset, length);
        self.attr_of(Mutation::Commit(commit))
    }

    pub(crate) fn write_commit(&mut self, ino: Ino, offset: u64, length: u32) -> Commit {
        let chunk = self.chunk(length);
        let slice = Slice {
            position: (offset % CHUNK_SIZE) as u32,
            length,
            chunk: Some(chunk.info.id),
            chunk_offset: 0,
        };
        Commit {
            ino,
            chunks: vec![chunk],
            windows: vec![WindowCommit {
                index: WindowIndex(offset / CHUNK_SIZE),
                replaces: None,
                slices: vec![slice],
            }],
            size_at_least: offset + u64::from(length),
            mtime: Some(Timestamp(self.time)),
            kill_suidgid: false,
            lease: None,
        }
    }

    pub(crate) fn windows(&self, ino: Ino) -> Vec<Window> {
        match self.query(&Query::Layout { ino, first: WindowIndex(0), count: 128 }) {
            Ok(QueryReply::Layout { windows, .. }) => windows,
            other => panic!("no layout: {other:?}"),
        }
    }

    /// All names of a directory in order of their cookies.
    pub(crate) fn names(&self, ino: Ino) -> Vec<String> {
        let mut names = Vec::new();
        let mut after = 0;
        loop {
            match self.query(&Query::ReadDir { ino, after, limit: 3, plus: true }) {
                Ok(QueryReply::Entries { entries, end, .. }) => {
                    after = entries.last().map_or(after, |e| e.cookie);
                    names.extend(entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()));
                    if end {
                        return names;
                    }
                }
                other => panic!("no entries: {other:?}"),
            }
        }
    }

    /// Ends a test: everything fits together, before and after a checkpoint.
    pub(crate) fn check(mut self) {
        assert_eq!(violations(&self.state).expect("readable"), Vec::<String>::new());
        self.checkpoint();
        assert_eq!(violations(&self.state).expect("readable"), Vec::<String>::new());
    }
}

pub(crate) fn register(node: u32, store_id: u128) -> Body {
    Body::RegisterNode(RegisterNode {
        node: NodeId(node),
        address: format!("host{node}:7000"),
        rack: String::new(),
        store_id,
    })
}

pub(crate) fn group_change(expected: u64, members: &[(u32, MemberState)]) -> GroupChange {
    GroupChange {
        pg: PG,
        expected: Epoch(expected),
        replication: Replication::Factor(3),
        members: members.iter().map(|&(node, state)| Member { node: NodeId(node), state }).collect(),
        reason: "test".to_owned(),
    }
}
