//! The end of a chunk file.
//!
//! ```text
//! offset          bytes  what
//! 0               L      the chunk's data, L from 1 to 2 MiB
//! L               4 n    CRC32C of each block of 64 KiB, n = ceil(L / 64 KiB)
//! L + 4 n         8      chunk id
//! L + 4 n +  8    32     SHA-256 of the data
//! L + 4 n + 40    4      L
//! L + 4 n + 44    4      format version, now 1
//! L + 4 n + 48    4      CRC32C of the trailer up to here
//! L + 4 n + 52    8      "QRYCHUNK"
//! ```
//!
//! All numbers are little-endian. The data comes first so that a passed descriptor can be read in place, and the size
//! of the file alone gives L, so that the index can be rebuilt from directories. The last 16 bytes keep their place in
//! every future version, so that an older program can tell a newer file from a torn one.

use quarry_common::checksum::crc32c;
use quarry_common::ids::ChunkId;
use quarry_common::limits::{BLOCK_SIZE, BLOCKS_PER_CHUNK, CHUNK_SIZE};

/// The format that this program writes, and the only one that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Versions up to here are taken for real; what is above is damage.
const FORMAT_VERSION_MAX: u32 = 255;
const MAGIC: &[u8; 8] = b"QRYCHUNK";
/// Without the block CRCs.
const FIXED: u64 = 60;
/// Version, CRC, magic.
const TAIL: usize = 16;
/// The largest trailer.
pub(crate) const TRAILER_MAX: u64 = FIXED + 4 * BLOCKS_PER_CHUNK as u64;

/// What a chunk file says about its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) id: ChunkId,
    /// 1 to 2 MiB.
    pub(crate) length: u32,
    pub(crate) sha256: [u8; 32],
    /// One for each block.
    pub(crate) block_crcs: Vec<u32>,
}

/// Why a trailer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrailerError {
    #[error("{0}")]
    Damaged(String),
    #[error("its format version is {0}, this program knows up to {FORMAT_VERSION}: update Quarry")]
    Newer(u32),
}

/// Blocks of so many bytes of data.
pub(crate) fn blocks(length: u32) -> usize {
    u64::from(length).div_ceil(BLOCK_SIZE) as usize
}

/// Whether a chunk may have this length.
pub(crate) fn length_fits(length: u32) -> bool {
    (1..=CHUNK_SIZE).contains(&u64::from(length))
}

/// Bytes of a trailer behind so many bytes of data.
pub(crate) fn trailer_size(length: u32) -> u64 {
    FIXED + 4 * blocks(length) as u64
}

/// Bytes of the file of a chunk.
pub(crate) fn file_size(length: u32) -> u64 {
    u64::from(length) + trailer_size(length)
}

/// The length of the chunk in a file of this size, if any chunk file can have it.
pub(crate) fn length_in(file_size: u64) -> Option<u32> {
    let payload = file_size.checked_sub(FIXED)?;
    let crcs = 4 * payload.div_ceil(BLOCK_SIZE + 4);
    let length = u32::try_from(payload.checked_sub(crcs)?).ok()?;
    (length_fits(length) && self::file_size(length) == file_size).then_some(length)
}

impl Trailer {
    /// As it is written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(trailer_size(self.length) as usize);
        for crc in &self.block_crcs {
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.sha256);
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.extend_from_slice(MAGIC);
        out
    }

    /// Reads the trailer that belongs to chunk `id`, whose length follows from the size of the file.
    ///
    /// # Errors
    /// When it is damaged, belongs to another chunk, or a newer program wrote it.
    pub(crate) fn decode(bytes: &[u8], id: ChunkId, length: u32) -> Result<Self, TrailerError> {
        let damaged = |what: &str| Err(TrailerError::Damaged(what.to_owned()));
        Self::check_version(bytes)?;
        if bytes.len() as u64 != trailer_size(length) {
            return damaged("the trailer has the wrong size");
        }
        let (body, tail) = bytes.split_at(bytes.len() - TAIL + 4);
        if crc32c(body) != number(tail, 0) {
            return damaged("the trailer does not match its checksum");
        }
        let crcs = 4 * blocks(length);
        let trailer = Self {
            id: ChunkId(u64::from(number(body, crcs)) | u64::from(number(body, crcs + 4)) << 32),
            length: number(body, crcs + 40),
            sha256: body[crcs + 8..crcs + 40].try_into().expect("the range has 32 bytes"),
            block_crcs: (0..blocks(length)).map(|i| number(body, 4 * i)).collect(),
        };
        if trailer.id != id {
            return damaged(&format!("the file is that of chunk {}", trailer.id));
        }
        if trailer.length != length {
            return damaged("the trailer has another length than the file");
        }
        Ok(trailer)
    }

    /// Finds out from the last bytes of a file whether a newer program wrote it.
    ///
    /// # Errors
    /// `Newer` if so, `Damaged` when it is no chunk file at all.
    pub(crate) fn check_version(end: &[u8]) -> Result<(), TrailerError> {
        let damaged = |what: &str| Err(TrailerError::Damaged(what.to_owned()));
        let Some(tail) = end.len().checked_sub(TAIL).map(|at| &end[at..]) else {
            return damaged("the file is too short");
        };
        if &tail[8..] != MAGIC {
            return damaged("the trailer is missing");
        }
        match number(tail, 0) {
            FORMAT_VERSION => Ok(()),
            newer @ 2..=FORMAT_VERSION_MAX => Err(TrailerError::Newer(newer)),
            _ => damaged("the trailer has an impossible version"),
        }
    }
}

/// The four bytes at `at`, which the caller knows to be there.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the range has 4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trailer(length: u32) -> Trailer {
        Trailer {
            id: ChunkId(77 << 44 | 5),
            length,
            sha256: [9; 32],
            block_crcs: (0..blocks(length) as u32).collect(),
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = trailer(10).encode();
        let at = bytes.len() - TAIL;
        bytes[at] = 2;
        assert_eq!(Trailer::decode(&bytes, ChunkId(77 << 44 | 5), 10), Err(TrailerError::Newer(2)));
        bytes[at + 3] = 2;
        assert!(matches!(Trailer::check_version(&bytes), Err(TrailerError::Damaged(_))));
        assert!(matches!(
            Trailer::decode(&trailer(10).encode(), ChunkId(1), 10),
            Err(TrailerError::Damaged(why)) if why.contains("that of chunk")
        ));
    }

    proptest! {
        #[test]
        fn comes_back_and_shows_every_flipped_bit(length in 1..=CHUNK_SIZE as u32, at: prop::sample::Index, bit in 0..8u8) {
            let wanted = trailer(length);
            let mut bytes = wanted.encode();
            prop_assert_eq!(bytes.len() as u64, trailer_size(length));
            prop_assert_eq!(Trailer::decode(&bytes, wanted.id, length), Ok(wanted.clone()));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Trailer::decode(&bytes, wanted.id, length).is_err());
        }

        #[test]
        fn the_size_gives_the_length(length in 1..=CHUNK_SIZE as u32) {
            prop_assert_eq!(length_in(file_size(length)), Some(length));
        }

        #[test]
        fn no_other_size_passes(size in 0..=CHUNK_SIZE + 1000) {
            if let Some(length) = length_in(size) {
                prop_assert_eq!(file_size(length), size);
            }
        }

        #[test]
        fn bytes_from_a_disk_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0..=CHUNK_SIZE as u32 + 9) {
            let _ = Trailer::decode(&bytes, ChunkId(1), length);
        }
    }
}
