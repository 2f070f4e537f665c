//! The two small files beside the segments: raft's vote, and what was purged.
//!
//! ```text
//!  0  magic "QUARRYLM"      8
//!  8  format version        4
//! 12  CRC32C of the payload 4
//! 16  length of the payload 4
//! 20  payload, postcard
//! ```

use crate::LogError;
use crate::directory::Directory;
use crate::format::VERSION;
use crate::raft_types::{RaftLogId, RaftStoredMembership, RaftVote};
use quarry_common::checksum::crc32c;
use serde::{Deserialize, Serialize};

/// The file with raft's vote.
pub(crate) const VOTE: &str = "vote";
/// The file that says what was purged.
pub(crate) const PURGED: &str = "purged";

const MAGIC: &[u8; 8] = b"QUARRYLM";
const HEADER: usize = 20;
/// No such file is larger: a membership has a few dozen bytes.
const LENGTH_MAX: u64 = 64 << 10;

/// What was purged: everything up to `last`, when `membership` was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purged {
    pub(crate) last: RaftLogId,
    pub(crate) membership: RaftStoredMembership,
}

/// The vote as the content of its file.
pub(crate) fn encode_vote(vote: &RaftVote) -> Vec<u8> {
    encode(vote)
}

/// The purge as the content of its file.
pub(crate) fn encode_purged(purged: &Purged) -> Vec<u8> {
    encode(purged)
}

/// The vote in its file.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<RaftVote, LogError> {
    decode(VOTE, bytes)
}

/// The purge in its file.
pub(crate) fn decode_purged(bytes: &[u8]) -> Result<Purged, LogError> {
    decode(PURGED, bytes)
}

/// Replaces the file: after a crash it has its old content or the new one.
pub(crate) fn replace(disk: &Directory, name: &str, content: &[u8]) -> Result<(), LogError> {
    disk.replace(name, content).map_err(LogError::io("replace", name))
}

/// The content of the file.
pub(crate) fn read(disk: &Directory, name: &str) -> Result<Vec<u8>, LogError> {
    let file = disk.open_file(name).map_err(LogError::io("open", name))?;
    let length = file.length().map_err(LogError::io("stat", name))?;
    if length > LENGTH_MAX {
        return Err(LogError::damaged(name, LENGTH_MAX, "far too long"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(0, &mut bytes).map_err(LogError::io("read", name))?;
    Ok(bytes)
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    let payload = postcard::to_stdvec(value).expect("numbers and their collections can always be encoded");
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

fn decode<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, LogError> {
    let damaged = |offset, what| Err(LogError::damaged(name, offset, what));
    let Some((header, payload)) = bytes.split_at_checked(HEADER) else {
        return damaged(bytes.len() as u64, "shorter than its header");
    };
    if &header[..8] != MAGIC {
        return damaged(0, "not a file of a log");
    }
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    match number(8) {
        0 => return damaged(8, "no format version"),
        1..=VERSION => {}
        found => {
            return Err(LogError::FutureVersion { file: name.to_owned(), found, supported: VERSION });
        }
    }
    if number(16) as usize != payload.len() {
        return damaged(16, "not of the length that its header says");
    }
    if crc32c(payload) != number(12) {
        return damaged(HEADER as u64, "checksum");
    }
    match postcard::from_bytes(payload) {
        Ok(value) => Ok(value),
        Err(_) => damaged(HEADER as u64, "cannot be decoded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{RaftMembership, log_id};

    #[test]
    fn both_files_survive_a_round_trip_and_no_flipped_bit() {
        let vote = RaftVote::new_committed(7, 1);
        let members = RaftMembership::new_with_defaults(vec![[1].into()], []);
        let purged = Purged {
            last: log_id(7, 99),
            membership: RaftStoredMembership::new(Some(log_id(0, 0)), members),
        };
        let (a, b) = (encode_vote(&vote), encode_purged(&purged));
        assert_eq!(decode_vote(&a).unwrap(), vote);
        assert_eq!(decode_purged(&b).unwrap(), purged);
        for bit in 0..a.len() * 8 {
            let mut flipped = a.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_vote(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..b.len() {
            assert!(decode_purged(&b[..end]).is_err());
        }
    }
}
