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
        let range = self.judged(id, place, move |file| {
            let block = BLOCK_SIZE as u32;
            let start = offset / block * block;
            let end = u64::from(offset.saturating_add(length)).next_multiple_of(BLOCK_SIZE);
            let end = end.min(u64::from(place.length)) as u32;
            let range = read_range(file, id, place, start.min(end), end)?;
            check_blocks(&range)?;
            Ok(range)
        })?;
        let volume = &self.volumes[usize::from(place.dir)];
        volume.read_bytes.fetch_add(range.data.len() as u64, Ordering::Relaxed);
        Ok(range)
    }

    /// Reads a whole chunk from the disk and checks everything; gives its size.
    ///
    /// # Errors
    /// `NotFound`, or `Rotten` after the chunk was moved to quarantine.
    pub(crate) fn verify(&self, id: ChunkId) -> Result<u32, StoreError> {
        let place = self.place(id)?;
        self.judged(id, place, move |file| {
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
        let read = self.volumes[usize::from(place.dir)].run(move |dir| {
            dir.open_chunk(id)?.read(place.length.into(), trailer_size(place.length) as usize)
        });
        let trailer = read.map_err(from_io).and_then(|bytes| Ok(Trailer::decode(&bytes, id, place.length)?));
        trailer.map_err(|failure| failure.into_error(id))
    }

    /// Gives a directory up that is gone, or that fails read after read.
    fn read_failed(&self, number: u16, error: &io::Error) {
        let health = &self.volumes[usize::from(number)].health;
        let gone = error.kind() == io::ErrorKind::StaleNetworkFileHandle;
        if gone {
            health.fail(&error.to_string());
        }
        if gone || (judge(error) == Verdict::Broken && health.read_failed(error)) {
            self.give_up(number);
        }
    }

    /// Opens a chunk, reads from it, and deals with what is wrong.
    fn judged<T: Send + 'static>(
        &self,
        id: ChunkId,
        place: Place,
        read: impl FnOnce(&dyn DiskFile) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let volume = &self.volumes[usize::from(place.dir)];
        let outcome = volume.run(move |dir| {
            let read = dir.open_chunk(id).map_err(Failure::Io).and_then(|file| read(file.as_ref()));
            Ok(match read {
                // One file may be missing; when the directory is, all of them are.
                Err(Failure::Io(e)) if e.kind() == io::ErrorKind::NotFound => {
                    Err(Failure::Io(dir.check_identity().err().unwrap_or(e)))
                }
                other => other,
            })
        });
        let failure = match outcome.unwrap_or_else(|e| Err(Failure::Io(e))) {
            Ok(value) => {
                volume.health.read_succeeded();
                return Ok(value);
            }
            Err(Failure::Io(e)) => {
                self.read_failed(place.dir, &e);
                from_io(e)
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
