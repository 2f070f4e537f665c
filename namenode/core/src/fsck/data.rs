//! The windows of files, chunks, the delete queue.

use super::Fsck;
use crate::base::BaseError;
use crate::health::mix;
use crate::records::{ChunkRecord, Content, FileContent, WindowRecord};
use crate::tables::{ChunkKey, CursorKey, GroupKey, InodeKey, OwnerKey, RetiredKey, WindowKey};
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, SLICES_MAX};
use quarry_common::slices;
use quarry_common::wire::fs::Slice;

/// The file whose windows pass by.
pub(super) struct File {
    /// The number of its windows.
    data: Ino,
    /// Its own.
    ino: Ino,
    /// `None`: no file has the windows.
    content: Option<FileContent>,
    allocated: u64,
}

impl Fsck {
    /// Whose windows are under a number: that file's, unless the table of owners names another.
    fn owner(&self, data: Ino) -> Result<Ino, BaseError> {
        Ok(self.row(&OwnerKey(data))?.unwrap_or(data))
    }

    /// A file says where its windows are; that must be its place.
    pub(super) fn place(&mut self, ino: Ino, data: Ino) -> Result<(), BaseError> {
        let owner = self.owner(data)?;
        if owner != ino {
            self.of_inode(ino, format!("its data are under the number {data}, which is inode {owner}'s"));
        }
        Ok(())
    }

    /// A row of the table of owners.
    pub(super) fn owned(&mut self, data: Ino, owner: Ino) -> Result<(), BaseError> {
        if self.file_at(owner, data)?.is_none() {
            self.of_inode(owner, format!("it should have its data under the number {data}"));
        }
        Ok(())
    }

    /// A row of the table of files with erased windows.
    pub(super) fn erased(&mut self, ino: Ino) -> Result<(), BaseError> {
        let inode = self.row(&InodeKey(ino))?;
        if !inode.is_some_and(|i| matches!(i.content, Content::File(file) if file.erased.is_some())) {
            self.of_inode(ino, "it is listed with erased windows and has none".to_owned());
        }
        Ok(())
    }

    fn file_at(&self, ino: Ino, data: Ino) -> Result<Option<FileContent>, BaseError> {
        Ok(match self.row(&InodeKey(ino))?.map(|inode| inode.content) {
            Some(Content::File(file)) if file.data == data => Some(file),
            _ => None,
        })
    }

    fn open_file(&mut self, data: Ino) -> Result<(), BaseError> {
        let ino = self.owner(data)?;
        let content = self.file_at(ino, data)?;
        if content.is_none() {
            self.of_inode(
                ino,
                format!("there are data of this file under the number {data}, and it has none there"),
            );
        }
        self.file = Some(File { data, ino, content, allocated: 0 });
        Ok(())
    }

    pub(super) fn window(&mut self, key: WindowKey, window: &WindowRecord) -> Result<(), BaseError> {
        if self.file.as_ref().is_none_or(|f| f.data != key.data) {
            self.finish_file();
            self.open_file(key.data)?;
        }
        let (ino, content) = self.file.as_ref().map_or((key.data, None), |f| (f.ino, f.content));
        let layout = content.map_or(u64::MAX, |c| c.layout);
        if window.slices.is_empty() || window.slices.len() > SLICES_MAX || window.version > layout {
            let (count, version) = (window.slices.len(), window.version);
            self.of_inode(ino, format!("window {} has {count} slices and the version {version}", key.index));
        }
        for slice in &window.slices {
            if slices::is_sound(slice) {
                let is_erased = content.is_some_and(|c| c.has_erased(key.index, window.version));
                let size = content.filter(|_| !is_erased).map_or(u64::MAX, |c| c.size);
                self.slice(ino, key.index, slice, size)?;
            } else {
                self.of_inode(ino, format!("window {}: {slice:?} does not fit into it", key.index));
            }
        }
        if window.slices.iter().all(slices::is_sound) {
            let data: u64 = slices::visible(&window.slices).iter().map(|s| u64::from(s.length)).sum();
            self.usage.allocated += data;
            if let Some(file) = &mut self.file {
                file.allocated += data;
            }
        }
        Ok(())
    }

    fn slice(&mut self, ino: Ino, index: WindowIndex, slice: &Slice, size: u64) -> Result<(), BaseError> {
        let Some(id) = slice.chunk else { return Ok(()) };
        self.references = self.references.wrapping_sub(mix(id.0));
        match self.row(&ChunkKey(id))? {
            None => {
                self.problem(Some(ino), Some(id), format!("window {index} names a chunk without a record"));
            }
            Some(record) if slice.chunk_offset + slice.length > record.length => {
                let what = format!("window {index}: {slice:?} of {} bytes", record.length);
                self.problem(Some(ino), Some(id), what);
            }
            Some(_) => {}
        }
        let start = index.0.checked_mul(CHUNK_SIZE);
        let end = start.and_then(|start| start.checked_add(u64::from(slice.position + slice.length)));
        if end.is_none_or(|end| end > size) {
            self.of_inode(ino, format!("window {index}: {slice:?} is beyond its {size} bytes"));
        }
        Ok(())
    }

    pub(super) fn finish_file(&mut self) {
        let Some(File { ino, content: Some(content), allocated, .. }) = self.file.take() else { return };
        if content.allocated != allocated {
            self.of_inode(ino, format!("it says {} bytes of data and has {allocated}", content.allocated));
        }
    }

    pub(super) fn chunk(&mut self, id: ChunkId, record: ChunkRecord) -> Result<(), BaseError> {
        self.counts.chunks += 1;
        self.usage.chunks += 1;
        self.usage.chunk_bytes += u64::from(record.length);
        self.references = self.references.wrapping_add(record.refs.wrapping_mul(mix(id.0)));
        if record.refs == 0 || record.length == 0 || u64::from(record.length) > CHUNK_SIZE {
            self.of_chunk(id, format!("it has {} references and {} bytes", record.refs, record.length));
        }
        if !self.exists(&GroupKey(id.pg()))? {
            self.of_chunk(id, format!("its placement group {} does not exist", id.pg()));
        }
        let next = self.row(&CursorKey(id.pg()))?.unwrap_or_default().next;
        if id.sequence() >= next {
            self.of_chunk(id, format!("the next number of its group is {next}"));
        }
        if self.exists(&RetiredKey(id))? {
            self.of_chunk(id, "files refer to it, and it was retired".to_owned());
        }
        self.found.chunks.push((id, record));
        Ok(())
    }

    pub(super) fn deleting(&mut self, id: ChunkId) -> Result<(), BaseError> {
        self.usage.deleting += 1;
        if self.exists(&ChunkKey(id))? {
            self.of_chunk(id, "files refer to it, and it is to be deleted".to_owned());
        }
        Ok(())
    }
}
