//! The cluster in memory.

use crate::error::{GetError, MutateError};
use crate::file::open_file::{OpenFile, OpenMode};
use crate::file::{Files, FilesConfig};
use crate::traits::{ChunkIo, Meta};
use async_trait::async_trait;
use bytes::Bytes;
use quarry_common::ids::{
    ChunkId, Epoch, Ino, LeaseGeneration, NamespaceId, NodeId, PgId, SessionId, WindowIndex,
};
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::cluster::{Member, MemberState, RegisterNode, Replication};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{
    Attr, Caller, ChunkInfo, Mutation, MutationReply, NewChunk, NewNode, Query, QueryReply, StatFs,
    Timestamp, Window,
};
use quarry_common::wire::session::{ClientInfo, LeaseId, Losses};
use quarry_namenode_core::{Body, Command, GroupChange, LogicalTime, MemoryBase, Outcome, State};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const PG: PgId = PgId(1);
const NODE: NodeId = NodeId(1);

/// How often each fault happens, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) rewrite: u32,
    pub(super) window_changed: u32,
    pub(super) gone: u32,
}

/// NameNode and DataNodes.
pub(super) struct Cluster {
    inner: Mutex<Inner>,
    pub(super) full: AtomicBool,
    pub(super) broken: AtomicBool,
    pub(super) gets: AtomicUsize,
    pub(super) commits: AtomicUsize,
    pub(super) layouts: AtomicUsize,
    /// The generation of every lease that is granted now; earlier ones are broken.
    pub(super) lease: AtomicU64,
    /// The free space that is told.
    pub(super) free: AtomicU64,
}

struct Inner {
    state: State,
    session: SessionId,
    index: u64,
    sequence: u64,
    chunks: HashMap<ChunkId, Bytes>,
    durable: HashSet<ChunkId>,
    faults: Faults,
    random: StdRng,
}

impl Inner {
    fn apply(&mut self, body: Body) -> Outcome {
        self.index += 1;
        let now = Timestamp(i128::from(self.index));
        self.state
            .apply(self.index, &Command { now, clock: LogicalTime(self.index), body })
            .expect("the state is sound")
            .0
    }

    fn mutate(&mut self, mutation: Mutation) -> Result<MutationReply, ServiceError> {
        self.sequence += 1;
        let (session, sequence) = (self.session, self.sequence);
        let result = match self.apply(Body::Mutate { session, slot: 0, sequence, mutation }) {
            Outcome::Mutation(result) => result,
            other => panic!("{other:?}"),
        };
        // No grace: a reader with an old layout finds the chunk gone at once.
        let entries = self.state.delete_queue(usize::MAX >> 1).expect("sound");
        for (_, id) in &entries {
            self.chunks.remove(id);
        }
        self.apply(Body::ChunksDeleted { entries });
        result
    }

    fn happens(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, faults: Faults) -> Arc<Self> {
        let mut inner = Inner {
            state: State::open(Arc::new(MemoryBase::default())).expect("empty"),
            session: SessionId(0),
            index: 0,
            sequence: 0,
            chunks: HashMap::new(),
            durable: HashSet::new(),
            faults,
            random: StdRng::seed_from_u64(seed),
        };
        let replication = Replication::Factor(1);
        inner.apply(Body::Format {
            cluster: "test".to_owned(),
            namespace: NamespaceId(1),
            generation: 1,
            default_replication: replication,
        });
        let node = RegisterNode { node: NODE, address: "a:1".to_owned(), rack: String::new(), store_id: 1 };
        assert_eq!(inner.apply(Body::RegisterNode(node)), Outcome::Done);
        let members = vec![Member { node: NODE, state: MemberState::Serving }];
        let group = GroupChange { pg: PG, expected: Epoch(0), replication, members, reason: String::new() };
        assert_eq!(inner.apply(Body::ChangeGroups(vec![group])), Outcome::Done);
        let info = ClientInfo::default();
        match inner.apply(Body::OpenSession {
            owner: "client".to_owned(),
            info,
            fenced_below: Default::default(),
        }) {
            Outcome::Session(session) => inner.session = session,
            other => panic!("{other:?}"),
        }
        Arc::new(Self {
            inner: Mutex::new(inner),
            full: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            gets: AtomicUsize::new(0),
            commits: AtomicUsize::new(0),
            layouts: AtomicUsize::new(0),
            lease: AtomicU64::new(1),
            free: AtomicU64::new(1 << 39),
        })
    }

