//! The bytes of a segment file.
//!
//! All numbers are little-endian.
//!
//! ```text
//! segment file         page 0: header     0  magic "QUARRYLG"      8
//!                                         8  format version        4
//!                                        12  CRC32C of the page    4   with this field as zeros
//!                                        16  segment number        8
//!                                        24  nonce                 8   random, new whenever the file is used again
//!                                        32  NameNode              8
//!                                        40  length of the file    8
//!                                        48  zeros
//!                      then frames, each from the start of a page, zeros between them
//!
//! frame                                   0  magic "QFRM"          4
//!                                         4  CRC32C of nonce and this header   4   with this field as zeros
//!                                         8  sequence              8   one more than the frame before
//!                                        16  length of the records 4
//!                                        20  number of records     4
//!                                        24  CRC32C of the records 4
//!                                        28  zeros                 4
//!                                        32  records
//!
//! record                                  0  CRC32C of all that follows   4
//!                                         4  length of the payload 4
//!                                         8  index                 8
//!                                        16  term                  8
//!                                        24  kind                  1   1 blank, 2 entry, 3 membership, 4 truncation
//!                                        25  zeros                 7
//!                                        32  payload
//! ```
//!
//! Three checksums have three uses: the frame header's tells frames of this life of the file from those of an earlier one
//! and from payload that looks like a frame; the one of all records tells a whole frame from one mixed of two writes that a
//! crash cut short; the record's own serves those who read one entry.

use quarry_common::checksum::crc32c;

/// Frames start at multiples of this: what disks and page cache write as one.
pub(crate) const PAGE: usize = 4096;
/// Newest format version that is read, and the one that is written.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 32;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: usize = 32;

const SEGMENT_MAGIC: &[u8; 8] = b"QUARRYLG";
const FRAME_MAGIC: &[u8; 4] = b"QFRM";

/// The first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u64,
    pub(crate) nonce: u64,
    pub(crate) node: u64,
    pub(crate) length: u64,
}

/// Why a header was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged(&'static str),
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(SEGMENT_MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[16..24].copy_from_slice(&self.number.to_le_bytes());
        page[24..32].copy_from_slice(&self.nonce.to_le_bytes());
        page[32..40].copy_from_slice(&self.node.to_le_bytes());
        page[40..48].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32c(&page);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        page
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        let Some(page) = page.first_chunk::<PAGE>() else {
            return Err(HeaderError::Damaged("shorter than its header"));
        };
        if &page[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Damaged("not a segment of a log"));
        }
        // The version comes before the checksum: a later format may place everything else differently.
        match u32_at(page, 8) {
            0 => return Err(HeaderError::Damaged("no format version")),
            1..=VERSION => {}
            newer => return Err(HeaderError::Version(newer)),
        }
        let mut blank = *page;
        blank[12..16].fill(0);
        if crc32c(&blank) != u32_at(page, 12) {
            return Err(HeaderError::Damaged("checksum of the header"));
        }
        Ok(Self {
            number: u64_at(page, 16),
            nonce: u64_at(page, 24),
            node: u64_at(page, 32),
            length: u64_at(page, 40),
        })
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) sequence: u64,
    pub(crate) length: u32,
    pub(crate) records: u32,
    pub(crate) crc: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self, nonce: u64) -> [u8; FRAME_HEADER] {
        let mut header = [0; FRAME_HEADER];
        header[..4].copy_from_slice(FRAME_MAGIC);
        header[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        header[16..20].copy_from_slice(&self.length.to_le_bytes());
        header[20..24].copy_from_slice(&self.records.to_le_bytes());
        header[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let crc = header_crc(nonce, &header);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The header at the start of `bytes`, if there is a sound one of this life of the file.
    pub(crate) fn decode(bytes: &[u8], nonce: u64) -> Option<Self> {
        let header = bytes.first_chunk::<FRAME_HEADER>()?;
        if &header[..4] != FRAME_MAGIC {
            return None;
        }
        let mut blank = *header;
        blank[4..8].fill(0);
        if header_crc(nonce, &blank) != u32_at(header, 4) {
            return None;
        }
        Some(Self {
            sequence: u64_at(header, 8),
            length: u32_at(header, 16),
            records: u32_at(header, 20),
            crc: u32_at(header, 24),
        })
    }

    /// Bytes that the frame takes in the file, up to the next page.
    pub(crate) fn span(&self) -> u64 {
        (FRAME_HEADER as u64 + u64::from(self.length)).next_multiple_of(PAGE as u64)
    }
}

fn header_crc(nonce: u64, header: &[u8; FRAME_HEADER]) -> u32 {
    let mut covered = [0; 8 + FRAME_HEADER];
    covered[..8].copy_from_slice(&nonce.to_le_bytes());
    covered[8..].copy_from_slice(header);
    crc32c(&covered)
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Raft's own entry with no content.
    Blank,
    /// An entry that was proposed.
    Entry,
    /// Raft's own entry with the members of the group.
    Membership,
    /// Not an entry: all entries from its index on are void.
    Truncation,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Blank => 1,
            Self::Entry => 2,
            Self::Membership => 3,
            Self::Truncation => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Blank, Self::Entry, Self::Membership, Self::Truncation]
            .into_iter()
            .find(|k| k.number() == number)
    }
}

