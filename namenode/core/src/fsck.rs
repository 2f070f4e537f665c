//! The online check: does everything in the metadata store fit together?
//!
//! [`Fsck`] goes through the tables of one snapshot in pages, so that its work can be spread over time and its memory
//! does not grow with the file system. Whatever a row says of rows elsewhere is looked up, and what lies together in a
//! table (the entries of a directory, the windows of a file) is counted as it passes.
//!
//! Two counts do not lie together: the names of an inode, and the slices that name a chunk. For these the check adds up,
//! over all inodes, the links that each claims times a hash of its number, and takes away the hash for each name that it
//! finds: the sum is zero if all fit, but for a chance of one in 2^64. Only if it is not, the table of names is read again,
//! as often as it takes to count exactly for [`RECOUNT_MAX`] inodes at a time. The same is done for chunks.

mod data;
mod names;
mod recount;
mod rest;
mod rows;

use crate::base::{Base, BaseError};
use crate::error::StateError;
use crate::records::{ChunkRecord, Meta, Usage};
use crate::store::read_meta;
use crate::tables::{
    ChunkKey, DeleteKey, DentryKey, ErasedKey, FenceKey, GroupKey, InodeKey, NameKey, OrphanKey, OwnerKey,
    SessionKey, SlotKey, WindowKey, XattrKey,
};
use quarry_common::ids::{ChunkId, Ino};
use quarry_common::wire::cluster::FsckProblem;
use recount::{Links, Recount, References};
use std::sync::Arc;

/// Rows that one step reads at most, so that it takes milliseconds.
pub const STEP_ROWS_MAX: usize = 4096;
/// Inodes or chunks that are counted exactly in one pass over the names or slices: some tens of megabytes.
pub const RECOUNT_MAX: usize = 1 << 18;

/// What one step found.
#[derive(Debug, Default)]
pub struct Step {
    /// What does not fit together.
    pub problems: Vec<FsckProblem>,
    /// Chunks that files refer to, in the order of their ids over all steps, so a group's are consecutive: what the
    /// serving members of the group must have.
    pub chunks: Vec<(ChunkId, ChunkRecord)>,
    /// The check is complete.
    pub done: bool,
}

/// How far the check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsckCounts {
    /// Inodes checked.
    pub inodes: u64,
    /// Names checked.
    pub dentries: u64,
    /// Chunks checked.
    pub chunks: u64,
}

/// One table or count at a time, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Inodes,
    Entries,
    Names,
    Links,
    Windows,
    Owners,
    Attributes,
    Chunks,
    References,
    DeleteQueue,
    Orphans,
    Erased,
    Sessions,
    Slots,
    Fences,
    Groups,
    Done,
}

impl Phase {
    fn next(self) -> Self {
        match self {
            Self::Inodes => Self::Entries,
            Self::Entries => Self::Names,
            Self::Names => Self::Links,
            Self::Links => Self::Windows,
            Self::Windows => Self::Owners,
            Self::Owners => Self::Attributes,
            Self::Attributes => Self::Chunks,
            Self::Chunks => Self::References,
            Self::References => Self::DeleteQueue,
            Self::DeleteQueue => Self::Orphans,
            Self::Orphans => Self::Erased,
            Self::Erased => Self::Sessions,
            Self::Sessions => Self::Slots,
            Self::Slots => Self::Fences,
            Self::Fences => Self::Groups,
            Self::Groups | Self::Done => Self::Done,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Inodes => "checking inodes",
            Self::Entries => "checking directory entries",
            Self::Names => "checking the index of names",
            Self::Links => "counting links",
            Self::Windows | Self::Owners | Self::Erased => "checking file data",
            Self::Attributes => "checking extended attributes",
            Self::Chunks => "checking chunks",
            Self::References => "counting references to chunks",
            Self::DeleteQueue => "checking the delete queue",
            Self::Orphans => "checking inodes without a name",
            Self::Sessions | Self::Slots | Self::Fences => "checking sessions",
            Self::Groups => "checking placement groups",
            Self::Done => "done",
        }
    }
}

/// A check under way. Call [`step`](Self::step) until it is done.
pub struct Fsck {
    base: Arc<dyn Base>,
    meta: Meta,
    phase: Phase,
    /// Where the phase's table is to be read on; empty: from its start.
    cursor: Vec<u8>,
    /// Counted on the way, to compare with the counters of the store.
    usage: Usage,
    sessions: u64,
    /// Zero in the end if every inode has as many names as it claims.
    links: u64,
    /// Zero in the end if every chunk has as many references as it claims.
    references: u64,
    /// What the last rows belonged to.
    directory: Option<names::Directory>,
    file: Option<data::File>,
    attributes: Option<names::Attributes>,
    recount: Recount,
    counts: FsckCounts,
    found: Step,
}

