//! Changes that the NameNode makes to existing data and size: truncate, fallocate, copy by reference.
//!
//! They hold the inode's gate alone, so that no write comes between, and what was written before is committed
//! first. They run as tasks of their own: a caller who gives up cannot leave them half known.

use super::files::Files;
use super::inode::Inode;
use crate::error::MutateError;
use quarry_common::ids::Ino;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FallocateMode, Mutation, MutationReply, SetAttr};
use std::ops::Range;
use std::sync::Arc;

/// What to copy by reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyRange {
    pub(crate) from_offset: u64,
    pub(crate) to_offset: u64,
    pub(crate) length: u64,
    pub(crate) kill_suidgid: bool,
}

impl Files {
    /// Changes attributes of a file. Returns them as this mount sees them.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub(crate) async fn setattr(&self, ino: Ino, set: SetAttr, keep_sgid: bool) -> Result<Attr, FsError> {
        let size = set.size;
        let mutation = Mutation::SetAttr { ino, set, keep_sgid };
        let Some(inode) = self.known(ino) else {
            return attr_of(self.shared.meta.mutate(mutation).await);
        };
        if size == Some(0) {
            inode.state().replace();
        }
        let windows = size.map_or(0..0, |size| size / CHUNK_SIZE..u64::MAX);
        let (attr, ()) = inode.change(windows, mutation, only_attr).await?;
        Ok(attr)
    }
}

impl Inode {
    /// fallocate(2).
    ///
    /// # Errors
    /// Those of the NameNode.
    pub(crate) async fn fallocate(
        self: &Arc<Self>,
        mode: FallocateMode,
        offset: u64,
        length: u64,
        kill_suidgid: bool,
    ) -> Result<Attr, FsError> {
        let windows = match mode {
            FallocateMode::Allocate | FallocateMode::KeepSize => 0..0,
            FallocateMode::PunchHole | FallocateMode::ZeroRange | FallocateMode::ZeroRangeKeepSize => {
                windows(offset, length)
            }
        };
        let mutation = Mutation::Fallocate { ino: self.ino, mode, offset, length, kill_suidgid };
        let (attr, ()) = self.change(windows, mutation, only_attr).await?;
        Ok(attr)
    }

    /// Copies from another file, or within this one, by reference. Returns how many bytes were copied: fewer than
    /// asked for at the end of the source, or when the NameNode leaves the rest for another call.
    ///
    /// # Errors
    /// Those of the NameNode; `NotSupported` where the bytes themselves must be copied.
    pub(crate) async fn copy_from(
        self: &Arc<Self>,
        from: &Arc<Self>,
        copy: CopyRange,
    ) -> Result<u64, FsError> {
        if from.ino != self.ino {
            // Its gate is not needed: what is written there meanwhile may or may not be copied.
            from.flush(false).await;
        }
        let mutation = Mutation::CopyRange {
            from: from.ino,
            from_offset: copy.from_offset,
            to: self.ino,
            to_offset: copy.to_offset,
            length: copy.length,
            kill_suidgid: copy.kill_suidgid,
        };
        let (_, bytes) = self
            .change(windows(copy.to_offset, copy.length), mutation, |reply| match reply {
                MutationReply::Copied { bytes, attr } => Some((attr, bytes)),
                _ => None,
            })
            .await?;
        if from.ino != self.ino {
            self.shared.unsynced.share(from.ino, self.ino);
            self.shared.unsynced.copied(self.ino, copy.to_offset..copy.to_offset.saturating_add(bytes));
        }
        Ok(bytes)
    }

    /// Commits what is dirty, unless only the order matters, makes the change, and forgets the layout of the windows that it touches.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        windows: Range<u64>,
        mutation: Mutation,
        parse: fn(MutationReply) -> Option<(Attr, T)>,
    ) -> Result<(Attr, T), FsError> {
        let inode = Arc::clone(self);
        let task = async move {
            let _gate = Arc::clone(&inode.gate).write_owned().await;
            inode.state().check_locks()?;
            let stays = match &mutation {
                Mutation::SetAttr { set, .. } => inode.state().set_attributes(set),
                _ => false,
            };
            if !stays {
                inode.flush(false).await;
            }
            let reply = result_of(inode.shared.meta.mutate(mutation).await)?;
            let (attr, value) = parse(reply).ok_or_else(unexpected)?;
            let mut state = inode.state();
            state.changed(&attr, windows);
            Ok((state.overlaid(), value))
        };
        self.shared.runtime.spawn(task).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a change failed");
            Err(FsError::Io)
        })
    }
}

fn windows(offset: u64, length: u64) -> Range<u64> {
    offset / CHUNK_SIZE..offset.saturating_add(length).div_ceil(CHUNK_SIZE)
}

fn only_attr(reply: MutationReply) -> Option<(Attr, ())> {
    match reply {
        MutationReply::Attr(attr) => Some((attr, ())),
        _ => None,
    }
}

fn attr_of(result: Result<MutationReply, MutateError>) -> Result<Attr, FsError> {
    match result_of(result)? {
        MutationReply::Attr(attr) => Ok(attr),
        _ => Err(unexpected()),
    }
}

fn result_of(result: Result<MutationReply, MutateError>) -> Result<MutationReply, FsError> {
    result.map_err(|error| match error {
        MutateError::Fs(error) => error,
        MutateError::RewriteChunk { .. } | MutateError::WindowChanged | MutateError::Fenced => unexpected(),
    })
}

fn unexpected() -> FsError {
    tracing::error!("the NameNode answers a change with something else");
    FsError::Io
}
