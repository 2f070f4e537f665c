//! Opening files.

use super::FileSystem;
use crate::cache::PageRead;
use crate::error::MutateError;
use crate::error::unexpected;
use crate::file::{OpenFile, OpenMode};
use bytes::Bytes;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{
    Attr, Caller, FileKind, Mutation, MutationReply, NewNode, Query, QueryReply, SetAttr,
};
use std::sync::Arc;

/// Data for the kernel's page cache. Dropped when the kernel has them: unless a lease covers them, it is told to forget them.
pub struct PagesRead {
    /// The bytes.
    pub data: Bytes,
    _read: PageRead,
}

impl FileSystem {
    /// Reads pages for the kernel, which has them locked until the answer is dropped.
    ///
    /// # Errors
    /// Those of [`OpenFile::read`].
    pub async fn read_pages(&self, file: &OpenFile, offset: u64, size: u32) -> Result<PagesRead, FsError> {
        let cache = &self.0.cache;
        let read = PageRead::new(cache, file.ino(), offset..offset.saturating_add(size.into()));
        let covered = cache.is_leased(file.ino());
        let mut data = file.read(offset, size).await?;
        if covered && !cache.is_leased(file.ino()) {
            // A recall has gone around these pages: they must not show what was there before it.
            data = file.read(offset, size).await?;
        }
        Ok(PagesRead { data, _read: read })
    }

    /// Opens a file. What any mount had written when it closed the file is seen by the new handle, and the file lives
    /// until the handle is released, also without a name.
    ///
    /// # Errors
    /// `Stale` when it is gone, `IsDir` and `Invalid` when it is no regular file.
    pub async fn open(&self, ino: Ino, mode: OpenMode) -> Result<Arc<OpenFile>, FsError> {
        let opened = self.0.session.opens().enter(ino).await;
        // Counted first: if the lease is recalled from now on, the NameNode learns that the inode is open.
        let attr = match self.0.meta.find(&Query::Attr { ino }) {
            Some(Ok(QueryReply::Attr(attr))) => attr,
            _ => {
                opened.told();
                self.0.meta.open(ino).await?
            }
        };
        match attr.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(FsError::IsDir),
            _ => return Err(FsError::Invalid),
        }
        let file = self.0.files.open(&attr, mode);
        opened.keep();
        if mode.truncate {
            let set = SetAttr { size: Some(0), ..SetAttr::default() };
            self.0.files.setattr(ino, set, true).await?;
        }
        Ok(file)
    }

    /// Makes a file and opens it.
    ///
    /// # Errors
    /// `Exists`, and those of the NameNode.
    pub async fn create_open(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        umask: u16,
        caller: Caller,
        open: OpenMode,
    ) -> Result<(Attr, Arc<OpenFile>), FsError> {
        let node = NewNode::File { open: true };
        let mutation = Mutation::Create { parent, name: name.into(), node, mode, umask, caller };
        let opens = self.0.session.opens().clone();
        let connections = self.0.session.connections();
        let made = self.0.meta.mutate_then(mutation, move |result| match result {
            // Counted here, so that it is closed again if the caller has given up.
            Ok(MutationReply::Attr(attr)) => {
                let opened = opens.enter_new(attr.ino);
                Ok((attr, opened))
            }
            Ok(other) => Err(unexpected(&other)),
            Err(MutateError::Fs(error)) => Err(error),
            Err(other) => Err(unexpected(&other)),
        });
        let (attr, opened) = made.await??;
        if self.0.session.connections() != connections {
            // The NameNode may have restarted between the creation and its answer, and forgotten who opened it.
            self.0.meta.open(attr.ino).await?;
        }
        let file = self.0.files.open(&attr, open);
        opened.keep();
        Ok((attr, file))
    }

    /// copy_file_range(2): copies by reference. Returns how many bytes were copied.
    ///
    /// # Errors
    /// Those of the NameNode; `NotSupported` where the bytes themselves must be copied.
    pub async fn copy_file_range(
        &self,
        from: &OpenFile,
        from_offset: u64,
        to: &OpenFile,
        to_offset: u64,
        length: u64,
        kill_suidgid: bool,
    ) -> Result<u64, FsError> {
        to.copy_from(from, from_offset, to_offset, length, kill_suidgid).await
    }
}