impl Fsck {
    /// Begins a check of a snapshot that does not change meanwhile: a checkpoint, without what came after it.
    ///
    /// # Errors
    /// When the store cannot be read or its first record does not decode.
    pub fn new(base: Arc<dyn Base>) -> Result<Self, StateError> {
        let Some(meta) = read_meta(base.as_ref())? else {
            return Err(StateError::Corrupt("the store is empty".to_owned()));
        };
        Ok(Self {
            base,
            meta,
            phase: Phase::Inodes,
            cursor: Vec::new(),
            usage: Usage::default(),
            sessions: 0,
            links: 0,
            references: 0,
            directory: None,
            file: None,
            attributes: None,
            recount: Recount::default(),
            counts: FsckCounts::default(),
            found: Step::default(),
        })
    }

    /// What the check is doing, for people.
    pub fn phase(&self) -> &'static str {
        self.phase.title()
    }

    /// How far it is.
    pub fn counts(&self) -> FsckCounts {
        self.counts
    }

    /// Reads one page, of `rows` rows at most, and checks it.
    ///
    /// # Errors
    /// When the store cannot be read. The step can be repeated.
    pub fn step(&mut self, rows: usize) -> Result<Step, BaseError> {
        let limit = rows.clamp(1, STEP_ROWS_MAX);
        let more = match self.phase {
            Phase::Inodes => self.page(limit, |fsck, key: InodeKey, inode| fsck.inode(key.0, &inode))?,
            Phase::Entries => self.page(limit, |fsck, key: DentryKey, dentry| fsck.entry(key, &dentry))?,
            Phase::Names => self.page(limit, |fsck, key: NameKey, entry| fsck.name(&key, entry))?,
            Phase::Links => self.links != 0 && self.recount::<Links>(limit)?,
            Phase::Windows => self.page(limit, |fsck, key: WindowKey, window| fsck.window(key, &window))?,
            Phase::Owners => self.page(limit, |fsck, key: OwnerKey, ino| fsck.owned(key.0, ino))?,
            Phase::Attributes => self.page(limit, |fsck, key: XattrKey, _| fsck.attribute(&key))?,
            Phase::Chunks => self.page(limit, |fsck, key: ChunkKey, record| fsck.chunk(key.0, record))?,
            Phase::References => self.references != 0 && self.recount::<References>(limit)?,
            Phase::DeleteQueue => self.page(limit, |fsck, key: DeleteKey, ()| fsck.deleting(key.id))?,
            Phase::Orphans => self.page(limit, |fsck, key: OrphanKey, ()| fsck.orphan(key.0))?,
            Phase::Erased => self.page(limit, |fsck, key: ErasedKey, ()| fsck.erased(key.0))?,
            Phase::Sessions => self.page(limit, |fsck, _: SessionKey, _| {
                fsck.sessions += 1;
                Ok(())
            })?,
            Phase::Slots => self.page(limit, |fsck, key: SlotKey, _| fsck.slot(key))?,
            Phase::Fences => self.page(limit, |fsck, key: FenceKey, _| fsck.fence(key))?,
            Phase::Groups => self.page(limit, |fsck, _: GroupKey, group| fsck.group(&group))?,
            Phase::Done => false,
        };
        if !more {
            self.finish_phase()?;
            self.phase = self.phase.next();
            self.cursor.clear();
        }
        self.found.done = self.phase == Phase::Done;
        Ok(std::mem::take(&mut self.found))
    }

    /// What can be said only after the last row of a table.
    fn finish_phase(&mut self) -> Result<(), BaseError> {
        match self.phase {
            Phase::Inodes => self.root()?,
            Phase::Entries => self.finish_directory(),
            Phase::Windows => self.finish_file(),
            Phase::Attributes => self.finish_attributes(),
            Phase::Groups => self.totals(),
            Phase::Names
            | Phase::Links
            | Phase::Owners
            | Phase::Chunks
            | Phase::References
            | Phase::DeleteQueue
            | Phase::Orphans
            | Phase::Erased
            | Phase::Sessions
            | Phase::Slots
            | Phase::Fences
            | Phase::Done => {}
        }
        Ok(())
    }

    fn problem(&mut self, ino: Option<Ino>, chunk: Option<ChunkId>, what: String) {
        self.found.problems.push(FsckProblem { ino, chunk, node: None, what });
    }

    fn of_inode(&mut self, ino: Ino, what: String) {
        self.problem(Some(ino), None, what);
    }

    fn of_chunk(&mut self, chunk: ChunkId, what: String) {
        self.problem(None, Some(chunk), what);
    }
}

#[cfg(test)]
mod tests;