    pub(super) fn create(&self, name: &str) -> Attr {
        let mutation = Mutation::Create {
            parent: Ino::ROOT,
            name: ByteString(name.as_bytes().to_vec()),
            node: NewNode::File { open: true },
            mode: 0o644,
            umask: 0,
            caller: Caller { uid: 0, gid: 0 },
        };
        match self.lock().mutate(mutation) {
            Ok(MutationReply::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    /// Breaks every lease and says how that is told. What was buffered under them is refused.
    pub(super) fn break_leases(&self, inos: &[Ino]) -> Losses {
        let generation = LeaseGeneration(self.lease.fetch_add(1, Ordering::Relaxed));
        let leases = inos.iter().map(|ino| LeaseId { ino: *ino, generation }).collect();
        Losses { number: generation.0, leases, ..Losses::default() }
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    pub(super) fn change(&self, mutation: Mutation) -> MutationReply {
        self.lock().mutate(mutation).expect("it is allowed")
    }

    pub(super) fn attr(&self, ino: Ino) -> Attr {
        self.lock().state.attr(ino).expect("sound").expect("there")
    }

    pub(super) fn layout(&self, ino: Ino) -> Vec<Window> {
        let query = Query::Layout { ino, first: WindowIndex(0), count: 128 };
        match self.lock().state.query(&query).expect("sound") {
            Ok(QueryReply::Layout { windows, .. }) => windows,
            other => panic!("{other:?}"),
        }
    }

    /// Chunks of a file that a power failure of all nodes would lose.
    pub(super) fn volatile_chunks(&self, ino: Ino) -> usize {
        let layout = self.layout(ino);
        let inner = self.lock();
        let slices = layout.iter().flat_map(|w| &w.slices);
        slices.filter_map(|s| s.chunk).filter(|id| !inner.durable.contains(id)).count()
    }

    /// The power of all nodes fails: what was not durable is gone.
    pub(super) fn power_failure(&self) {
        let Inner { chunks, durable, .. } = &mut *self.lock();
        chunks.retain(|id, _| durable.contains(id));
    }

    /// Checks that every slice has its chunk.
    pub(super) fn check(&self, ino: Ino) {
        let layout = self.layout(ino);
        let inner = self.lock();
        for slice in layout.iter().flat_map(|w| &w.slices) {
            if let Some(id) = slice.chunk {
                let length = inner.chunks[&id].len();
                assert!((slice.chunk_offset + slice.length) as usize <= length, "{slice:?} of {length}");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Gives other tasks a turn or several, as a network does.
    async fn delay(&self) {
        let turns = self.lock().random.random_range(0..6);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Meta for Cluster {
    async fn query(&self, query: Query) -> Result<QueryReply, FsError> {
        if matches!(query, Query::Layout { .. }) {
            self.layouts.fetch_add(1, Ordering::Relaxed);
        }
        self.delay().await;
        if query == Query::StatFs {
            let free = self.free.load(Ordering::Relaxed);
            return Ok(QueryReply::StatFs(StatFs { capacity: 1 << 40, free, inodes: 0 }));
        }
        let reply = self.lock().state.query(&query).expect("sound");
        self.delay().await;
        reply
    }

    async fn mutate(&self, mutation: Mutation) -> Result<MutationReply, MutateError> {
        self.delay().await;
        let result = {
            let mut inner = self.lock();
            if let Mutation::Commit(commit) = &mutation {
                self.commits.fetch_add(1, Ordering::Relaxed);
                if self.broken.load(Ordering::Relaxed) {
                    return Err(FsError::Stale.into());
                }
                if commit.lease.is_some_and(|lease| lease.0 < self.lease.load(Ordering::Relaxed)) {
                    return Err(MutateError::Fenced);
                }
                let faults = inner.faults;
                if let Some(chunk) = commit.chunks.first()
                    && inner.happens(faults.rewrite)
                {
                    let chunk = chunk.info.id;
                    inner.chunks.remove(&chunk);
                    return Err(MutateError::RewriteChunk { chunk, reason: "a fault".to_owned() });
                }
                let merges = commit.windows.iter().any(|w| w.replaces.is_some());
                if merges && inner.happens(faults.window_changed) {
                    return Err(MutateError::WindowChanged);
                }
                for chunk in &commit.chunks {
                    let data = inner.chunks.get(&chunk.info.id).expect("acknowledged before it is committed");
                    assert_eq!(data.len(), chunk.info.length as usize);
                }
            }
            inner.mutate(mutation)
        };
        self.delay().await;
        result.map_err(|error| match error {
            ServiceError::Fs(error) => MutateError::Fs(error),
            ServiceError::WindowChanged => MutateError::WindowChanged,
            other => panic!("{other}"),
        })
    }

    fn exclusive(&self, ino: Ino) -> Option<LeaseGeneration> {
        self.held(ino)
    }

    fn held(&self, _ino: Ino) -> Option<LeaseGeneration> {
        Some(LeaseGeneration(self.lease.load(Ordering::Relaxed)))
    }

    fn current(&self, _ino: Ino) -> Option<Attr> {
        None
    }

    async fn lease(&self, ino: Ino) -> Result<Attr, FsError> {
        Meta::attr(self, ino).await
    }
}

#[async_trait]
impl ChunkIo for Cluster {
    async fn put(&self, _ino: Ino, data: Bytes, durable: bool) -> Result<NewChunk, FsError> {
        assert!(!data.is_empty() && data.len() <= 2 << 20);
        self.delay().await;
        if self.full.load(Ordering::Relaxed) {
            return Err(FsError::NoSpace);
        }
        let info = {
            let mut inner = self.lock();
            let id = match inner.apply(Body::ReserveChunks { pg: PG, count: 1 }) {
                Outcome::Reserved { first, .. } => first,
                other => panic!("{other:?}"),
            };
            inner.chunks.insert(id, data.clone());
            if durable {
                inner.durable.insert(id);
            }
            ChunkInfo { id, length: data.len() as u32, sha256: [0; 32] }
        };
        self.delay().await;
        Ok(NewChunk { info, holders: vec![NODE] })
    }

    async fn get(&self, id: ChunkId, offset: u32, length: u32) -> Result<Bytes, GetError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.delay().await;
        let mut inner = self.lock();
        let gone = inner.faults.gone;
        if inner.happens(gone) {
            return Err(GetError::Gone);
        }
        let data = inner.chunks.get(&id).ok_or(GetError::Gone)?;
        assert!(
            length > 0 && (offset + length) as usize <= data.len(),
            "{offset}+{length} of {}",
            data.len()
        );
        Ok(data.slice(offset as usize..(offset + length) as usize))
    }

    async fn sync(&self, chunks: &[NewChunk]) -> Result<(), FsError> {
        self.delay().await;
        let mut inner = self.lock();
        for chunk in chunks {
            if !inner.chunks.contains_key(&chunk.info.id) {
                return Err(FsError::Io);
            }
            inner.durable.insert(chunk.info.id);
        }
        Ok(())
    }
}

/// A mount of the cluster.
pub(super) struct Mount {
    pub(super) cluster: Arc<Cluster>,
    pub(super) files: Arc<Files>,
    /// Closes that were passed on, by inode.
    pub(super) closed: Arc<Mutex<HashMap<Ino, usize>>>,
}

pub(super) const READ_WRITE: OpenMode =
    OpenMode { read: true, write: true, append: false, direct: false, truncate: false };

impl Mount {
    pub(super) fn new(cluster: &Arc<Cluster>, config: FilesConfig) -> Self {
        let closed: Arc<Mutex<HashMap<Ino, usize>>> = Arc::default();
        let count = Arc::clone(&closed);
        let files = Files::new(
            Arc::clone(cluster) as Arc<dyn Meta>,
            Arc::clone(cluster) as Arc<dyn ChunkIo>,
            config,
            Box::new(move |ino| *count.lock().unwrap().entry(ino).or_default() += 1),
        );
        Self { cluster: Arc::clone(cluster), files, closed }
    }

    /// Opens as an application does: attributes fresh from the NameNode.
    pub(super) fn open(&self, ino: Ino) -> Arc<OpenFile> {
        self.files.open(&self.cluster.attr(ino), READ_WRITE)
    }

    /// stat(2)
    pub(super) fn stat(&self, ino: Ino) -> Attr {
        self.files.overlay_attr(self.cluster.attr(ino))
    }
}

/// Buffers so small that everything happens.
pub(super) fn small() -> FilesConfig {
    FilesConfig {
        cache_bytes: 3 << 20,
        write_buffer_bytes: 1 << 20,
        prefetch_bytes: 4 << 20,
        puts: 3,
        gets: 4,
    }
}

/// Bytes that tell where they were written and by what.
pub(super) fn pattern(seed: u64, length: usize) -> Bytes {
    let mut value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// Reads a range by pieces of at most 128 KiB, as the kernel does.
pub(super) async fn read(file: &OpenFile, offset: u64, length: usize) -> Result<Vec<u8>, FsError> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let piece = (length - bytes.len()).min(128 << 10);
        let got = file.read(offset + bytes.len() as u64, piece as u32).await?;
        if got.is_empty() {
            break;
        }
        bytes.extend_from_slice(&got);
    }
    Ok(bytes)
}
