//! Reading and checking chunks.

use super::Store;
use super::claims::Claim;
use super::error::StoreError;
use super::health::{Verdict, judge};
use super::index::Place;
use super::trailer::{Trailer, TrailerError, trailer_size};
use bytes::Bytes;
use quarry_common::checksum::{first_bad_block, sha256};
use quarry_common::ids::ChunkId;
use quarry_common::limits::BLOCK_SIZE;
use quarry_host::disk::DiskFile;
use std::io;
use std::sync::atomic::Ordering;

/// A part of a chunk, whole blocks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) offset: u32,
    pub(crate) block_crcs: Vec<u32>,
    pub(crate) data: Bytes,
}

/// Why a file could not be read.
enum Failure {
    /// What is in it, or that the disk cannot say what is in it.
    Content(String),
    Newer(String),
    Io(io::Error),
}

impl From<TrailerError> for Failure {
    fn from(error: TrailerError) -> Self {
        match error {
            TrailerError::Damaged(why) => Self::Content(why),
            TrailerError::Newer(_) => Self::Newer(error.to_string()),
        }
    }
}

impl Store {
    /// Reads a range, widened to whole blocks, and checks their CRCs: that costs a fiftieth of sending them, and rot is
    /// found where it can be dealt with. The reader checks again, for what happens on the way.
    ///
    /// # Errors
    /// `NotFound`, or `Rotten` after the chunk was moved to quarantine.
    pub(crate) fn read(&self, id: ChunkId, offset: u32, length: u32) -> Result<Range, StoreError> {
        let place = self.place(id)?;
        self.judged(id, place, |file| {
            let block = BLOCK_SIZE as u32;
            let start = offset / block * block;
            let end = u64::from(offset.saturating_add(length)).next_multiple_of(BLOCK_SIZE);
            let end = end.min(u64::from(place.length)) as u32;
            let range = read_range(file, id, place, start.min(end), end)?;
            check_blocks(&range)?;
            Ok(range)
        })
    }

    /// Reads a whole chunk from the disk and checks everything; gives its size.
    ///
    /// # Errors
    /// `NotFound`, or `Rotten` after the chunk was moved to quarantine.
    pub(crate) fn verify(&self, id: ChunkId) -> Result<u32, StoreError> {
        let place = self.place(id)?;
        self.judged(id, place, |file| {
            file.drop_cache();
            let (trailer, data) = read_whole(file, id, place)?;
            file.drop_cache();
            check_blocks(&Range { offset: 0, block_crcs: trailer.block_crcs, data: data.clone() })?;
            if sha256(&data) != trailer.sha256 {
                return Err(Failure::Content("SHA-256 does not match".into()));
            }
            Ok(place.length)
        })
    }

    /// The same, counted for the status.
    pub(crate) fn scrub(&self, id: ChunkId) -> Result<u32, StoreError> {
        let length = self.verify(id)?;
        self.scrubbed.fetch_add(1, Ordering::Relaxed);
        Ok(length)
    }

    fn place(&self, id: ChunkId) -> Result<Place, StoreError> {
        self.index().place(id).ok_or(StoreError::NotFound(id))
    }

    /// The trailer of a chunk that the caller has claimed, so that nothing is moved here.
    pub(super) fn trailer(&self, id: ChunkId, place: Place) -> Result<Trailer, StoreError> {
        let dir = &self.dirs[usize::from(place.dir)];
        let read = dir.open_chunk(id).map_err(from_io).and_then(|file| {
            let bytes =
                file.read(place.length.into(), trailer_size(place.length) as usize).map_err(from_io)?;
            Ok(Trailer::decode(&bytes, id, place.length)?)
        });
        read.map_err(|failure| failure.into_error(id))
    }

    /// Opens a chunk, reads from it, and deals with what is wrong.
    fn judged<T>(
        &self,
        id: ChunkId,
        place: Place,
        read: impl FnOnce(&dyn DiskFile) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let dir = &self.dirs[usize::from(place.dir)];
        let failed = |e: io::Error| {
            if judge(&e) == Verdict::Broken && dir.health.read_failed(&e) {
                self.give_up(place.dir);
            }
            from_io(e)
        };
        let outcome = match dir.open_chunk(id) {
            Ok(file) => read(file.as_ref()).map_err(|f| match f {
                Failure::Io(e) => failed(e),
                other => other,
            }),
            Err(e) => Err(failed(e)),
        };
        let failure = match outcome {
            Ok(value) => {
                dir.health.read_succeeded();
                return Ok(value);
            }
            Err(failure) => failure,
        };
        if let Failure::Content(why) = &failure {
            let claim: Claim<'_> = self.claims.take(id);
            // A chunk that was deleted while we read is not rotten.
            if self.index().place(id) != Some(place) {
                return Err(StoreError::NotFound(id));
            }
            self.quarantine(&claim, why);
        }
        Err(failure.into_error(id))
    }
}

impl Failure {
    fn into_error(self, id: ChunkId) -> StoreError {
        match self {
            Self::Content(why) => StoreError::Rotten { id, why },
            Self::Newer(why) => StoreError::Newer { id, why },
            Self::Io(source) => StoreError::Io { what: format!("cannot read chunk {id}"), source },
        }
    }
}

/// A file that is missing, too short or on bad sectors has the wrong content; other errors say nothing about it.
fn from_io(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::Content("the file is missing".into()),
        io::ErrorKind::UnexpectedEof => Failure::Content("the file is too short".into()),
        _ if judge(&error) == Verdict::Broken => Failure::Content(error.to_string()),
        _ => Failure::Io(error),
    }
}

fn read_whole(file: &dyn DiskFile, id: ChunkId, place: Place) -> Result<(Trailer, Bytes), Failure> {
    let size = u64::from(place.length) + trailer_size(place.length);
    let mut bytes = Bytes::from(file.read(0, size as usize).map_err(Failure::Io)?);
    let trailer = Trailer::decode(&bytes.split_off(place.length as usize), id, place.length)?;
    Ok((trailer, bytes))
}

fn read_range(
    file: &dyn DiskFile,
    id: ChunkId,
    place: Place,
    start: u32,
    end: u32,
) -> Result<Range, Failure> {
    let (trailer, data) = if start == 0 && end == place.length {
        read_whole(file, id, place)?
    } else {
        let trailer =
            file.read(place.length.into(), trailer_size(place.length) as usize).map_err(Failure::Io)?;
        let trailer = Trailer::decode(&trailer, id, place.length)?;
        (trailer, file.read(start.into(), (end - start) as usize).map_err(Failure::Io)?.into())
    };
    let block = |at: u32| u64::from(at).div_ceil(BLOCK_SIZE) as usize;
    Ok(Range { offset: start, block_crcs: trailer.block_crcs[block(start)..block(end)].to_vec(), data })
}

fn check_blocks(range: &Range) -> Result<(), Failure> {
    match first_bad_block(&range.data, &range.block_crcs) {
        None => Ok(()),
        Some(number) => {
            let at = u64::from(range.offset) + number as u64 * BLOCK_SIZE;
            Err(Failure::Content(format!("the block at {at} does not match its CRC")))
        }
    }
}
