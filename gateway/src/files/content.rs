//! Data of files: streams in both directions, never a whole file in memory.

use super::{EXECUTE, FsPath, READ, Target, UserFs, WRITE};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream as streams};
use quarry_client::{OpenFile, OpenMode};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one read and of one write: half a chunk, so that the client library's read-ahead and buffers see long runs.
pub const COPY_BYTES: usize = 1 << 20;
/// Reads of one download that may be under way: the next ones wait for the network while the first is sent.
const READS_AHEAD: usize = 3;

const READING: OpenMode =
    OpenMode { read: true, write: false, append: false, direct: false, truncate: false };
pub(super) const WRITING: OpenMode =
    OpenMode { read: true, write: true, append: false, direct: false, truncate: false };

/// Where a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From this offset on.
    At(u64),
    /// Behind the last byte, wherever that is when a piece arrives: concurrent appends never overwrite each other.
    End,
}

/// A file that was opened for writing.
pub struct Created {
    /// The open file.
    pub file: Arc<OpenFile>,
    /// Its attributes when it was opened.
    pub attr: Attr,
}

impl UserFs {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `IsDir`, `Invalid` for other kinds, `Access`.
    pub async fn open(&self, path: &FsPath) -> Result<(Attr, Arc<OpenFile>), FsError> {
        let attr = self.stat(path).await?;
        let file = self.open_inode(&attr).await?;
        Ok((file.attr(), file))
    }

    /// The same for an inode whose path has been checked.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_inode(&self, attr: &Attr) -> Result<Arc<OpenFile>, FsError> {
        self.demand(attr, READ).await?;
        self.fs.open(attr.ino, READING).await
    }

    /// Opens an existing regular file for writing.
    ///
    /// # Errors
    /// `IsDir`, `Invalid` for other kinds, `Access`.
    pub async fn open_for_writing(&self, path: &FsPath) -> Result<Created, FsError> {
        let attr = self.stat(path).await?;
        self.demand(&attr, WRITE).await?;
        let file = self.fs.open(attr.ino, WRITING).await?;
        Ok(Created { attr: file.attr(), file })
    }

    /// Makes a new, empty file and opens it.
    ///
    /// # Errors
    /// `Exists`, `Access`.
    pub async fn create(&self, path: &FsPath, mode: u16, umask: u16) -> Result<Created, FsError> {
        let Target { parent, name, attr } = self.target(path).await?;
        if attr.is_some() {
            return Err(FsError::Exists);
        }
        self.create_in(&parent, &name, mode, umask).await
    }

    pub(super) async fn create_in(
        &self,
        parent: &Attr,
        name: &[u8],
        mode: u16,
        umask: u16,
    ) -> Result<Created, FsError> {
        self.demand_dir(parent, WRITE | EXECUTE).await?;
        let made = self.fs.create_open(parent.ino, name, mode, umask, self.who.caller(), WRITING);
        let (attr, file) = made.await?;
        Ok(Created { file, attr })
    }

    /// Writes a stream into a file. Returns the offset behind the last byte; the data is then with the client library, and
    /// [`OpenFile::fsync`] makes it durable.
    ///
    /// # Errors
    /// Those of the stream and of the file.
    pub async fn write_stream<E>(
        &self,
        file: &OpenFile,
        mut place: Place,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, E>
    where
        E: From<FsError>,
    {
        let mut pending = BytesMut::new();
        let mut end = 0;
        futures::pin_mut!(body);
        loop {
            let piece = body.next().await;
            let ended = piece.is_none();
            if let Some(piece) = piece.transpose()? {
                pending.extend_from_slice(&piece);
            }
            while pending.len() >= COPY_BYTES || (ended && !pending.is_empty()) {
                let full = pending.split_to(pending.len().min(COPY_BYTES)).freeze();
                end = self.write_piece(file, &mut place, full).await?;
            }
            if ended {
                return Ok(end);
            }
            if pending.capacity() < COPY_BYTES {
                pending.reserve(2 * COPY_BYTES);
            }
        }
    }

    /// Returns the offset behind the piece.
    async fn write_piece(&self, file: &OpenFile, place: &mut Place, piece: Bytes) -> Result<u64, FsError> {
        let kill_suidgid = !self.who.is_superuser();
        let length = piece.len() as u64;
        match place {
            Place::At(offset) => {
                file.write(*offset, piece, kill_suidgid).await?;
                *offset += length;
                Ok(*offset)
            }
            Place::End => Ok(file.append(piece, kill_suidgid).await? + length),
        }
    }

    /// Moves the data of the sources, in order, behind that of the target by reference, and removes the sources.
    ///
    /// # Errors
    /// `Invalid` for no sources, for one that is the target or comes twice; `Access`.
    pub async fn concat(&self, target: &FsPath, sources: &[FsPath]) -> Result<(), FsError> {
        let to = self.open_for_writing(target).await?;
        let mut seen = vec![to.attr.ino];
        for source in sources {
            let (parent, _, attr) = self.existing(source).await?;
            self.demand_removal(&parent, &attr).await?;
            self.demand(&attr, READ).await?;
            if attr.kind != FileKind::File || seen.contains(&attr.ino) {
                return Err(FsError::Invalid);
            }
            seen.push(attr.ino);
        }
        if sources.is_empty() {
            return Err(FsError::Invalid);
        }
        for source in sources {
            let (_, from) = self.open(source).await?;
            self.append_file(&from, &to.file).await?;
            to.file.fsync().await?;
            self.remove(source, false).await?;
        }
        Ok(())
    }

    /// Copies a whole file behind another, by reference where the alignment allows it.
    async fn append_file(&self, from: &OpenFile, to: &OpenFile) -> Result<(), FsError> {
        let kill_suidgid = !self.who.is_superuser();
        let (size, base) = (from.attr().size, to.attr().size);
        let mut done = 0;
        while done < size {
            let copied =
                self.fs.copy_file_range(from, done, to, base + done, size - done, kill_suidgid).await;
            done += match copied {
                Ok(0) => break,
                Ok(copied) => copied,
                Err(FsError::NotSupported) => {
                    let data = from.read(done, COPY_BYTES as u32).await?;
                    if data.is_empty() {
                        break;
                    }
                    u64::from(to.write(base + done, data, kill_suidgid).await?)
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

/// The bytes of a range, in order. A file that has become shorter ends the stream with `Io`, since its length was promised.
pub fn stream(file: Arc<OpenFile>, range: Range<u64>) -> impl Stream<Item = Result<Bytes, FsError>> + Send {
    let pieces = (range.start..range.end).step_by(COPY_BYTES).map(move |offset| {
        let file = file.clone();
        let length = (range.end - offset).min(COPY_BYTES as u64) as u32;
        async move {
            let data = file.read(offset, length).await?;
            if data.len() == length as usize { Ok(data) } else { Err(FsError::Io) }
        }
    });
    streams::iter(pieces).buffered(READS_AHEAD)
}