/// A record, borrowed from where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Bytes of the record in a frame.
    pub(crate) fn size(&self) -> usize {
        RECORD_HEADER + self.payload.len()
    }

    /// Appends the record to `buffer`.
    ///
    /// # Panics
    /// When the payload is 4 GiB or larger: proposals are limited far below.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let length = u32::try_from(self.payload.len()).expect("entries are limited to a few MiB");
        let mut header = [0; RECORD_HEADER];
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..16].copy_from_slice(&self.index.to_le_bytes());
        header[16..24].copy_from_slice(&self.term.to_le_bytes());
        header[24] = self.kind.number();
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(self.payload);
        let crc = crc32c(&buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The record at the start of `bytes`, or what is wrong with it.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let header = bytes.first_chunk::<RECORD_HEADER>().ok_or("a record ends within its header")?;
        let end = RECORD_HEADER.saturating_add(u32_at(header, 4) as usize);
        let record = bytes.get(..end).ok_or("a record ends within its payload")?;
        if crc32c(&record[4..]) != u32_at(header, 0) {
            return Err("checksum of a record");
        }
        let kind = Kind::from_number(header[24]).ok_or("a record of unknown kind")?;
        Ok(Self {
            kind,
            index: u64_at(header, 8),
            term: u64_at(header, 16),
            payload: &record[RECORD_HEADER..],
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_survive_a_round_trip_and_no_flipped_bit() {
        let segment = SegmentHeader { number: 7, nonce: 99, node: 1, length: 1 << 20 };
        let page = segment.encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(segment));
        for bit in 0..PAGE * 8 {
            let mut flipped = page;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        let frame = FrameHeader { sequence: 3, length: 5000, records: 2, crc: 17 };
        let bytes = frame.encode(99);
        assert_eq!(FrameHeader::decode(&bytes, 99), Some(frame));
        assert_eq!(FrameHeader::decode(&bytes, 98), None, "a frame of an earlier life of the file");
        assert_eq!(frame.span(), 8192);
        for bit in 0..FRAME_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&flipped, 99), None, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut page = SegmentHeader { number: 7, nonce: 99, node: 1, length: 1 << 20 }.encode();
        page[8] = 2;
        assert_eq!(SegmentHeader::decode(&page), Err(HeaderError::Version(2)));
    }

    proptest! {
        #[test]
        fn records_survive_a_round_trip(index: u64, term: u64, payload: Vec<u8>, tail: Vec<u8>) {
            let record = Record { kind: Kind::Entry, index, term, payload: &payload };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), record.size());
            bytes.extend_from_slice(&tail);
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
        }

        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes: Vec<u8>) {
            let _ = Record::decode(&bytes);
            let _ = FrameHeader::decode(&bytes, 0);
            let _ = SegmentHeader::decode(&bytes);
        }
    }
}
